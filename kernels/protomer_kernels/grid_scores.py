"""Scores of many rotations and shifts at low frequency as matrix products.

With Y, A and log L of newton.py, for image n, shift s and slice V_g of the rotation g,

    log L(n, s, g) = sum_k Re((A Y exp(-2 pi i k.s / box))* V_g) - 1/2 sum_k A^2 |V_g|^2                                 (1)

the first term is one real matrix product over [re|im], the second another. Products are taken in tiles of fixed size, each by one
thread, so that their bits do not depend on the number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from threadpoolctl import threadpool_limits

TILE = 768  # rotations in one product: its scores stay in the level-3 cache
DEVICE_TILE_BYTES = 2**28  # of the cross terms of one product on a device, which wants large ones


def shift_ramps(shifts_px: np.ndarray, kx: np.ndarray, ky: np.ndarray, box: int) -> np.ndarray:
    """exp(-2 pi i k.s / box) for S shifts: (S, K) complex64."""
    phase = shifts_px.astype(np.float64) @ np.stack([kx, ky]).astype(np.float64) / box
    return np.exp(-2j * np.pi * phase).astype(np.complex64)


@numba.njit(cache=True, nogil=True)
def _best_shift(cross, power, number_of_shifts, first, scores, shifts):
    """max and argmax over shifts of cross (n S, T), less power (n, T), into columns first: of scores and shifts (n, G)."""
    images, tile = power.shape
    for n in range(images):
        for g in range(tile):
            scores[n, first + g] = cross[n * number_of_shifts, g]
            shifts[n, first + g] = 0
        for s in range(1, number_of_shifts):
            row = cross[n * number_of_shifts + s]
            for g in range(tile):
                if row[g] > scores[n, first + g]:
                    scores[n, first + g] = row[g]
                    shifts[n, first + g] = s
        for g in range(tile):
            scores[n, first + g] -= power[n, g]


def grid_scores(
    data: np.ndarray, amplitude: np.ndarray, slices: np.ndarray, ramps: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eq. (1), maximised over shifts, for n images and G rotations.

    data (n, 2, K) and amplitude (n, K) float32, whitened; slices (G, 2, K) float32; ramps (S, K) complex64. Returns scores (n, G)
    float32 and the index of the best shift (n, G) int16.
    """
    number, _, length = data.shape
    rotations, shift_number = len(slices), len(ramps)
    weighted = (amplitude * (data[:, 0] + 1j * data[:, 1])).astype(np.complex64)
    moved = weighted[:, None] * ramps[None]
    left = np.concatenate([moved.real, moved.imag], axis=2).reshape(number * shift_number, 2 * length)
    right = slices.reshape(rotations, 2 * length)
    half_square = np.float32(0.5) * amplitude * amplitude
    scores, shifts = np.empty((number, rotations), np.float32), np.empty((number, rotations), np.int16)

    def tile(first: int) -> None:
        part = slices[first : first + TILE]
        power = half_square @ (part[:, 0] ** 2 + part[:, 1] ** 2).T
        _best_shift(left @ right[first : first + TILE].T, power, shift_number, first, scores, shifts)

    with threadpool_limits(limits=1, user_api="blas"):
        if threads == 1:
            for first in range(0, rotations, TILE):
                tile(first)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(tile, range(0, rotations, TILE)))
    return scores, shifts


def best_rotations(scores: np.ndarray, keep: int) -> np.ndarray:
    """Columns of the `keep` highest scores of each row, best first; ties go to the lower column: (n, keep)."""
    keep = min(keep, scores.shape[1])
    lowest = -np.partition(-scores, keep - 1, axis=1)[:, keep - 1 : keep]
    above, tied = scores > lowest, scores == lowest
    room = keep - np.count_nonzero(above, axis=1, keepdims=True)
    kept = np.nonzero(above | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= room)))[1].reshape(-1, keep)
    order = np.argsort(-np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1)
