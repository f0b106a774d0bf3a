"""An ab-initio run's state, to and from its checkpoint."""

from __future__ import annotations

import json

import numpy as np

from protomer.abinitio.loop import State
from protomer.abinitio.structures import Structures
from protomer.running.checkpoints import Checkpoint

EVERY = 8  # steps


def save(state: State, checkpoint: Checkpoint) -> None:
    """Write the state."""
    kept: dict[str, object] = {"at": state.at, "best_score": state.best_score, "history": json.dumps(state.history)}
    for which, structures in (("now", state.now), ("best", state.best)):
        kept |= {f"{which}_{name}": getattr(structures, name) for name in Structures.__dataclass_fields__}
    checkpoint.save(kept)


def load(checkpoint: Checkpoint) -> State | None:
    """The state of the last checkpoint, if there is one; every rank calls this."""
    saved = checkpoint.load()
    if saved is None:
        return None
    now, best = (Structures(*(saved[f"{which}_{name}"] for name in Structures.__dataclass_fields__)) for which in ("now", "best"))
    return State(int(saved["at"]), now, best, float(np.float64(saved["best_score"])), json.loads(saved["history"]))
