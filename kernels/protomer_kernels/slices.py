"""Slices through a Fourier volume (eq. (1) of the image model without CTF), and the padded, gridding-corrected volume they read.

Trilinear reading of the padded transform multiplies the map by sinc^2 in every direction (convolution with a triangle); the map is
divided by it beforehand (Penczek, Renka and Schomberg 2004, eq. 20, for a linear kernel).
"""

from __future__ import annotations

import numba
import numpy as np

from protomer_kernels.cells import corner_and_fractions, scaled_columns, turned_mate
from protomer_kernels.gather import load_cell_value
from protomer_kernels.libraries import library_of
from protomer_kernels.padded import PADDING, padded_transform


def gridding_correction(box: int) -> np.ndarray:
    """(box,) float64: what trilinear reading at padding 2 multiplies the map by along one axis."""
    return np.sinc((np.arange(box) - box // 2) / (PADDING * box)) ** 2


def volume_radius(radius: int) -> int:
    """Half-width in padded voxels of a Fourier volume that serves slices up to `radius`."""
    return PADDING * radius + 2


def transform_volume(volume: np.ndarray, radius: int, amplitude: float = 1.0, workers: int = 1) -> np.ndarray:
    """Map (D, D, D) float32 -> Fourier volume (n, n, r + 1, 2) float32, n = 2 r + 1, r = volume_radius(radius), scaled so that its
    slices are unitary transforms of the map's projections: F(map) / D * amplitude."""
    box = len(volume)
    correction = library_of(volume).arrays.asarray((1.0 / gridding_correction(box)).astype(np.float32))
    corrected = volume * correction[:, None, None] * correction[:, None] * (correction * np.float32(amplitude / box))
    spectrum = padded_transform(corrected.astype(np.float32, copy=False), volume_radius(radius), workers)
    return spectrum.view(np.float32).reshape(*spectrum.shape, 2)


@numba.njit(parallel=True, cache=True, nogil=True)
def extract_slices(volume, rotations, kx, ky, out):
    """Slices of a Fourier volume: rotations (n, 3, 3) float32; kx, ky (K,) float32, cycles per box; out (n, 2, K) float32, re and im."""
    centre = np.float32((volume.shape[0] - 1) // 2)
    plane, row = np.uint64(volume.shape[1] * volume.shape[2] * 2), np.uint64(volume.shape[2] * 2)
    flat = volume.ravel()
    for n in numba.prange(rotations.shape[0]):
        columns = scaled_columns(rotations[n])
        for q in range(kx.shape[0]):
            sign, _, _, point = turned_mate(columns, kx[q], ky[q])
            (k, j, i), (dx, dy, dz) = corner_and_fractions(point, centre)
            base = np.uint64(k) * plane + np.uint64(j) * row + np.uint64(i) * np.uint64(2)
            re, im = load_cell_value(flat, base, row, plane, dx, dy, dz)
            out[n, 0, q] = re
            out[n, 1, q] = sign * im
