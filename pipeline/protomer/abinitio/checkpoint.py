"""An ab-initio run's state, to and from its checkpoint."""

from __future__ import annotations

import json

import numpy as np

from protomer.abinitio.loop import State
from protomer.abinitio.structures import Structures
from protomer.computing.arithmetic import Arithmetic
from protomer.running.checkpoints import Checkpoint

EVERY = 8  # steps
ARRAYS = ("maps", "numerator", "weight")  # of the structures, where they are computed on


def save(state: State, checkpoint: Checkpoint, arithmetic: Arithmetic) -> None:
    """Write the state, whose arrays are where `arithmetic` computes."""
    kept: dict[str, object] = {"at": state.at, "best_score": state.best_score, "history": json.dumps(state.history)}
    for which, structures in (("now", state.now), ("best", state.best)):
        kept |= {f"{which}_{name}": arithmetic.on_host(getattr(structures, name)) for name in ARRAYS}
        kept |= {f"{which}_steps": structures.steps, f"{which}_prior": structures.prior}
    checkpoint.save(kept)


def load(checkpoint: Checkpoint, arithmetic: Arithmetic) -> State | None:
    """The state of the last checkpoint, if there is one; every rank calls this."""
    saved = checkpoint.load()
    if saved is None:
        return None

    def structures(which: str) -> Structures:
        arrays = {name: arithmetic.here(saved[f"{which}_{name}"]) for name in ARRAYS}
        return Structures(steps=int(saved[f"{which}_steps"]), prior=saved[f"{which}_prior"], **arrays)

    now, best = structures("now"), structures("best")
    return State(int(saved["at"]), now, best, float(np.float64(saved["best_score"])), json.loads(saved["history"]))
