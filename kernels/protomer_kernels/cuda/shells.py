"""Sums over the shells of a volume on a CUDA device, always in the same order: atomic additions of floats would change it from run to run.

A row of a volume is k = (x, ky, kz), x = 0, 1, ...: along it |k| never falls, so that a thread walks through one shell after the other and
writes down each sum when it leaves the shell. Which |k|^2 belong to which shell is said in whole numbers by the caller.
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from protomer_kernels.gather import ZERO

THREADS = 64
ROWS_EACH, MOST_THREADS = 8, 16_384  # a thread takes so many rows or more: it has a sum of its own for every shell


@cuda.jit
def shell_sums_kernel(values, across, start, first, out):
    """Thread t adds up rows t, t + len(out), ... into out[t], which holds zeros."""
    thread = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    shells = first.shape[0] - 1
    if thread < out.shape[0]:
        for row in range(thread, values.shape[0], out.shape[0]):
            shell, total = start[row], ZERO
            for x in range(values.shape[1]):
                square = across[row] + x * x
                while shell < shells and square >= first[shell + 1]:
                    out[thread, shell] += total
                    total = ZERO
                    shell += 1
                if shell >= shells:
                    break
                total += values[row, x]
            if shell < shells:
                out[thread, shell] += total


def partial_sums(rows: int, shells: int) -> tuple[int, int]:
    """The shape of what `shell_sums` writes: sums over its first axis are those of the shells."""
    return min(-(-rows // ROWS_EACH), MOST_THREADS), shells


def shell_sums(values, across, start, first, out) -> None:
    """Sums by shell of values (rows, columns) float32 into out, zeros of the shape that partial_sums gives.

    across (rows,) int32: |k|^2 at x = 0; start (rows,) int32: the shell there; first (shells + 1,) int32: the least |k|^2 of each shell
    and of what lies beyond the last one.
    """
    shell_sums_kernel[-(-len(out) // THREADS), THREADS](values, across, start, first, out)


def rounded_shells(shells: int) -> np.ndarray:
    """`first` of shells round(|k|): (shells + 1,) int32, on the host."""
    shell = np.arange(shells + 1)
    return np.where(shell > 0, shell * shell - shell + 1, 0).astype(np.int32)


def padded_shells(shells: int) -> np.ndarray:
    """`first` of shells round(|k| / 2), halves to the even one, as wiener.py has them: (shells + 1,) int32, on the host."""
    shell = np.arange(shells + 1)
    edge = 2 * shell - 1  # |k| there is halfway between two shells
    return np.where(shell > 0, edge * edge + shell % 2, 0).astype(np.int32)
