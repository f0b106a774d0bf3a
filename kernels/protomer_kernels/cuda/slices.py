"""Slices through a Fourier volume on a CUDA device: one thread for each coefficient."""

from __future__ import annotations

import numpy as np
from numba import cuda

from protomer_kernels.cuda.cells import corner_and_fractions, scaled_columns, turned_mate
from protomer_kernels.gather import interpolate

THREADS = 256


@cuda.jit
def slices_kernel(volume, rotations, kx, ky, out):
    """Block (n, c) reads coefficients c THREADS, c THREADS + 1, ... of slice n."""
    n = cuda.blockIdx.x
    q = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if q < kx.shape[0]:
        centre = np.float32((volume.shape[0] - 1) // 2)
        sign, _, _, point = turned_mate(scaled_columns(rotations[n]), kx[q], ky[q])
        corner, fractions = corner_and_fractions(point, centre)
        re, im = interpolate(volume, corner[0], corner[1], corner[2], fractions[0], fractions[1], fractions[2])
        out[n, 0, q] = re
        out[n, 1, q] = sign * im


def extract_slices(volume, rotations, kx, ky, out) -> None:
    """As protomer_kernels.slices.extract_slices, on device arrays.

    volume (n, n, r + 1, 2), rotations (S, 3, 3), kx, ky (K,) and out (S, 2, K), all float32.
    """
    slices_kernel[(len(rotations), -(-len(kx) // THREADS)), THREADS](volume, rotations, kx, ky, out)
