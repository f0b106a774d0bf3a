"""A refinement's state, to and from its checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict

from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable
from protomer.engine.schedule import Band
from protomer.helical.lattice import Lattice
from protomer.refinement.loop import iterate
from protomer.refinement.outcome import report_iteration
from protomer.refinement.setup import Setup, State
from protomer.running.job_run import JobRun


def save(state: State, job: JobRun) -> None:
    """Checkpoint after an iteration."""
    columns = {name: getattr(state.poses, name) for name in PoseTable.__dataclass_fields__}
    band = {f"band_{name}": getattr(state.band, name) for name in Band.__dataclass_fields__}
    maps = {f"map_{half}_{fold}": volume for (half, fold), volume in state.model.maps.items()}
    job.checkpoint.save(
        {
            **columns,
            **band,
            **maps,
            "noise": state.model.noise,
            "agreed": state.agreed,
            "scale": state.scale,
            "insertion_radius": state.model.insertion_radius,
            "history": json.dumps(state.history),
            "lattice": json.dumps(None if state.lattice is None else asdict(state.lattice)),
        }
    )


def resume(setup: Setup, job: JobRun) -> State | None:
    """The state of the last checkpoint, if there is one."""
    saved = job.checkpoint.load()
    if saved is None:
        return None
    band = Band(**{name: saved[f"band_{name}"] for name in Band.__dataclass_fields__})
    maps = {(half, fold): saved[f"map_{half}_{fold}"] for half, fold in setup.keys}
    model = Model(maps, saved["noise"], setup.operators, int(saved["insertion_radius"]), setup.mates, setup.origin_px)
    poses = PoseTable(*(saved[name] for name in PoseTable.__dataclass_fields__))
    lattice = json.loads(saved["lattice"])
    told = None if lattice is None else Lattice(**lattice)
    return State(band, model, poses, saved["agreed"], saved["scale"], json.loads(saved["history"]), told)


def until_settled(setup: Setup, state: State, extra_passes: int, job: JobRun, told_as: str = "iteration") -> State:
    """Iterate until the refinement is settled, and some more; each iteration is told, and those before it is settled are checkpointed."""
    while not state.band.is_settled:
        state = iterate(setup, state)
        report_iteration(state, setup, job, told_as)
        save(state, job)
    for _ in range(extra_passes):
        state = iterate(setup, state)
        report_iteration(state, setup, job, told_as)
    return state
