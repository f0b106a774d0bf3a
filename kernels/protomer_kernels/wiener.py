"""From accumulated slices to a map: the regularised least-squares solution and the gridding correction.

    V = numerator / (weight + 1 / tau^2),   1 / tau^2 = mean weight of the shell / SSNR of the shell                      (1)

(Scheres 2012, eq. 8, with tau^2 from the half-map FSC: SSNR = FSC / (1 - FSC), Rosenthal and Henderson 2003.) Where V is expected to be
near a mean M rather than near 0,

    V = (numerator + M / tau^2) / (weight + 1 / tau^2)                                                                   (2)
"""

from __future__ import annotations

from functools import singledispatch

import numba
import numpy as np

from protomer_kernels.libraries import library_of
from protomer_kernels.padded import PADDING, map_of_transform
from protomer_kernels.slices import gridding_correction


@singledispatch
def shell_weights(weight: np.ndarray, shells: int) -> np.ndarray:
    """Mean of weight (n, n, r + 1) over each shell of unpadded width: (shells,) float64; 0 for shells that hold no voxel."""
    means: np.ndarray = _means_over_shells(weight, shells)
    return means


@numba.njit(cache=True)
def _means_over_shells(weight, shells):
    """As shell_weights."""
    centre = (weight.shape[0] - 1) // 2
    total, count = np.zeros(shells), np.zeros(shells)
    for k in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            for i in range(weight.shape[2]):
                shell = int(np.rint(np.sqrt((k - centre) ** 2 + (j - centre) ** 2 + i**2) / PADDING))
                if shell < shells:
                    total[shell] += weight[k, j, i]
                    count[shell] += 1.0
    return total / np.maximum(count, 1.0)


@numba.njit(parallel=True, cache=True)
def _divide(numerator, weight, ridge, out):
    """Eq. (1) on the voxels of the shells that ridge covers; zero beyond. out (n, n, r + 1) complex64."""
    centre = (weight.shape[0] - 1) // 2
    for k in numba.prange(weight.shape[0]):
        for j in range(weight.shape[1]):
            for i in range(weight.shape[2]):
                shell = int(np.rint(np.sqrt((k - centre) ** 2 + (j - centre) ** 2 + i**2) / PADDING))
                inside = shell < ridge.shape[0] and weight[k, j, i] + ridge[min(shell, ridge.shape[0] - 1)] > 0.0
                out[k, j, i] = numerator[k, j, i] / np.float32(weight[k, j, i] + ridge[shell]) if inside else np.complex64(0.0)


@singledispatch
def add_expected(numerator: np.ndarray, pull: np.ndarray, mean: np.ndarray) -> None:
    """Eq. (2)'s numerator in place: numerator and mean (n, n, r + 1) complex64; pull (shells,) float64 is 1 / tau^2, times the share of
    the mean that is expected."""
    _add_by_shell(numerator, pull, mean)


@numba.njit(parallel=True, cache=True)
def _add_by_shell(numerator, pull, mean):
    """As add_expected."""
    centre = (numerator.shape[0] - 1) // 2
    for k in numba.prange(numerator.shape[0]):
        for j in range(numerator.shape[1]):
            for i in range(numerator.shape[2]):
                shell = int(np.rint(np.sqrt((k - centre) ** 2 + (j - centre) ** 2 + i**2) / PADDING))
                if shell < pull.shape[0]:
                    numerator[k, j, i] += np.float32(pull[shell]) * mean[k, j, i]


@singledispatch
def quotient(numerator: np.ndarray, weight: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Eq. (1) without the way back to real space: (n, n, r + 1) complex64. It takes the numerator's place."""
    _divide(numerator, weight, ridge.astype(np.float64), numerator)
    return numerator


def solve_volume(numerator: np.ndarray, weight: np.ndarray, ridge: np.ndarray, box: int, workers: int = 1) -> np.ndarray:
    """Eq. (1) to a map (box, box, box) float32.

    numerator complex64 and weight float32 (n, n, r + 1) from accumulator_values; ridge (shells,) float64 is 1 / tau^2; coefficients in
    shells past its end are zero. `box` may be smaller than that of the images: the same field of view in coarser voxels. The quotient
    takes the numerator's place: it is the largest array of a reconstruction.
    """
    return map_of_quotient(quotient(numerator, weight, ridge), box, workers)


def map_of_quotient(solved: np.ndarray, box: int, workers: int = 1) -> np.ndarray:
    """The map (box, box, box) float32 of eq. (1)'s quotient (n, n, r + 1), which is used up."""
    volume = map_of_transform(solved, box, workers)
    correction = library_of(volume).arrays.asarray((1.0 / gridding_correction(box)).astype(np.float32))
    volume *= correction[:, None, None] * np.float32(box)
    volume *= correction[:, None] * correction
    return volume
