"""Steps of ab-initio on a few images, on the CPU or (as a script: FOLDER) on CUDA in a process of its own."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numba import config

from protomer.abinitio import checkpoint, schedule
from protomer.abinitio.frame import Frame
from protomer.abinitio.loop import State, advance, begin
from protomer.abinitio.outcome import final_map
from protomer.abinitio.schedule import Step
from protomer.abinitio.setting_up import AbInitio, unit_batches
from protomer.arithmetic import Arithmetic
from protomer.imaging.images import ImageStore
from protomer.refinement.preparing import surveyed
from protomer.symmetry.operator_sets import OperatorSet
from reconstructions import as_particles, setup_of
from simulated import chain_dataset

BOX, PIXEL_A, NUMBER, CLASSES = 16, 8.0, 4, 2
STEPS = [Step(0, 0, 3, NUMBER, 0.2, True), Step(1, 0, 3, NUMBER, 0.0, is_last_of_start=True)]


class Kept(dict[str, Any]):
    """A checkpoint in memory."""

    def save(self, values: dict[str, Any]) -> None:
        """Keeps arrays of the host alone, as a file does."""
        assert all(type(value) is np.ndarray or isinstance(value, (int, float, str)) for value in values.values())
        self.update(values)

    def load(self) -> dict[str, Any]:
        """What was kept."""
        return self


def narrow_blocks() -> None:
    """Blocks of few threads: each is one of Python's in the simulator."""
    for module in ("ctf", "insertion", "noise", "shells", "slices", "whitening", "grid_scores"):
        mock.patch(f"protomer_kernels.cuda.{module}.THREADS", 8).start()
    equations, newton = (importlib.import_module(f"protomer_kernels.cuda.{name}") for name in ("normal_equations", "newton"))
    for module, name, value in ((equations, "THREADS", 32), (newton, "THREADS", 32), (equations, "WARPS", 1), (equations, "PADDED", 33)):
        mock.patch.object(module, name, value).start()


def ab_initio(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """Two classes with a twofold axis after a random beginning, a coarse step, a checkpoint and another step."""
    particles = as_particles(chain_dataset(NUMBER, BOX, PIXEL_A, 0.5, max_shift_A=7.0), folder)
    plain, batches = setup_of(particles, OperatorSet.of_group("C2", "relion")), unit_batches(particles, 0)
    store = ImageStore(particles, plain.store.plane, [batch.rows for batch in batches], None, arithmetic)
    setup = replace(plain, store=store, batches=batches, numbers=range(1), shift_extent_px=1.0, arithmetic=arithmetic)
    setup, noise = surveyed(setup)
    work, kept = AbInitio(setup, Frame(BOX, PIXEL_A, 3, 4, BOX), noise, STEPS, CLASSES, True, True), Kept()
    with mock.patch.object(schedule, "GRID_DENSITY", 1):
        first = advance(work, begin(work))
        checkpoint.save(first, kept, arithmetic)  # type: ignore[arg-type]
        resumed = checkpoint.load(kept, arithmetic)  # type: ignore[arg-type]
        assert isinstance(resumed, State)
        second = advance(work, resumed)
    maps = {"first_maps": first.now.maps, "second_maps": second.now.maps, "final_map": final_map(work, second.now.maps[0])}
    told = [[step[name] for name in ("log_evidence", "certainty")] + step["fractions"] for step in second.history]
    return {name: arithmetic.on_host(volume) for name, volume in maps.items()} | {"told": told}


def found(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """All of it."""
    return ab_initio(folder, arithmetic)


if __name__ == "__main__":
    from protomer.cuda_arithmetic import CudaArithmetic

    if config.ENABLE_CUDASIM:
        narrow_blocks()
    np.savez(Path(sys.argv[1]) / "found.npz", **found(Path(sys.argv[1]), CudaArithmetic()))
