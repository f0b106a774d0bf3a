"""A classification's state, to and from its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protomer.classes.classification import Classes, Mixture, iterate_classes
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.refinement.setup import State
from protomer.running.job_run import JobRun


def save(mixture: Mixture, votes: Sequence[np.ndarray], job: JobRun) -> None:
    """Checkpoint of all classes after an iteration, and the posteriors of the replicates that are done."""
    first = mixture.states[0]
    kept: dict[str, Any] = {f"band_{name}": getattr(first.band, name) for name in Band.__dataclass_fields__}
    kept |= {"noise": first.model.noise, "scale": first.scale, "insertion_radius": first.model.insertion_radius,
             "posterior": mixture.posterior, "prior": mixture.prior, "left": mixture.left, "history": json.dumps(mixture.history)}
    kept |= {f"vote_{n}": vote for n, vote in enumerate(votes)}
    kept |= {f"{k}_decoy": volume for k, volume in mixture.decoys.items()}
    for k, state in enumerate(mixture.states):
        kept |= {f"{k}_{name}": getattr(state.poses, name) for name in PoseTable.__dataclass_fields__}
        kept |= {f"{k}_map_{half}_{fold}": volume for (half, fold), volume in state.model.maps.items()}
        kept |= {f"{k}_agreed": state.agreed, f"{k}_history": json.dumps(state.history)}
    job.checkpoint.save(kept)


def votes_of(saved: Mapping[str, Any] | None) -> list[np.ndarray]:
    """Posteriors (N, K) of the replicates that were done by the last checkpoint."""
    votes: list[np.ndarray] = []
    while saved is not None and f"vote_{len(votes)}" in saved:
        votes.append(saved[f"vote_{len(votes)}"])
    return votes


def resumed(classes: Classes, saved: Mapping[str, Any] | None) -> Mixture | None:
    """The state of the last checkpoint, if there is one of these images."""
    if saved is None or len(saved["posterior"]) != len(classes.setup.particles):
        return None
    setup, band = classes.setup, Band(**{name: saved[f"band_{name}"] for name in Band.__dataclass_fields__})
    states = []
    for k in range(classes.number):
        maps = {(half, fold): saved[f"{k}_map_{half}_{fold}"] for half, fold in setup.keys}
        model = Model(maps, saved["noise"], setup.operators, int(saved["insertion_radius"]))
        poses = PoseTable(*(saved[f"{k}_{name}"] for name in PoseTable.__dataclass_fields__))
        states.append(State(band, model, poses, saved[f"{k}_agreed"], saved["scale"], json.loads(saved[f"{k}_history"])))
    decoys = {k: saved[f"{k}_decoy"] for k in range(classes.number) if f"{k}_decoy" in saved}
    return Mixture(tuple(states), saved["posterior"], saved["prior"], decoys, int(saved["left"]), json.loads(saved["history"]))


def until_settled(classes: Classes, mixture: Mixture, votes: Sequence[np.ndarray], job: JobRun) -> Mixture:
    """Iterate until classes and resolution are settled and the final iterations are done; each is told and checkpointed."""
    while mixture.left != 0:
        mixture = iterate_classes(classes, mixture)
        tell(classes, mixture, job)
        save(mixture, votes, job)
    return mixture


def tell(classes: Classes, mixture: Mixture, job: JobRun) -> None:
    """One line in the log."""
    last, setup = mixture.history[-1], classes.setup
    width_A = setup.store.plane.box * setup.pixel_size_A
    job.events.event(
        "iteration",
        number=last["iteration"],
        images=len(mixture.posterior),
        resolution_A=[round(width_A / max(state.history[-1]["resolved_shell"], 1), 3) for state in mixture.states],
        alignment_A=round(width_A / mixture.states[0].history[-1]["alignment_radius"], 3),
        fractions=np.round(last["fractions"], 4).tolist(),
        changed=round(last["changed"], 4),
        mean_best_posterior=round(last["mean_best_posterior"], 4),
        is_random=last["is_random"],
        searched=sum(state.history[-1]["searched"] for state in mixture.states),
    )
