"""What an M-step computes on a CUDA device's arrays, where the CPU has loops of Numba: the same formulas in operations on whole arrays.

Functions here take the place of those of the same names in protomer_kernels wherever the arrays lie on the device. Sums over
shells come from a kernel that adds in one order; all else is exact or element by element, so that the same bits come out every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from protomer.computing.device_arrays import device_library, seen_by_kernels
from protomer_kernels import insertion, libraries, shells, wiener, winding
from protomer_kernels.cuda.shells import padded_shells, partial_sums, rounded_shells, shell_sums
from protomer_kernels.cuda.winding import copies_of_planes
from protomer_kernels.cuda.winding import wind as wind_planes
from protomer_kernels.libraries import Library, library_of
from protomer_kernels.padded import LAYERS, PADDING

Rows = tuple[Any, ...]  # across, start and first of protomer_kernels.cuda.shells, on the device


@lru_cache(maxsize=1)
def served_library() -> Library:
    """The device's library, after these functions were made to be called for its arrays."""
    library = device_library()
    of_device = library.arrays.ndarray
    libraries.library_of.register(of_device, lambda array: library)
    insertion.accumulator_values.register(of_device, accumulator_values)
    wiener.shell_weights.register(of_device, shell_weights)
    wiener.quotient.register(of_device, quotient)
    wiener.add_expected.register(of_device, add_expected)
    shells.cross_sums.register(of_device, cross_sums)
    winding.wind.register(of_device, wind)
    return library


def accumulator_values(accumulator: Any, scale: float) -> tuple[Any, Any]:
    """As protomer_kernels.insertion.accumulator_values."""
    arrays = library_of(accumulator).arrays
    numerator, weight = arrays.empty(accumulator.shape[:3], np.complex64), arrays.empty(accumulator.shape[:3], np.float32)
    for part, out in enumerate((numerator.real, numerator.imag, weight)):
        np.multiply(accumulator[..., part], 1.0 / scale, out=out)
    numerator[:, :, 0] += np.conj(numerator[::-1, ::-1, 0])
    weight[:, :, 0] += weight[::-1, ::-1, 0].copy()  # a device would read what it has already changed
    return numerator, weight


def shell_weights(weight: Any, number: int) -> np.ndarray:
    """As protomer_kernels.wiener.shell_weights, on the host."""
    return sums_over_shells(weight, padded_rows(len(weight), number)) / np.maximum(_voxels_of_shells(weight.shape, number), 1.0)


@lru_cache(maxsize=4)
def _voxels_of_shells(shape: tuple[int, int, int], number: int) -> np.ndarray:
    """How many voxels of a padded Fourier volume lie in each shell: (number,)."""
    return sums_over_shells(device_library().arrays.ones(shape, np.float32), padded_rows(shape[0], number))


def quotient(numerator: Any, weight: Any, ridge: np.ndarray) -> Any:
    """As protomer_kernels.wiener.quotient."""
    arrays = library_of(numerator).arrays
    added = arrays.asarray(np.append(ridge, np.inf).astype(np.float32))
    for part, shell in shells_of_layers(numerator, len(ridge)):
        below = weight[part] + added[shell]
        numerator[part] *= np.float32(1.0) / np.where(below > 0, below, np.float32(np.inf))
    return numerator


def add_expected(numerator: Any, pull: np.ndarray, mean: Any) -> None:
    """As protomer_kernels.wiener.add_expected."""
    share = library_of(numerator).arrays.asarray(np.append(pull, 0.0).astype(np.float32))
    for part, shell in shells_of_layers(numerator, len(pull)):
        numerator[part] += share[shell] * mean[part]


def cross_sums(a_ft: Any, b_ft: Any) -> np.ndarray:
    """As protomer_kernels.shells.cross_sums, on the host."""
    box = len(a_ft)
    mates = library_of(a_ft).arrays.asarray(shells.friedel_weight(box).astype(np.float32))
    pairs = ((a_ft, b_ft), (a_ft, a_ft), (b_ft, b_ft))
    return np.stack([sums_over_shells((p.real * q.real + p.imag * q.imag) * mates, rows_of_transform(box)) for p, q in pairs], axis=1)


def wind(coefficients: Any, lattice: tuple[float, float], window: tuple[float, float, float]) -> Any:
    """As protomer_kernels.winding.wind, in float32."""
    arrays = library_of(coefficients).arrays
    copies = tuple(arrays.asarray(table) for table in copies_of_planes(len(coefficients), lattice, window))
    out = arrays.empty(coefficients.shape, np.float32)
    wind_planes(*seen_by_kernels((coefficients.astype(np.float32), copies, window[2], out)))
    return out


def sums_over_shells(values: Any, rows: Rows) -> np.ndarray:
    """Sums by shell (shells,) float64, on the host, of values (n, n, columns) float32."""
    out = library_of(values).arrays.zeros(partial_sums(len(rows[0]), len(rows[2]) - 1), np.float32)
    shell_sums(*seen_by_kernels((values.reshape(len(rows[0]), -1), *rows, out)))
    return np.asarray(out.sum(axis=0, dtype=np.float64).get())


@lru_cache(maxsize=4)
def padded_rows(side: int, number: int) -> Rows:
    """Of a padded Fourier volume (side, side, r + 1), by shells of unpadded width."""
    return _rows(np.arange(side) - (side - 1) // 2, padded_shells(number))


@lru_cache(maxsize=4)
def rows_of_transform(box: int) -> Rows:
    """Of a half transform (box, box, box // 2 + 1)."""
    return _rows(shells.half_frequencies(box, 2)[0].ravel(), rounded_shells(box // 2 + 1))


def _rows(axis: np.ndarray, first: np.ndarray) -> Rows:
    """Of a volume whose first two axes have these frequencies."""
    square = np.rint(axis).astype(np.int64) ** 2
    across = (square[:, None] + square).ravel()
    start = np.searchsorted(first, across, side="right") - 1
    return tuple(device_library().arrays.asarray(table.astype(np.int32)) for table in (across, start, first))


def shells_of_layers(volume: Any, most: int) -> Iterator[tuple[slice, Any]]:
    """A few planes of a padded Fourier volume (n, n, r + 1) at a time: which, and the shell of each voxel, `most` from there on."""
    arrays, centre = library_of(volume).arrays, (len(volume) - 1) // 2
    axis = arrays.arange(-centre, centre + 1, dtype=np.float32)
    across = axis[:, None] ** 2 + arrays.arange(volume.shape[2], dtype=np.float32) ** 2
    for first in range(0, len(volume), LAYERS):
        part = slice(first, first + LAYERS)
        shell = np.rint(np.sqrt(axis[part, None, None] ** 2 + across) / np.float32(PADDING))
        yield part, np.minimum(shell, np.float32(most)).astype(np.int32)
