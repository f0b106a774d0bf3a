"""One E-step on a small set of images, on the CPU or (as a script: BACKEND FOLDER) on CUDA in a process of its own."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.computing.cuda_arithmetic import CudaArithmetic
from protomer.engine.alignment import Search, Stage
from protomer.engine.batch_alignment import Context
from protomer.engine.expectation import Expectation, expect
from protomer.engine.hypotheses import Hypotheses
from protomer.engine.local_alignment import Local, Rest
from protomer.engine.model import Model, insertion_scale
from protomer.engine.pose_table import PoseTable
from protomer.refinement.loop import survey_images
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup
from protomer.running.batches import Batch
from protomer.symmetry.operator_sets import OperatorSet
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.slices import transform_volume
from reconstructions import as_particles, setup_of
from simulated import chain_dataset

BOX, PIXEL_A, NUMBER = 20, 7.0, 6
SEARCH = Search(4, 60, 1.0, 1.0, (Stage(3, 4, 3), Stage(2, 6, 3)), 7, 4)


def prepared(folder: Path, arithmetic: Arithmetic) -> tuple[Setup, Model, PoseTable]:
    """Images with the true map, what computes on them, and their true poses."""
    data = chain_dataset(NUMBER, BOX, PIXEL_A, 0.5, max_shift_A=7.0)
    particles = as_particles(data, folder)
    setup = in_batches_of(2, setup_of(particles, OperatorSet.identity()))
    noise, largest = survey_images(setup, 1)
    model = Model({key: data.volume.data for key in setup.keys}, noise, np.eye(3)[None], 7)
    truth = PoseTable.empty(NUMBER)
    truth.rotation[:, 0], truth.weight[:, 0] = particles.rotation, 1.0
    truth.shift_px[:, 0] = particles.shift_A / PIXEL_A
    return replace(setup, largest=largest, shift_extent_px=1.0, arithmetic=arithmetic), model, truth


def in_batches_of(images: int, setup: Setup) -> Setup:
    """The setup with smaller batches."""
    parts = [(batch.key, part) for batch in setup.batches for part in np.split(batch.rows, range(images, len(batch.rows), images))]
    batches = [Batch(key, rows, len(rows), number) for number, (key, rows) in enumerate(parts)]
    return replace(setup, batches=batches, numbers=range(len(batches)), store=replace(setup.store, batches=[rows for _, rows in parts]))


def e_step(setup: Setup, model: Model, poses: PoseTable, again: np.ndarray) -> Expectation:
    """Those of `again` (N,) are searched globally, the others climb from the poses."""
    scale = insertion_scale(setup.largest, setup.particles, model)
    context = Context(again[None], scale, PIXEL_A, lambda number: None, Hypotheses.of_one(True), arithmetic=setup.arithmetic)
    return expect(setup.batches, setup.numbers, setup.store, setup.particles, [model], SEARCH, [poses], context)


class SideBySide(Arithmetic):
    """The CPU's, with several batches under way; one insertion at a time, as a device's stream takes them."""

    at_once, side_by_side = 2, 2

    def __init__(self) -> None:
        super().__init__(1)
        self.finished, self._inserting = 0, threading.Lock()

    def finish(self) -> None:
        """Counted."""
        self.finished += 1

    def insert(self, *given: Any) -> None:
        """As the CPU does, one at a time."""
        with self._inserting:
            super().insert(*given)


def otherwise(arithmetic: Arithmetic) -> list[Arithmetic]:
    """The same with other numbers of batches at once, and, on a CPU, beside one another, as a device has them already."""
    if arithmetic.backend == "cuda":
        others: list[Arithmetic] = [CudaArithmetic()]
        others[0].at_once, others[0].side_by_side = 1, 1
    else:
        others = [Arithmetic(), SideBySide()]
        others[0].at_once, others[1].at_once = 3, 1
    return others


def in_order(share: Expectation, arithmetic: Arithmetic) -> np.ndarray:
    """The accumulators of all halves and folds, flat, on the host."""
    return np.concatenate([arithmetic.on_host(sums).ravel() for _, sums in sorted(share.accumulators[0].items())])


def near_given_poses(setup: Setup, model: Model, poses: PoseTable) -> Expectation:
    """The first batch, less what is not refined, aligned near the poses, about a fulcrum."""
    arithmetic, scale = setup.arithmetic, insertion_scale(setup.largest, setup.particles, model)
    volume_ft = transform_volume(arithmetic.here(0.3 * next(iter(model.maps.values()))), model.insertion_radius)
    rest = Rest((volume_ft, volume_ft), np.array([1.0, 0.0, 0.0]), 0.5, arithmetic)
    given, fulcrum_px, origin_px = (poses.rotation[:, 0], poses.shift_px[:, 0]), np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.5, 0.0])
    local = Local(*given, 0.1, 1.0, np.array([0.4, 3.0]), fulcrum_px, origin_px, (False, False), 0.05, rest, True)
    hypotheses = Hypotheses.of_one(True)
    context = Context(np.zeros((1, NUMBER), bool), scale, PIXEL_A, lambda number: None, hypotheses, local=local, is_first=True,
                      arithmetic=arithmetic)
    moved = replace(model, origin_px=origin_px)
    return expect(setup.batches, [0], setup.store, setup.particles, [moved], replace(SEARCH, final_radius=5), [poses], context)


def found(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """What an E-step with global and local searches gives, the same again, and the maps of a reconstruction."""
    setup, model, truth = prepared(folder, arithmetic)
    share = e_step(setup, model, truth, np.arange(NUMBER) % 2 == 0)
    again = [e_step(replace(setup, arithmetic=other), model, truth, np.arange(NUMBER) % 2 == 0) for other in otherwise(arithmetic)]
    near = near_given_poses(setup, model, truth)
    half_maps, together = reconstruct_halves(setup, model.noise, truth, np.eye(3)[None])
    poses, sums = share.poses[0], in_order(share, arithmetic)
    same = all(np.array_equal(one, other) for repeated in again for one, other in
               ((sums, in_order(repeated, arithmetic)), (share.residuals, repeated.residuals),
                (poses.rotation, repeated.poses[0].rotation)))
    return {"rotation": matrices_from_quaternions(poses.rotation[:, 0]), "shift_px": poses.shift_px[:, 0], "weight": poses.weight,
            "log_likelihood": poses.log_likelihood, "covariance": poses.covariance, "residuals": share.residuals,
            "accumulator": sums, "is_repeatable": same,
            "scale": share.scale, "together": together, "half_a": half_maps.a,
            "local_rotation": matrices_from_quaternions(near.poses[0].rotation[:, 0]), "local_shift_px": near.poses[0].shift_px[:, 0],
            "local_residuals": near.residuals, "posterior": share.posterior, "grey": share.grey}


if __name__ == "__main__":
    if sys.argv[1] == "cuda":
        computing: Arithmetic = CudaArithmetic()
    else:
        computing = CPU
    np.savez(Path(sys.argv[2]) / "found.npz", **found(Path(sys.argv[2]), computing))
