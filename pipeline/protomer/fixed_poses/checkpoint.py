"""The standing of a classification at known poses, to and from its checkpoint."""

from __future__ import annotations

import json

import numpy as np

from protomer.computing.arithmetic import Arithmetic
from protomer.fixed_poses.loop import advance
from protomer.fixed_poses.work import Fixed, Standing
from protomer.running.job_run import JobRun

ARRAYS = ("noise", "posterior", "shared", "power", "presence", "prior")


def save(standing: Standing, job: JobRun, arithmetic: Arithmetic) -> None:
    """Checkpoint after a pass."""
    kept = {name: getattr(standing, name) for name in ARRAYS}
    kept |= {"amplitude": standing.amplitude, "done": standing.done, "left": standing.left, "history": json.dumps(standing.history)}
    for k, of_class in enumerate((standing.mean, *standing.apart)):
        kept |= {f"{k}_map_{half}_{fold}": volume for (half, fold), volume in of_class.items()}
    for k, totals in enumerate(standing.totals):
        kept |= {f"{k}_total_{half}_{fold}": arithmetic.on_host(total) for (half, fold), total in totals.items()}
    job.checkpoint.save(kept)


def resume(fixed: Fixed, job: JobRun) -> Standing | None:
    """The standing of the last checkpoint, if there is one."""
    saved = job.checkpoint.load()
    if saved is None:
        return None
    maps = [{(half, fold): saved[f"{k}_map_{half}_{fold}"] for half, fold in fixed.setup.keys} for k in range(fixed.number + 1)]
    here = fixed.setup.arithmetic.here
    totals = tuple({(half, fold): here(saved[f"{k}_total_{half}_{fold}"]) for half, fold in fixed.setup.keys} for k in range(fixed.number)
                   if f"{k}_total_0_0" in saved)
    arrays = {name: saved[name] for name in ARRAYS}
    return Standing(maps[0], tuple(maps[1:]), **arrays, totals=totals,
                    amplitude=float(saved["amplitude"]), done=int(saved["done"]), left=int(saved["left"]),
                    history=json.loads(saved["history"]))


def until_settled(fixed: Fixed, standing: Standing, job: JobRun) -> Standing:
    """Passes until classes are settled; each is told and checkpointed."""
    while standing.left != 0:
        standing = advance(fixed, standing)
        last = standing.history[-1]
        job.events.event("pass", number=last["pass"], online=last["is_online"], fractions=np.round(last["fractions"], 4).tolist(),
                         changed=round(last["changed"], 4), moved=round(last["moved"], 4),
                         mean_best_posterior=round(last["mean_best_posterior"], 4), gain_nats=round(last["gain"], 4))
        save(standing, job, fixed.setup.arithmetic)
    return standing
