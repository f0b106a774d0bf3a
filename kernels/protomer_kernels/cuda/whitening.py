"""Whitening of Fourier crops on a CUDA device: the data w X and amplitudes w C of protomer_kernels/newton.py, a thread for each."""

from __future__ import annotations

from numba import cuda

THREADS = 256


@cuda.jit
def whitening_kernel(crops, transfer, weights, data, amplitude):
    """Block (n, c) takes coefficients c THREADS, c THREADS + 1, ... of image n."""
    root_weights, group = weights
    n = cuda.blockIdx.x
    q = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if q < transfer.shape[1]:
        weight, coefficient = root_weights[group[n], q], crops[n, q]
        data[n, 0, q] = coefficient.real * weight
        data[n, 1, q] = coefficient.imag * weight
        amplitude[n, q] = transfer[n, q] * weight


def whiten(crops, transfer, weights, data, amplitude) -> None:
    """On device arrays: crops (n, >= K) complex64 and transfer (n, K) float32 times weights: root_weights (groups, K) float32 at the group
    (n,) int64 of each image; into data (n, 2, K) and amplitude (n, K) float32.
    """
    whitening_kernel[(len(data), -(-transfer.shape[1] // THREADS)), THREADS](crops, transfer, weights, data, amplitude)
