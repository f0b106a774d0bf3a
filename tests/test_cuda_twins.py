"""The CUDA drivers give what the CPU's do, in Numba's simulator and on a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cuda_programs import PLACES, Results, found_on_cuda
from kernel_oracles import NORMAL_ROW, blob_map, degrees_between, prediction, random_rotations
from protomer_kernels import ctf, grid_scores, insertion, newton, noise, slices
from protomer_kernels.cuda import grid_scores as cuda_grid_scores
from protomer_kernels.cuda import slices as cuda_slices
from protomer_kernels.half_plane import HalfPlane

PROJECT = Path(__file__).resolve().parent.parent
PLANE = HalfPlane(32, 13)  # more coefficients than a block has threads
IMAGE = np.array([1, 0, 1])
STEPS = 4
EXTENT = np.array([0.05, 0.3])
CYCLE_PER_A = 1 / (PLANE.box * 1.1)
SCALE = insertion.fixed_point_scale(200.0, 3)


def climbable_images(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A volume, three poses of two noisy images that nearly fit it, an accumulator that already holds something, and bounds of a climb."""
    volume = slices.transform_volume(blob_map(PLANE.box), PLANE.radius)
    rotations, shifts = random_rotations(3, 50), rng.uniform(-2, 2, (3, 2))
    amplitude = (3.0 * np.cos(np.array([[0.3], [0.9]]) + 0.25 * PLANE.shell)).astype(np.float32)
    truth = np.array([prediction(volume, amplitude[n], rotations[s], shifts[s] + 0.4, PLANE) for n, s in ((0, 1), (1, 0))])
    data = (np.stack([truth.real, truth.imag], axis=1) + rng.standard_normal((2, 2, len(PLANE)))).astype(np.float32)
    assert cuda_slices.THREADS < len(PLANE) and np.abs(data).max() * np.abs(amplitude).max() < 200.0
    accumulator = insertion.empty_accumulator(PLANE.radius)
    accumulator[:] = rng.integers(-1000, 1000, accumulator.shape)
    weak = np.tile([5.0, 6.0, 7.0, 0.3, 0.4, 1.5, -2.0, 3.0], (3, 1))  # precisions and lever
    return {"volume": volume, "rotations": rotations, "shifts": shifts, "amplitude": amplitude, "data": data, "image": IMAGE,
            "weights": rng.uniform(0.2, 1.0, 3), "scale": np.float64(SCALE), "accumulator": accumulator,
            "curvature": rng.uniform(-0.01, 0.01, (3, 3)).astype(np.float32),
            "magnification": np.array([np.eye(2), [[0.99, 0.02], [-0.03, 0.97]]]),
            "steps": np.int64(STEPS), "free_priors": newton.NO_PRIOR, "free_extent": newton.NO_EXTENT,
            "bounded_priors": np.concatenate([rotations.reshape(3, 9), shifts, weak], axis=1), "bounded_extent": EXTENT}


