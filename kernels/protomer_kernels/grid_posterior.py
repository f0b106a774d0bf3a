"""Posteriors over a whole grid of rotations, shifts and classes, and what images add to every slice of it: both as matrix products.

With Y, A and log L of newton.py, image n, shift s, slice V_g of class c at rotation g,

(1) log L(n, c, s, g) = sum_k Re((A Y exp(-2 pi i k.s / box))* V_cg) - 1/2 sum_k A^2 |V_cg|^2          (grid_scores.py, eq. 1)
(2) Z_nc = sum_sg p_s L(n, c, s, g) / G,   P(c | n) = pi_c Z_nc / sum_c pi_c Z_nc,   P(s, g | n, c) = p_s L / (G Z_nc)     (Bayes' rule)
(3) w_nc = (1 - q) P(c | n) + q / C: how much image n counts in class c, where classes are thought to share q of each image
(4) numerator_cg = sum_ns w_nc P(s, g | n, c) A Y exp(-2 pi i k.s / box),   weight_cg = sum_ns w_nc P(s, g | n, c) A^2

(4) is the E-step's expectation of what insertion takes (Scheres 2012, eqs 6 and 8), summed over images before it is inserted: one slice for
each rotation, however many images there are. Products are those of one thread over parts of fixed size, so that bits depend on neither
threads nor ranks. All of it is done where the images lie, on the host or on a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer_kernels.libraries import library_of

SCORES_AT_ONCE = 2**21  # images of a part times shifts, rotations and classes: 8 MB
DEVICE_SCORES_AT_ONCE = 2**27  # on a device, which wants large products: 512 MB


@dataclass(frozen=True)
class GridPosterior:
    """log sum_c pi_c Z_nc (n,) float64, P(c | n) (n, C) float64, the largest P(c, s, g | n) (n,), and eq. (4): numerator (C, G, 2, K) and
    weight (C, G, K) float32, and the images' worth that each rotation has (C, G) float32."""

    log_evidence: Any
    posterior: Any
    highest: Any
    numerator: Any
    weight: Any
    mass: Any


def grid_posterior(
    data: np.ndarray,
    amplitude: np.ndarray,
    slices: np.ndarray,
    ramps: np.ndarray,
    log_shift_prior: np.ndarray,
    log_class_prior: np.ndarray,
    shared: float = 0.0,
    at_once: int | None = None,
) -> GridPosterior:
    """Eqs (2) to (4) for n images.

    data (n, 2, K) and amplitude (n, K) float32, whitened; slices (C, G, 2, L) float32, L <= K: they are compared up to L and summed up to
    K; ramps (S, K) complex64 (grid_scores.shift_ramps); log_shift_prior (S,), log p_s; log_class_prior (C,), log pi_c; shared: q of
    eq. (3); at_once: how many scores are held, unset: SCORES_AT_ONCE. All arrays lie where the images do, and so do those that it gives.
    """
    number, classes, rotations, shifts = len(data), len(slices), slices.shape[1], len(ramps)
    arrays, length, found = library_of(data).arrays, data.shape[2], []
    numerator = arrays.zeros((classes, rotations, 2 * length), np.float32)
    weight, mass = arrays.zeros((classes, rotations, length), np.float32), arrays.zeros((classes, rotations), np.float32)
    power = slices[:, :, 0] ** 2 + slices[:, :, 1] ** 2
    images = max(1, (SCORES_AT_ONCE if at_once is None else at_once) // (classes * shifts * rotations))
    for first in range(0, number, images):
        part = slice(first, first + images)
        moved = (amplitude[part] * (data[part, 0] + np.complex64(1j) * data[part, 1])).astype(np.complex64)[:, None] * ramps[None]
        square = amplitude[part] * amplitude[part]
        scores = _scores(moved, square, slices, power, log_shift_prior)
        log_z, highest = _normalised(scores, rotations)
        joint = log_z + log_class_prior
        largest = joint.max(axis=1, keepdims=True)
        log_evidence = largest[:, 0] + np.log(np.exp(joint - largest).sum(axis=1))
        posterior = np.exp(joint - log_evidence[:, None])
        counted = (1.0 - shared) * posterior + shared / classes
        found.append((log_evidence, posterior, (posterior * highest).max(axis=1)))
        flat = np.concatenate([moved.real, moved.imag], axis=2).reshape(-1, 2 * length)
        for c in range(classes):
            scores[c] *= counted[:, c, None, None].astype(np.float32)
            numerator[c] += scores[c].reshape(-1, rotations).T @ flat
            of_rotation = scores[c].sum(axis=1)
            weight[c] += of_rotation.T @ square
            mass[c] += of_rotation.sum(axis=0)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return GridPosterior(columns[0], columns[1], columns[2], numerator.reshape(classes, rotations, 2, length), weight, mass)


def _scores(
    moved: np.ndarray, square: np.ndarray, slices: np.ndarray, power: np.ndarray, log_shift_prior: np.ndarray
) -> np.ndarray:
    """Eq. (1) plus log p_s: (C, n, S, G) float32, from moved images (n, S, K) complex64 and squared amplitudes (n, K)."""
    number, shifts, _ = moved.shape
    classes, rotations, _, compared = slices.shape
    low = moved[:, :, :compared]
    left = np.concatenate([low.real, low.imag], axis=2).reshape(number * shifts, 2 * compared)
    products = [left @ slices[c].reshape(rotations, 2 * compared).T for c in range(classes)]
    scores = (products[0][None] if classes == 1 else np.stack(products)).reshape(classes, number, shifts, rotations)
    del products
    for c in range(classes):
        scores[c] -= (np.float32(0.5) * (square[:, :compared] @ power[c].T))[:, None]
        scores[c] += log_shift_prior.astype(np.float32)[:, None]
    return scores


def _normalised(scores: np.ndarray, rotations: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (C, n, S, G) to P(s, g | n, c) in place; log Z (n, C), and the highest P(s, g | n, c) (n, C)."""
    largest = scores.max(axis=(2, 3))
    scores -= largest[:, :, None, None]
    np.exp(scores, out=scores)
    total = scores.sum(axis=(2, 3))
    scores /= total[:, :, None, None]
    log_z = largest.astype(np.float64) + np.log(total.astype(np.float64)) - np.log(rotations)
    return log_z.T, (1.0 / total.astype(np.float64)).T
