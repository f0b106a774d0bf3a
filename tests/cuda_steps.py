"""Steps of ab-initio, helical-refine, classify-fixed and variability on a few images: on the CPU, or (as a script: FOLDER) on CUDA in a
process of its own."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numba import config

from cuda_e_step import in_batches_of
from protomer.abinitio import checkpoint, schedule
from protomer.abinitio.frame import Frame
from protomer.abinitio.loop import State, advance, begin
from protomer.abinitio.outcome import final_map
from protomer.abinitio.schedule import Step
from protomer.abinitio.setting_up import AbInitio, unit_batches
from protomer.computing.arithmetic import Arithmetic
from protomer.engine.filaments import Filaments, GridPrior, filament_grid
from protomer.engine.maximisation import solid_sphere
from protomer.fixed_poses import checkpoint as fixed_checkpoint
from protomer.fixed_poses import loop as fixed_loop
from protomer.fixed_poses import subspace
from protomer.fixed_poses.reliability import rehearse
from protomer.fixed_poses.work import Fixed, Standing
from protomer.imaging.images import ImageStore
from protomer.jobs.reconstruct import known_poses
from protomer.refinement.preparing import surveyed
from protomer.symmetry.operator_sets import OperatorSet
from protomer.variability.control import excess_of, made_images
from protomer.variability.expectation import look, real_images
from protomer.variability.loop import advance as variability_advance
from protomer.variability.loop import begin as variability_begin
from protomer.variability.work import Varying
from protomer_kernels.grid_scores import shift_ramps
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.winding import wound
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
    for module in ("ctf", "insertion", "noise", "shells", "slices", "whitening", "grid_scores", "filament_scores", "winding", "modes"):
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


def filaments(arithmetic: Arithmetic) -> dict[str, Any]:
    """The rotations that are kept of a grid for images of filaments, with and without known psi and polarity; a map made helical."""
    random, plane = np.random.default_rng(2), HalfPlane(BOX, 4)
    grid = matrices_from_quaternions(filament_grid(0.7, 0.3))
    ramps = shift_ramps(np.array([[0, 0], [1, 0], [0, -1]]), plane.kx, plane.ky, BOX)
    views = arithmetic.here(random.standard_normal((len(grid), 2, len(plane))).astype(np.float32))
    images = (random.standard_normal((5, 2, len(plane))).astype(np.float32), random.uniform(0.5, 1.5, (5, len(plane))).astype(np.float32))
    there, kept = (arithmetic.here(images[0]), arithmetic.here(images[1])), {}
    for name, psi_deg, both_ways in (("known", [50.0, -170.0, 60.0, 0.0, 175.0], True), ("polar", [50.0, -170.0, 60.0, 0.0, 175.0], False),
                                     ("unknown", [np.nan, 20.0, 100.0, np.nan, -60.0], True)):
        tilt_rad = np.deg2rad([90.0, 84.0, 97.0, 90.0, 90.0])
        prior = GridPrior(Filaments(tilt_rad, np.deg2rad(psi_deg), np.deg2rad(5.0), np.deg2rad(10.0), both_ways, 0.5, 2.0), grid)
        kept[f"{name}_best"], kept[f"{name}_shifts"] = arithmetic.best_of_windows(there, views, ramps, prior, 6)
    volume = arithmetic.here(random.standard_normal((14, 14, 14)).astype(np.float32))
    return kept | {"wound": arithmetic.on_host(wound(volume, np.deg2rad(-166.0), 1.3, 3.2, 3.5))}


def fixed_poses(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """The map of all images, what varies about it, a block of online EM and a pass from two classes, a checkpoint, and a rehearsal."""
    data = chain_dataset(8, BOX, PIXEL_A, 0.5, max_shift_A=7.0)
    particles = as_particles(data, folder).with_columns(half=np.arange(8) % 2)
    setup = in_batches_of(2, setup_of(particles, OperatorSet.identity()))
    setup, noise = surveyed(replace(setup, store=replace(setup.store, arithmetic=arithmetic), arithmetic=arithmetic))
    sphere, numbers = solid_sphere(BOX, 0.42), tuple(range(len(setup.batches)))
    fixed = Fixed(setup, known_poses(particles, PIXEL_A), 2, 4, 3, sphere, sphere, (numbers[::2], numbers[1::2]), epochs=1)
    with mock.patch.object(fixed_loop, "NOISE_PASSES", 1), mock.patch.object(subspace, "POWER_PASSES", 1):
        common = fixed_loop.common_map(fixed, noise)
        plane = subspace.principal(fixed, common.mean, common.noise)
    part = (0.3 * data.volume.data * (np.arange(BOX) > BOX // 2)).astype(np.float32)
    apart = subspace.in_box(part, fixed.box)
    first = fixed_loop.advance(fixed, fixed_loop.begin(fixed, common, [apart, -apart]))
    standing = fixed_loop.advance(fixed, first)
    again = resumed(fixed, first, arithmetic)
    rehearsed = rehearse(fixed, standing)
    assert rehearsed is not None
    maps = {f"fixed_maps_{n}": of_class[1, 0] for n, of_class in enumerate((standing.mean, *standing.apart))}
    return maps | {
        "fixed_directions": plane.directions[0], "fixed_b": plane.b, "fixed_posterior": standing.posterior, "fixed_noise": standing.noise,
        "fixed_power": standing.power, "fixed_presence": standing.presence, "fixed_rehearsed": [rehearsed.beta, rehearsed.mean_before],
        "fixed_repeats": np.array_equal(again.posterior, standing.posterior) and np.array_equal(again.mean[0, 0], standing.mean[0, 0]),
    }


def resumed(fixed: Fixed, first: Standing, arithmetic: Arithmetic) -> Standing:
    """One more pass after a checkpoint, with as many batches at once as another device may take."""
    kept = SimpleNamespace(checkpoint=Kept())
    fixed_checkpoint.save(first, kept, arithmetic)  # type: ignore[arg-type]
    with mock.patch.object(arithmetic, "at_once", 1 if arithmetic.at_once > 1 else 3):
        standing = fixed_checkpoint.resume(fixed, kept)  # type: ignore[arg-type]
        assert standing is not None
        return fixed_loop.advance(fixed, standing)


def variability(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """An iteration with two modes from chance, the images placed on them, and what images made from the mean map vary."""
    particles = as_particles(chain_dataset(8, BOX, PIXEL_A, 0.5, max_shift_A=7.0), folder).with_columns(half=np.arange(8) % 2)
    setup = in_batches_of(2, setup_of(particles, OperatorSet.identity()))
    setup, noise = surveyed(replace(setup, store=replace(setup.store, arithmetic=arithmetic), arithmetic=arithmetic))
    sphere = solid_sphere(BOX, 0.42)
    fixed = Fixed(setup, known_poses(particles, PIXEL_A), 1, 4, 4, sphere, sphere, (tuple(range(len(setup.batches))),))
    varying = Varying(fixed, 2, 0.0, 2, True)
    with mock.patch.object(fixed_loop, "NOISE_PASSES", 1):
        begun = variability_begin(varying, noise)
    source = real_images(varying, begun.noise)
    first = variability_advance(varying, begun, source, "iteration")
    seen = look(varying, first, source, "placing images")
    with mock.patch.object(arithmetic, "at_once", 1 if arithmetic.at_once > 1 else 3):
        again = look(varying, first, source, "placing images")
    excess = excess_of(varying, first, made_images(varying, first), "control")
    return {"modes_mean": first.mean.a, "modes": first.modes.b, "modes_coordinates": seen.coordinates.mean, "modes_noise": seen.noise,
            "modes_covariance": seen.coordinates.covariance, "modes_scale": seen.coordinates.scale, "modes_excess": excess.value,
            "modes_sums": seen.totals[1] * seen.factor,
            "modes_repeat": all(np.array_equal(one, other) for one, other in zip(seen.totals, again.totals, strict=True))
            and np.array_equal(seen.coordinates.mean, again.coordinates.mean) and np.array_equal(seen.noise, again.noise)}


def found(folder: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    """All of it."""
    return ab_initio(folder, arithmetic) | filaments(arithmetic) | fixed_poses(folder, arithmetic) | variability(folder, arithmetic)


if __name__ == "__main__":
    from protomer.computing.cuda_arithmetic import CudaArithmetic

    if config.ENABLE_CUDASIM:
        narrow_blocks()
    np.savez(Path(sys.argv[1]) / "found.npz", **found(Path(sys.argv[1]), CudaArithmetic()))
