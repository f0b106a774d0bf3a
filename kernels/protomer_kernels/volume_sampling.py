"""The Fourier transform of a sampled volume at any frequency: exact trigonometric interpolation, to float32's precision.

(1) F(k) = sum_x v(x) exp(-2 pi i k.x / N) for |k| <= limit, 0 beyond; x in voxels from the centre N//2, k in cycles per box

This is a type-2 non-uniform FFT (nufft.py): the volume is divided by the window's transform, padded twofold and transformed; then each
frequency gathers WIDTH^3 grid points. Unlike a trilinear slice it needs no correction afterwards, so it can serve as truth.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.fft

from protomer_kernels.atoms import window_weights
from protomer_kernels.nufft import HALF_WIDTH, OVERSAMPLING, WIDTH, window_table, window_transform

PLANES_AT_ONCE = 8


def sampling_grid(volume: np.ndarray, limit: int) -> np.ndarray:
    """Oversampled transform of a volume (N, N, N) [z, y, x], for `sample_volume_ft` up to `limit` <= N/2 cycles per box.

    Returns (2c + 1, 2c + 1, c + w/2 + 1) complex64 [kz, ky, kx], c = 2 limit + w/2 + 1; zero frequency is at (c, c, w/2).
    Raises ValueError where `limit` is beyond N/2.
    """
    box = len(volume)
    if limit > box / 2:
        raise ValueError(f"limit {limit} is beyond Nyquist of a box of {box}")
    size, centre = OVERSAMPLING * box, OVERSAMPLING * limit + HALF_WIDTH + 1
    inverse_window = (1.0 / window_transform(np.arange(box) - box // 2, box)).astype(np.float32)

    along_x, full = np.arange(-HALF_WIDTH, centre + 1), np.arange(-centre, centre + 1)

    def transformed(slab: np.ndarray, frequencies: np.ndarray, axis: int) -> np.ndarray:
        """One axis of a slab transformed, cropped to the wanted frequencies, and referred to the volume's centre."""
        weight = inverse_window.reshape([-1 if i == axis else 1 for i in range(3)])
        phase = np.exp(2j * math.pi * frequencies * (box // 2) / size).astype(np.complex64)
        spectrum = scipy.fft.fft(slab * weight, n=size, axis=axis).take(frequencies % size, axis=axis)
        spectrum *= phase.reshape([-1 if i == axis else 1 for i in range(3)])
        return spectrum

    flat = np.empty((box, len(full), len(along_x)), np.complex64)
    for z in range(0, box, PLANES_AT_ONCE):  # a few planes at a time: whole transforms would take several times the memory
        slab = slice(z, z + PLANES_AT_ONCE)
        flat[slab] = transformed(transformed(volume[slab], along_x, 2), full, 1)
    grid = np.empty((len(full), len(full), len(along_x)), np.complex64)
    for y in range(0, len(full), PLANES_AT_ONCE):
        slab = slice(y, y + PLANES_AT_ONCE)
        grid[:, slab] = transformed(flat[:, slab], full, 0)
    return grid


@numba.njit(parallel=True, cache=True, fastmath=True)
def gather_points(grid: np.ndarray, limit: int, points: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Eq. (1) at `points` (K, 3) float64 [x, y, z] in cycles per box, into `out` (K,) complex64."""
    centre = grid.shape[0] // 2
    for n in numba.prange(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        if x * x + y * y + z * z > limit * limit:
            out[n] = 0.0
            continue
        mate = x < 0.0  # a real volume: F(-k) is the conjugate of F(k)
        if mate:
            x, y, z = -x, -y, -z
        weight_x, weight_y, weight_z = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
        left = window_weights(table, x * OVERSAMPLING + HALF_WIDTH, weight_x)
        low = window_weights(table, y * OVERSAMPLING + centre, weight_y)
        back = window_weights(table, z * OVERSAMPLING + centre, weight_z)
        value = np.complex64(0.0)
        for k in range(WIDTH):
            for j in range(WIDTH):
                row = np.complex64(0.0)
                for i in range(WIDTH):
                    row += weight_x[i] * grid[back + k, low + j, left + i]
                value += weight_z[k] * weight_y[j] * row
        out[n] = np.conj(value) if mate else value


def sample_volume_ft(grid: np.ndarray, limit: int, points: np.ndarray) -> np.ndarray:
    """Eq. (1) at `points` (..., 3) [x, y, z] in cycles per box of the volume that `sampling_grid` was made from: (...) complex64."""
    flat = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
    out = np.empty(len(flat), np.complex64)
    gather_points(grid, limit, flat, window_table(), out)
    return out.reshape(points.shape[:-1])
