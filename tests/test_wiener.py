"""The solution of inserted slices for a map."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_oracles import BOX, PLANE, RADIUS, as_pairs, blob_map, blob_model, extract, insert
from protomer_kernels import insertion, rotations, wiener


@pytest.fixture(scope="module")
def model() -> np.ndarray:
    return blob_model()


def test_shell_weights_are_means_over_shells() -> None:
    weight = np.random.default_rng(12).random((13, 13, 7)).astype(np.float32)
    z, y, x = np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), np.arange(7), indexing="ij")
    shell = np.rint(np.sqrt(x * x + y * y + z * z) / 2)
    expected = [weight[shell == s].mean(dtype=float) if np.any(shell == s) else 0.0 for s in range(9)]
    np.testing.assert_allclose(wiener.shell_weights(weight, 9), expected, rtol=1e-6)


def test_slices_of_a_known_map_solve_back_to_that_map(model: np.ndarray) -> None:
    turns = rotations.matrices_from_quaternions(rotations.super_fibonacci_grid(600))
    shifts = np.random.default_rng(13).uniform(-2, 2, (600, 2))
    moved = extract(model, turns) * np.exp(2j * np.pi * shifts @ PLANE.coordinates.T / BOX)
    amplitude = np.cos(np.random.default_rng(14).uniform(0, np.pi, (600, 1)) + PLANE.shell * 0.2).astype(np.float32)
    scale = insertion.fixed_point_scale(float(np.abs(moved).max()) + 1.0, 600)
    sums = insert(turns, shifts, np.ones(600), as_pairs(amplitude * moved), amplitude, scale, 2)
    numerator, weight = insertion.accumulator_values(sums, scale)
    np.testing.assert_allclose(numerator[:, :, 0], numerator[::-1, ::-1, 0].conj(), atol=1e-4)
    assert weight.min() >= 0.0
    found, truth = wiener.solve_volume(numerator.copy(), weight, np.full(RADIUS + 1, 1e-3), BOX).astype(float), blob_map().astype(float)
    assert found.shape == truth.shape
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.99
    assert abs((found * truth).sum() / (truth * truth).sum() - 1) < 0.02
    halved = wiener.solve_volume(numerator, weight, wiener.shell_weights(weight, RADIUS + 1), BOX)
    assert 0.35 < (halved * truth).sum() / (truth * truth).sum() < 0.65  # a prior as heavy as the data halves the map
