"""What follows the matrix products of protomer_kernels/grid_scores.py on a CUDA device: the best shifts, and the rotations that are kept.

The products are a library's (cuBLAS). Scores stay on the device: only the rotations that an image keeps, and their shifts, leave it.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import cuda
from numba.extending import register_jitable

THREADS = 128
INFINITY = np.float32(np.inf)


@cuda.jit
def best_shift_kernel(cross, power, number_of_shifts, first, scores, shifts):
    """Block (n, c) takes the rotations c THREADS, c THREADS + 1, ... of a tile, for image n."""
    n = cuda.blockIdx.x
    g = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if g < power.shape[1]:
        best, at = cross[n * number_of_shifts, g], 0
        for s in range(1, number_of_shifts):
            score = cross[n * number_of_shifts + s, g]
            if score > best:
                best, at = score, s
        scores[n, first + g] = best - power[n, g]
        shifts[n, first + g] = at


@register_jitable
def _best_after(row, start, score, column):
    """The best of columns start, start + THREADS, ... that come after one of this score and column: (score, column).

    A lower score comes after, and so does the same score in a later column. The column is -1 where none is left.
    """
    best, at = -INFINITY, -1
    for g in range(start, row.shape[0], THREADS):
        comes_after = row[g] < score or (row[g] == score and g > column)
        if comes_after and (at < 0 or row[g] > best):
            best, at = row[g], g
    return best, at


@register_jitable
def _winner(scores, columns):
    """The thread whose candidate comes first: the highest score, and of equal ones the lowest column."""
    winner = 0
    for t in range(1, THREADS):
        is_better = scores[t] > scores[winner] or (scores[t] == scores[winner] and columns[t] < columns[winner])
        if columns[t] >= 0 and (is_better or columns[winner] < 0):
            winner = t
    return winner


@cuda.jit
def best_rotations_kernel(scores, shifts, columns, best_shifts):
    """Block n picks for image n, one after the other: each thread offers the best of its columns, and looks again once that is taken."""
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    offered_scores = cuda.shared.array(THREADS, numba.float32)
    offered_columns = cuda.shared.array(THREADS, numba.int64)
    score, column = _best_after(scores[n], thread, INFINITY, -1)
    for k in range(columns.shape[1]):
        offered_scores[thread] = score
        offered_columns[thread] = column
        cuda.syncthreads()
        winner = _winner(offered_scores, offered_columns)
        cuda.syncthreads()
        if thread == winner:
            columns[n, k] = column
            if column >= 0:
                best_shifts[n, k] = shifts[n, column]
                score, column = _best_after(scores[n], thread, score, column)


def best_shift(cross, power, number_of_shifts: int, first: int, scores, shifts) -> None:
    """Maximum and its index over the shifts of cross (n S, T), less power (n, T), into columns first, first + 1, ... of scores and shifts.

    Device arrays: cross, power and scores (n, G) float32, shifts (n, G) int16; ties go to the lower shift, as on the CPU.
    """
    best_shift_kernel[(len(power), -(-power.shape[1] // THREADS)), THREADS](cross, power, number_of_shifts, first, scores, shifts)


def best_rotations(scores, shifts, columns, best_shifts) -> None:
    """As protomer_kernels.grid_scores.best_rotations, on device arrays, with the shift of each rotation that is kept.

    scores (n, G) float32 and shifts (n, G) int16 from best_shift; columns (n, keep) int64, keep <= G, best first, ties going to the lower
    column, -1 where nothing but NaN is left; best_shifts (n, keep) int16, left as they are there.
    """
    best_rotations_kernel[len(scores), THREADS](scores, shifts, columns, best_shifts)
