"""The Fourier transform of a sampled volume at any frequency: exact trigonometric interpolation, to float32's precision.

(1) F(k) = sum_x v(x) exp(-2 pi i k.x / N) for |k| <= limit, 0 beyond; x in voxels from the centre N//2, k in cycles per box

This is a type-2 non-uniform FFT (nufft.py): the volume is divided by the window's transform, padded twofold and transformed; then each
frequency gathers WIDTH^3 grid points. Unlike a trilinear slice it needs no correction afterwards, so it can serve as truth.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from protomer_kernels.field_sampling import interleave, sample_fields
from protomer_kernels.nufft import HALF_WIDTH, OVERSAMPLING, window_transform

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


def sample_volume_ft(grid: np.ndarray, limit: int, points: np.ndarray) -> np.ndarray:
    """Eq. (1) at `points` (..., 3) [x, y, z] in cycles per box of the volume that `sampling_grid` was made from: (...) complex64."""
    return sample_fields(interleave((grid,)), 1, limit, points)[..., 0]
