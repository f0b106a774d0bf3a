"""Which of an image's refined starts are distinct modes of its posterior, and how much each weighs.

The weight of a mode is its share of the posterior mass in Laplace's approximation, exp(log L) det(H)^(-1/2), with log L and H of
newton.py (MacKay 2003, Information Theory, Inference and Learning Algorithms, eq. 27.6).
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def _trace_between(first, second, operators):
    """The largest trace of (g first)^T second over the group: 1 + 2 cos of the smallest angle between the two."""
    largest = -1.0
    for g in range(operators.shape[0]):
        trace = 0.0
        for i in range(3):
            for j in range(3):
                turned = operators[g, i, 0] * first[0, j] + operators[g, i, 1] * first[1, j] + operators[g, i, 2] * first[2, j]
                trace += turned * second[i, j]
        largest = max(largest, trace)
    return largest


@numba.njit(parallel=True, cache=True)
def distinct_modes(rotations, log_likelihood, operators, smallest_angle_rad, out):
    """The best starts of each image that lie more than smallest_angle_rad apart (group mates count as the same).

    rotations (n, m, 3, 3) float64; log_likelihood (n, m); operators (g, 3, 3); out (n, keep) int64: starts, best first, -1 where
    there are no more.
    """
    limit = 1.0 + 2.0 * np.cos(smallest_angle_rad)
    for n in numba.prange(rotations.shape[0]):
        order = np.argsort(-log_likelihood[n], kind="mergesort")
        found = 0
        for c in range(order.shape[0]):
            if found == out.shape[1]:
                break
            fresh = True
            for f in range(found):
                if _trace_between(rotations[n, out[n, f]], rotations[n, order[c]], operators) > limit:
                    fresh = False
                    break
            if fresh:
                out[n, found] = order[c]
                found += 1
        out[n, found:] = -1


def mode_weights(log_likelihood: np.ndarray, log_determinant: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior weights (n, m) of the modes that are present (n, m) bool, each row summing to one, and the log of the integral of the
    likelihood over all poses (n,): sum exp(log L) (2 pi)^(5/2) det(H)^(-1/2).

    Where no mode has a regular H the first one has all the weight, and the integral is 0.
    """
    log_mass = np.where(present & np.isfinite(log_determinant), log_likelihood - 0.5 * log_determinant, -np.inf)
    nothing = np.full(log_mass.shape[1], -np.inf)
    nothing[0] = 0.0
    is_regular: np.ndarray = np.any(np.isfinite(log_mass), axis=1)
    shown = np.where(is_regular[:, None], log_mass, nothing)
    largest = shown.max(axis=1, keepdims=True)
    mass = np.exp(shown - largest)
    total = mass.sum(axis=1)
    log_integral = np.where(is_regular, largest[:, 0] + np.log(total) + 2.5 * np.log(2.0 * np.pi), -np.inf)
    return mass / total[:, None], log_integral


def presence_log_odds(log_integral: np.ndarray, order: int, shift_extent_px: float) -> np.ndarray:
    """Log odds (n,) that an image holds the particle against noise alone, both as likely beforehand.

    Against noise alone the likelihood is 1 (log L of newton.py is relative to no model), so the odds are the mean of the likelihood over
    all poses: rotations, 8 pi^2 in all, divided by the order of the group, and a disc of shifts.
    """
    volume = 8.0 * np.pi**2 / order * np.pi * max(shift_extent_px, 1.0) ** 2
    return log_integral - np.log(volume)
