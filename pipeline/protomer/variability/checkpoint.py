"""An analysis of variability and its control, to and from the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from protomer.maps.volumes import Halves
from protomer.running.job_run import JobRun
from protomer.variability.work import Standing

RUN, CONTROL = "run", "control"


def save(run: Standing, control: Standing | None, job: JobRun) -> None:
    """Checkpoint after an iteration of either."""
    kept = packed(run, RUN)
    if control is not None:
        kept |= packed(control, CONTROL)
    job.checkpoint.save(kept)


def packed(standing: Standing, name: str) -> dict[str, Any]:
    """What a checkpoint keeps of a standing."""
    return {f"{name}_mean_a": standing.mean.a, f"{name}_mean_b": standing.mean.b, f"{name}_modes_a": standing.modes.a,
            f"{name}_modes_b": standing.modes.b, f"{name}_noise": standing.noise, f"{name}_ratio": standing.ratio,
            f"{name}_scales": np.array(standing.scales), f"{name}_done": standing.done,
            f"{name}_history": np.array([json.dumps(standing.history)])}


def resume(job: JobRun) -> tuple[Standing | None, Standing | None]:
    """Run and control of the last checkpoint, as far as there are any."""
    saved = job.checkpoint.load()
    return (None, None) if saved is None else (unpacked(saved, RUN), unpacked(saved, CONTROL))


def unpacked(saved: Mapping[str, Any], name: str) -> Standing | None:
    """A standing, if the checkpoint has it."""
    if f"{name}_done" not in saved:
        return None
    part = {key.removeprefix(f"{name}_"): value for key, value in saved.items() if key.startswith(f"{name}_")}
    return Standing(Halves(part["mean_a"], part["mean_b"]), Halves(part["modes_a"], part["modes_b"]), part["noise"], part["ratio"],
                    (float(part["scales"][0]), float(part["scales"][1])), int(part["done"]), json.loads(str(part["history"][0])))
