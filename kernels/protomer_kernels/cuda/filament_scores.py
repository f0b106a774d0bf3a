"""Scores of filaments on a CUDA device: those of a part of the grid, with what is known of their tilt and psi, put in their places."""

from __future__ import annotations

import math

import numpy as np
from numba import cuda
from numba.extending import register_jitable

from protomer_kernels.gather import ZERO
from protomer_kernels.trigonometry import floor

THREADS = 128
HALF_TURN, TURN, HALF = np.float32(math.pi), np.float32(2.0 * math.pi), np.float32(0.5)


@register_jitable
def squared_distance(tilt, psi, given, precision):
    """Of a tilt and psi from the given ones, in standard deviations; a psi that is not known (NaN) counts nothing."""
    away = tilt - given[0]
    total, turn = precision[0] * away * away, psi - given[1]
    if turn == turn:
        turn -= TURN * floor(turn / TURN + HALF)
        total += precision[1] * turn * turn
    return total


@cuda.jit
def filament_scores_kernel(found, moves, place, angles, given, precision, scores, shifts):
    """Block (n, c) takes the rotations c THREADS, c THREADS + 1, ... of a part of the grid, for the n-th of some images."""
    rows, first = place
    n = cuda.blockIdx.x
    g = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if g < found.shape[1]:
        row, at = rows[n], first + g
        tilt, psi = given[row, 0], given[row, 1]
        away = squared_distance(angles[at, 0], angles[at, 1], (tilt, psi), precision)
        if precision[2] > ZERO:
            other = squared_distance(angles[at, 0], angles[at, 1], (HALF_TURN - tilt, psi + HALF_TURN), precision)
            if other < away:
                away = other
        scores[row, at] = found[n, g] - HALF * away
        shifts[row, at] = moves[n, g]


def hold_scores(found, moves, place, angles, given, precision, scores, shifts) -> None:
    """Scores found (m, T) float32 of m images, with their shifts (m, T) int16, into rows and columns of scores and shifts (n, G), with the
    log prior of engine/filaments.py, eq. (1).

    Device arrays: place: rows (m,) int64 and the first column; angles (G, 2) and given (n, 2) float32: tilt and psi of rotations and
    images; precision: of tilt and psi, rad^-2, and 1.0 where the polarity is not known, else 0.0.
    """
    blocks = (len(found), -(-found.shape[1] // THREADS))
    filament_scores_kernel[blocks, THREADS](found, moves, place, angles, given, tuple(np.float32(p) for p in precision), scores, shifts)
