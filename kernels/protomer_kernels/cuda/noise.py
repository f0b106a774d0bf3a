"""Residual power on a CUDA device: the sums of protomer_kernels/noise.py, one block for each image and shell.

A block adds up the coefficients of its shell always in the same order, so that no schedule changes the sums: a thread its own first, then
one thread those of all. Shells of box 256 have some 400 coefficients, which float32 adds up within 1e-6.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import cuda

from protomer_kernels.gather import ZERO
from protomer_kernels.noise import residual_products

THREADS = 64


def members_of_shells(shell: np.ndarray, shells: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients sorted by shell (K,), and where each shell begins and the last one ends among them (shells + 1,): int32, on the host."""
    order = np.argsort(shell, kind="stable")
    return order.astype(np.int32), np.searchsorted(shell[order], np.arange(shells + 1)).astype(np.int32)


@cuda.jit
def residual_power_kernel(slices, shifts_px, batch, plane, members, out):
    """Block (n, s) sums over shell s of image n."""
    data, amplitude = batch
    kx, ky, box = plane
    order, first = members
    n, s, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    sx, sy = shifts_px[n, 0] / np.float32(box), shifts_px[n, 1] / np.float32(box)
    residual = shared = model = ZERO
    for at in range(first[s] + thread, first[s + 1], THREADS):
        q = order[at]
        own, view = (data[n, 0, q], data[n, 1, q]), (slices[n, 0, q], slices[n, 1, q])
        part = residual_products(own, amplitude[n, q], view, -(kx[q] * sx + ky[q] * sy))
        residual += part[0]
        shared += part[1]
        model += part[2]
    each = cuda.shared.array((3, THREADS), numba.float32)
    each[0, thread], each[1, thread], each[2, thread] = residual, shared, model
    cuda.syncthreads()
    if thread < 3:
        total = ZERO
        for t in range(THREADS):
            total += each[thread, t]
        out[n, thread, s] = total


def residual_power(slices, shifts_px, batch, plane, members, out) -> None:
    """As protomer_kernels.noise.residual_power, on device arrays: out (n, 3, shells) float32.

    slices (n, 2, K) and shifts_px (n, 2) float32; batch: data (n, 2, K) and amplitude (n, K) float32; plane: kx, ky (K,) float32 and the
    box; members from members_of_shells.
    """
    residual_power_kernel[(len(out), out.shape[2]), THREADS](slices, shifts_px, batch, plane, members, out)
