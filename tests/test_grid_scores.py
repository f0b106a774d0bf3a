"""Scores of many rotations and shifts against direct sums."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_oracles import BOX, as_pairs
from protomer_kernels import grid_scores, rotations
from protomer_kernels.half_plane import HalfPlane


def test_grid_scores_equal_direct_sums_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(21)
    plane = HalfPlane(BOX, 3)
    shifts = rotations.shift_grid(2.0, 1.0)
    y = rng.standard_normal((5, len(plane))) + 1j * rng.standard_normal((5, len(plane)))
    views = rng.standard_normal((900, len(plane))) + 1j * rng.standard_normal((900, len(plane)))
    amplitude = rng.uniform(-1, 1, (5, len(plane))).astype(np.float32)
    ramps = grid_scores.shift_ramps(shifts, plane.kx, plane.ky, BOX)
    waves = np.exp(-2j * np.pi * shifts.astype(float) @ plane.coordinates.T / BOX)
    np.testing.assert_allclose(ramps, waves, atol=1e-6)
    scores, best = grid_scores.grid_scores(as_pairs(y), amplitude, as_pairs(views), ramps, 1)
    moved = amplitude[:, None].astype(float) * y[:, None] * waves
    direct = np.einsum("nsk,gk->nsg", moved.conj(), views).real
    direct -= 0.5 * np.einsum("nk,gk->ng", amplitude.astype(float) ** 2, np.abs(views) ** 2)[:, None]
    np.testing.assert_allclose(scores, direct.max(1), atol=2e-4)
    taken = np.take_along_axis(direct, best[:, None].astype(int), axis=1)[:, 0]
    np.testing.assert_allclose(taken, direct.max(1), atol=2e-4)
    for threads in (2, 3):
        again, best_again = grid_scores.grid_scores(as_pairs(y), amplitude, as_pairs(views), ramps, threads)
        np.testing.assert_array_equal(again, scores)
        np.testing.assert_array_equal(best_again, best)


@pytest.mark.parametrize("keep", [1, 5, 40, 60])
def test_the_best_rotations_come_in_order_and_ties_go_to_the_lower_column(keep: int) -> None:
    scores = np.random.default_rng(22).integers(0, 12, (50, 60)).astype(np.float32)
    expected = [sorted(range(60), key=lambda g: (-row[g], g))[:keep] for row in scores.tolist()]
    np.testing.assert_array_equal(grid_scores.best_rotations(scores, keep), expected)