def transfer_coefficients(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """CTF coefficients of two images of several micrometres of defocus, and turns added to their phase."""
    magnification = np.array([np.eye(2), [[1.01, 0.02], [0.0, 0.98]]])
    parameters = ctf.CtfParameters(np.array([25e3, 60e3]), np.array([24e3, 58e3]), np.array([0.3, 1.9]), 300e3, 2.7e7, 0.1, 0.4, 30.0,
                                   magnification)
    quadratic, smooth = ctf.ctf_coefficients(parameters, CYCLE_PER_A)
    return {"ctf_quadratic": quadratic, "ctf_smooth": smooth, "added_row": np.array([1, 0]),
            "added_turns": rng.uniform(-1, 1, (2, len(PLANE))).astype(np.float32)}


def score_tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Products for three images, four shifts and more rotations than a block has threads, whole numbers that often tie."""
    rotations, keep = 300, 9
    assert cuda_grid_scores.THREADS < rotations
    return {"cross": rng.integers(0, 9, (12, rotations)).astype(np.float32), "power": rng.integers(0, 4, (3, rotations)).astype(np.float32),
            "tile": np.int64(170), "keep": np.int64(keep)}


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    """What tests/cuda_runs.py reads."""
    rng = np.random.default_rng(50)
    plane = {"kx": PLANE.kx, "ky": PLANE.ky, "box": np.int64(PLANE.box), "shell": PLANE.shell}
    return plane | climbable_images(rng) | transfer_coefficients(rng) | score_tiles(rng)


@pytest.fixture(scope="module", params=PLACES)
def found(request: pytest.FixtureRequest, given: dict, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What tests/cuda_runs.py writes."""
    folder = tmp_path_factory.mktemp("cuda")
    np.savez(folder / "given.npz", **given)
    return found_on_cuda(request.param, "cuda_runs.py", folder)


def test_slices_from_cuda_equal_those_from_the_cpu(given: dict, found: dict) -> None:
    expected = np.empty_like(found["views"])
    slices.extract_slices(given["volume"], given["rotations"].astype(np.float32), PLANE.kx, PLANE.ky, expected)
    np.testing.assert_allclose(found["views"], expected, atol=2e-6 * np.abs(expected).max())


def assert_sums_agree(found: np.ndarray, expected: np.ndarray, data: np.ndarray) -> None:
    """The 21 sums of one start (21,), within float32's error of the sums of sizes that they come from."""
    size = np.linalg.norm(data.astype(float))
    length = np.sqrt([expected[6 + m] for m, (p, q) in enumerate(NORMAL_ROW) if p == q])
    sizes = [size**2, *(size * length), *(length[p] * length[q] for p, q in NORMAL_ROW)]
    np.testing.assert_array_less(np.abs(found - expected), 3e-6 * np.array(sizes))


def climbed_on_cpu(given: dict, steps: int, bounds: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, shifts and sums after a climb."""
    rotations, shifts, sums = given["rotations"].copy(), given["shifts"].copy(), np.empty((3, 21))
    batch = (given["data"], given["amplitude"], given["magnification"])
    limits = (given[f"{bounds}_priors"], given[f"{bounds}_extent"])
    newton.climb_poses(given["volume"], (IMAGE, rotations, shifts), batch, PLANE.arrays(len(PLANE)), steps, limits, sums)
    return rotations, shifts, sums


def test_normal_equations_from_cuda_equal_those_from_the_cpu(given: dict, found: dict) -> None:
    _, _, expected = climbed_on_cpu(given, 0, "free")
    for s in range(3):
        assert_sums_agree(found["sums"][s], expected[s], given["data"][IMAGE[s]])


@pytest.mark.parametrize("bounds", ["free", "bounded"])
def test_climbs_on_cuda_reach_the_poses_of_the_cpu(bounds: str, given: dict, found: dict) -> None:
    rotations, shifts, sums = climbed_on_cpu(given, STEPS, bounds)
    turned = degrees_between(given["rotations"], rotations)
    if bounds == "free":
        assert np.all(turned > np.degrees(EXTENT[0])) and np.all(sums[:, 0] > climbed_on_cpu(given, 0, bounds)[2][:, 0] + 10.0)
    else:
        assert np.all(turned < np.degrees(EXTENT[0])) and np.all(turned > 1.0)
    reached = found[f"{bounds}_rotations"].astype(float)
    assert degrees_between(reached, rotations).max() < 1e-4
    np.testing.assert_allclose(reached @ np.swapaxes(reached, 1, 2), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(found[f"{bounds}_shifts"], shifts, atol=1e-5)
    for s in range(3):
        assert_sums_agree(found[f"{bounds}_sums"][s], sums[s], given["data"][IMAGE[s]])


def test_residual_power_from_cuda_equals_that_from_the_cpu(given: dict, found: dict) -> None:
    expected = np.empty((2, 3, PLANE.radius + 1))
    batch = (given["data"], given["amplitude"])
    noise.residual_power(found["views"][:2], given["shifts"][:2].copy(), batch, PLANE.arrays(len(PLANE)), PLANE.shell, expected)
    scale = np.sqrt(noise.power_by_shell(given["data"][:, 0] + 1j * given["data"][:, 1], PLANE.shell, PLANE.radius + 1))
    sizes = np.stack([expected[:, 0], scale * np.sqrt(expected[:, 2]), expected[:, 2]], axis=1)
    np.testing.assert_array_less(np.abs(found["residual_power"] - expected), 5e-6 * sizes + 1e-9)


def test_contrast_transfer_from_cuda_equals_that_from_the_cpu(given: dict, found: dict) -> None:
    expected = np.empty((2, len(PLANE)), np.float32)
    kx, ky = (k.astype(np.int64) for k in (PLANE.kx, PLANE.ky))
    ctf.ctf_driver(given["ctf_quadratic"], given["ctf_smooth"], kx, ky, given["added_turns"], given["added_row"], expected)
    assert np.count_nonzero(np.diff(np.sign(expected))) > 200
    np.testing.assert_allclose(found["ctf"], expected, atol=5e-6)


def test_grid_scores_and_best_rotations_from_cuda_equal_those_from_the_cpu(given: dict, found: dict) -> None:
    scores, shifts = np.empty_like(found["scores"]), np.empty_like(found["grid_shifts"])
    grid_scores._best_shift(given["cross"], given["power"], 4, 0, scores, shifts)
    np.testing.assert_array_equal(found["scores"], scores)
    np.testing.assert_array_equal(found["grid_shifts"], shifts)
    best = grid_scores.best_rotations(scores, int(given["keep"]))
    assert np.any(np.diff(np.take_along_axis(scores, best, axis=1)) == 0)  # ties
    np.testing.assert_array_equal(found["columns"], best)
    np.testing.assert_array_equal(found["best_shifts"], np.take_along_axis(shifts, best, axis=1))


@pytest.mark.parametrize("name", ["accumulator", "curved"])
def test_sums_inserted_by_cuda_equal_those_from_the_cpu(name: str, given: dict, found: dict) -> None:
    curvature = given["curvature"] if name == "curved" else None
    expected = given["accumulator"].copy()
    poses = (IMAGE, given["rotations"], given["shifts"], given["weights"])
    insertion.insert_slices(poses, (given["data"], given["amplitude"]), PLANE.arrays(len(PLANE)), SCALE, 1, expected, curvature)
    assert found[name].dtype == np.int64
    largest = np.abs((expected - given["accumulator"]) / SCALE).max()
    np.testing.assert_allclose(found[name] / SCALE, expected / SCALE, atol=2e-6 * largest)


def test_nothing_on_the_paths_of_the_cpu_imports_the_cuda_drivers() -> None:
    names = "protomer.jobs.refine, protomer.jobs.reconstruct, protomer.jobs.simulate, protomer.command_line"
    program = f"import sys, {names}; print([name for name in sys.modules if name.startswith('protomer_kernels.cuda')])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(PROJECT / part) for part in ("pipeline", "kernels"))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
