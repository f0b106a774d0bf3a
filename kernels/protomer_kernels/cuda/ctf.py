"""The contrast transfer function on a CUDA device: eq. (3) of protomer_kernels/ctf.py, one thread for each coefficient of each image."""

from __future__ import annotations

from numba import cuda

from protomer_kernels.ctf import ctf_value

THREADS = 256


@cuda.jit
def ctf_kernel(coefficients, kx, ky, added, out):
    """Block (n, c) evaluates coefficients c THREADS, c THREADS + 1, ... of image n."""
    quadratic, smooth = coefficients
    added_turns, row = added
    n = cuda.blockIdx.x
    q = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if q < kx.shape[0]:
        out[n, q] = ctf_value(quadratic[n], smooth[n], kx[q], ky[q], added_turns[row[n], q])


def ctf_values(coefficients, kx, ky, added, out) -> None:
    """As protomer_kernels.ctf.ctf_driver, on device arrays: out (n, K) float32.

    coefficients: quadratic (n, 3) int64 and smooth (n, 6) float32 of ctf_coefficients; kx, ky (K,) int64, cycles per box; added: turns
    (g, K) float32 that belong to gamma too, and the row (n,) int64 of each image among them.
    """
    ctf_kernel[(len(out), -(-len(kx) // THREADS)), THREADS](coefficients, kx, ky, added, out)
