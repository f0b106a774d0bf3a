"""Distinct modes of the posterior and their weights; the power of residuals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kernel_oracles import BOX, PLANE, RADIUS, as_pairs, degrees_between, random_rotations, turned
from protomer_kernels import noise, posterior


def degrees_up_to_symmetry(first: np.ndarray, second: np.ndarray, operators: np.ndarray) -> float:
    return min(float(degrees_between(g @ first, second)) for g in operators)


@pytest.mark.parametrize("group", ["C1", "C3", "D2"])
def test_distinct_modes_equal_a_greedy_loop_over_the_group(group: str) -> None:
    operators = Rotation.create_group(group).as_matrix()
    rng = np.random.default_rng(23)
    turns = random_rotations(5 * 24, 23).reshape(5, 24, 3, 3)
    for n, m in itertools.product(range(5), range(0, 24, 3)):  # a near copy, and a near copy of a group mate
        turns[n, m + 1] = turned(rng.normal(0, 0.05, 3), turns[n, m])
        turns[n, m + 2] = turned(rng.normal(0, 0.05, 3), operators[rng.integers(len(operators))] @ turns[n, m])
    scores = rng.standard_normal((5, 24))
    out = np.empty((5, 6), np.int64)
    posterior.distinct_modes(turns, scores, operators, np.radians(15.0), out)
    for n in range(5):
        kept: list[int] = []
        for m in sorted(range(24), key=lambda m: -scores[n, m]):
            if len(kept) < 6 and all(degrees_up_to_symmetry(turns[n, f], turns[n, m], operators) >= 15.0 for f in kept):
                kept.append(m)
        assert out[n].tolist() == kept + [-1] * (6 - len(kept))


def test_places_without_a_mode_hold_minus_one() -> None:
    turns = np.broadcast_to(np.eye(3), (1, 4, 3, 3)).copy()
    out = np.empty((1, 3), np.int64)
    posterior.distinct_modes(turns, np.array([[0.0, 2.0, 2.0, 1.0]]), np.eye(3)[None], 0.1, out)
    assert out.tolist() == [[1, -1, -1]]


def test_mode_weights_equal_laplace_masses() -> None:
    rng = np.random.default_rng(24)
    scores, log_determinant = rng.normal(0, 2, (6, 4)), rng.normal(0, 3, (6, 4))
    present = rng.random((6, 4)) < 0.7
    present[:, 0] = True
    log_determinant[2, 1] = np.inf
    log_determinant[2, 0] = 1.0
    weights, log_integral = posterior.mode_weights(scores, log_determinant, present)
    for n in range(6):
        masses = [np.exp(scores[n, m]) / np.sqrt(np.exp(log_determinant[n, m])) if present[n, m] else 0.0 for m in range(4)]
        np.testing.assert_allclose(weights[n], np.array(masses) / sum(masses), rtol=1e-10)
        np.testing.assert_allclose(log_integral[n], np.log(sum(masses) * (2 * np.pi) ** 2.5), rtol=1e-10)
    again, shifted = posterior.mode_weights(scores + 1e5, log_determinant, present)
    np.testing.assert_allclose(again, weights, atol=1e-8)
    np.testing.assert_allclose(shifted, log_integral + 1e5)




def test_residual_power_equals_direct_sums_over_shells() -> None:
    rng = np.random.default_rng(25)
    y, v = (rng.standard_normal((2, 4, len(PLANE))) + 1j * rng.standard_normal((2, 4, len(PLANE)))).astype(np.complex64)
    amplitude = rng.uniform(-1, 1, (4, len(PLANE))).astype(np.float32)
    shifts = rng.uniform(-4, 4, (4, 2))
    out = np.full((4, 3, RADIUS + 1), np.nan)
    noise.residual_power(as_pairs(v), shifts, (as_pairs(y), amplitude), PLANE.arrays(len(PLANE)), PLANE.shell, out)
    centred = y * np.exp(-2j * np.pi * shifts @ PLANE.coordinates.T / BOX)
    model_ft = amplitude.astype(float) * v
    for s in range(RADIUS + 1):
        at = PLANE.shell == s
        np.testing.assert_allclose(out[:, 0, s], (np.abs(centred - model_ft)[:, at] ** 2).sum(1), rtol=1e-5)
        np.testing.assert_allclose(out[:, 1, s], (centred.conj() * model_ft).real[:, at].sum(1), atol=1e-4)
        np.testing.assert_allclose(out[:, 2, s], (np.abs(model_ft)[:, at] ** 2).sum(1), rtol=1e-5)
    power = noise.power_by_shell(y, PLANE.shell, 5)
    np.testing.assert_allclose(power, [[(np.abs(row[PLANE.shell == s]) ** 2).sum(dtype=float) for s in range(5)] for row in y], rtol=1e-5)


def test_an_image_without_any_regular_mode_keeps_its_first_and_counts_as_noise() -> None:
    weights, log_integral = posterior.mode_weights(np.array([[3.0, 2.0]]), np.full((1, 2), np.inf), np.ones((1, 2), bool))
    assert weights.tolist() == [[1.0, 0.0]] and log_integral[0] == -np.inf
    assert posterior.presence_log_odds(log_integral, 1, 4.0)[0] == -np.inf


def test_presence_log_odds_are_the_mean_likelihood_over_all_poses() -> None:
    """A likelihood exp(9 - |x|^2 / (2 s^2)) in 5 parameters, averaged over uniform draws from a box of the same volume."""
    sd, draws = 0.5, np.random.default_rng(3).random((400_000, 5))
    volume = 8 * np.pi**2 / 2 * np.pi * 2.0**2
    x = (draws - 0.5) * volume ** (1 / 5)
    mean = np.exp(9 - (x**2).sum(axis=1) / (2 * sd**2)).mean()
    _, log_integral = posterior.mode_weights(np.array([[9.0]]), np.array([[-10 * np.log(sd)]]), np.ones((1, 1), bool))
    assert abs(posterior.presence_log_odds(log_integral, 2, 2.0)[0] - np.log(mean)) < 0.05
