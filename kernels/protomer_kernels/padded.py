"""Fourier transforms between a map and the central part of its padded transform, without ever forming the padded box.

A map of `box` voxels about voxel box // 2, surrounded by zeros up to P = PADDING box, has the transform

    F(k) = sum_r v(r) exp(-2 pi i k.(r - box // 2) / P)                                                                   (1)

One axis at a time, zeros are not transformed, frequencies beyond the wanted radius are dropped at once, and on the way back so are voxels
outside the map: about half the work of the padded box, and a third of its memory.
"""

from __future__ import annotations

import numpy as np

from protomer_kernels.libraries import library_of

PADDING = 2
LAYERS = 32  # planes that are transformed at once along the outer axes


def _ramp(frequencies: np.ndarray, box: int) -> np.ndarray:
    """exp(2 pi i k (box // 2) / P): from a transform that starts at the first voxel to one about the centre. complex64."""
    return np.exp(2j * np.pi * ((frequencies * (box // 2)) % (PADDING * box)) / (PADDING * box)).astype(np.complex64)


def padded_transform(volume: np.ndarray, reach: int, workers: int = 1) -> np.ndarray:
    """Eq. (1) for |k| <= reach on each axis: volume (D, D, D) float32 -> complex64 (n, n, reach + 1), n = 2 reach + 1, [z, y, x >= 0]."""
    box = len(volume)
    padded = PADDING * box
    signed = np.arange(-reach, reach + 1)
    columns = np.arange(reach + 1)
    arrays, fft = library_of(volume).arrays, library_of(volume).fft
    ramp, row_ramp = arrays.asarray(_ramp(columns, box)), arrays.asarray(_ramp(signed, box))
    rows, own = arrays.asarray(signed % padded), arrays.asarray(np.minimum(columns, padded - columns))
    half = fft.rfft(volume, n=padded, axis=2, workers=workers)[:, :, own]
    np.conj(half[:, :, padded // 2 + 1 :], out=half[:, :, padded // 2 + 1 :])  # beyond Nyquist a line holds its mates
    half *= ramp
    plane = arrays.empty((box, len(rows), len(columns)), np.complex64)
    for z in range(0, box, LAYERS):
        part = slice(z, z + LAYERS)
        plane[part] = fft.fft(half[part], n=padded, axis=1, workers=workers)[:, rows] * row_ramp[:, None]
    del half
    out = arrays.empty((len(rows), len(rows), len(columns)), np.complex64)
    for y in range(0, len(rows), LAYERS):
        part = slice(y, y + LAYERS)
        out[:, part] = fft.fft(plane[:, part], n=padded, axis=0, workers=workers)[rows] * row_ramp[:, None, None]
    return out


def map_of_transform(spectrum: np.ndarray, box: int, workers: int = 1) -> np.ndarray:
    """The map (box, box, box) float32 whose padded transform has these central coefficients (as padded_transform gives them) and no others.

    Coefficients at and beyond the padded box's Nyquist are left out.
    """
    padded = PADDING * box
    centre = (spectrum.shape[0] - 1) // 2
    reach = min(centre, padded // 2 - 1)
    signed = np.arange(-reach, reach + 1)
    arrays, fft = library_of(spectrum).arrays, library_of(spectrum).fft
    rows, ramp = arrays.asarray(signed % padded), arrays.asarray(_ramp(signed, box).conj())
    core = spectrum[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1, : reach + 1]
    columns = arrays.empty((box, len(rows), reach + 1), np.complex64)
    for y in range(0, len(rows), LAYERS):
        part = core[:, y : y + LAYERS]
        spread = arrays.zeros((padded, *part.shape[1:]), np.complex64)
        spread[rows] = part * ramp[:, None, None]
        columns[:, y : y + LAYERS] = fft.ifft(spread, axis=0, workers=workers, overwrite_x=True)[:box]
    volume = arrays.empty((box, box, box), np.float32)
    for z in range(0, box, LAYERS):
        part = columns[z : z + LAYERS]
        spread = arrays.zeros((len(part), padded, reach + 1), np.complex64)
        spread[:, rows] = part * ramp[:, None]
        lines = fft.ifft(spread, axis=1, workers=workers, overwrite_x=True)[:, :box] * ramp[reach:]
        volume[z : z + LAYERS] = fft.irfft(lines, n=padded, axis=2, workers=workers)[:, :, :box]
    return volume
