"""Shells of Fourier space: indices, sums, means, spectra and the Fourier shell correlation.

A coefficient at integer frequency k (cycles per box) lies in shell round(|k|). Shells run from 0 to box // 2; the corners beyond
belong to none. Real arrays have the half transform of scipy.fft.rfftn, last axis 0 .. box // 2; its columns 0 and (even box) box / 2
hold both members of each Friedel pair, every other column stands for two; all sums here count that, so that they equal sums over the
full transform.

(1) FSC(s) = sum_s Re(A conj B) / sqrt(sum_s |A|^2 sum_s |B|^2): Harauz & van Heel (1986), Optik 73, 146.
"""

from __future__ import annotations

from functools import lru_cache, singledispatch

import numba
import numpy as np
from scipy import fft

from protomer_kernels.libraries import HOST, Library, library_of


def half_frequencies(box: int, ndim: int, library: Library = HOST) -> tuple[np.ndarray, ...]:
    """Integer frequencies (cycles per box) along each axis of a half transform, float64, shaped to broadcast against it."""
    full = np.rint(fft.fftfreq(box, 1.0 / box))
    last = np.arange(box // 2 + 1, dtype=np.float64)
    axes = [full] * (ndim - 1) + [last]
    return tuple(library.arrays.asarray(axis.reshape([-1 if i == j else 1 for j in range(ndim)])) for i, axis in enumerate(axes))


def half_radius(box: int, ndim: int, library: Library = HOST) -> np.ndarray:
    """|k| in cycles per box on the half transform: (box, ..., box // 2 + 1) float32."""
    return np.sqrt(sum(axis * axis for axis in half_frequencies(box, ndim, library))).astype(np.float32)


def half_shell_index(box: int, ndim: int) -> np.ndarray:
    """Shell of every coefficient of the half transform: (box, ..., box // 2 + 1) int32; corners have indices above box // 2."""
    return np.rint(np.sqrt(sum(axis * axis for axis in half_frequencies(box, ndim)))).astype(np.int32)


def centred_shell_index(box: int, ndim: int) -> np.ndarray:
    """Shell of every voxel of a centred array (origin at box // 2), in either space: (box, ...) int32; corners lie above box // 2."""
    axis = np.arange(box, dtype=np.float64) - box // 2
    squares = np.meshgrid(*[axis * axis] * ndim, indexing="ij", sparse=True)
    return np.rint(np.sqrt(sum(squares))).astype(np.int32)


@lru_cache(maxsize=4)
def shell_counts(box: int) -> np.ndarray:
    """Number of Fourier coefficients of a real (box, box, box) volume in each shell, both Friedel mates counted: (box // 2 + 1,) int64."""
    index = half_shell_index(box, 3)
    weight = np.broadcast_to(friedel_weight(box), index.shape)
    counts = np.bincount(index.ravel(), weight.ravel())[: box // 2 + 1].astype(np.int64)
    counts.flags.writeable = False
    return counts


def friedel_weight(box: int) -> np.ndarray:
    """How many coefficients of the full transform a column of the half transform stands for: (box // 2 + 1,) float64 of 1 and 2."""
    weight = np.full(box // 2 + 1, 2.0)
    weight[0] = 1.0
    if box % 2 == 0:
        weight[-1] = 1.0
    return weight


@numba.njit(cache=True, nogil=True)
def _cross_sums(a_ft: np.ndarray, b_ft: np.ndarray, box: int, out: np.ndarray) -> None:
    """Per shell sum of Re(a conj b), |a|^2, |b|^2 of (box, box, box // 2 + 1) into out (box // 2 + 1, 3), in a fixed order."""
    half = box // 2
    limit = (half + 0.5) ** 2
    for z in range(a_ft.shape[0]):
        kz = z if z <= half else z - box
        for y in range(a_ft.shape[1]):
            ky = y if y <= half else y - box
            across = kz * kz + ky * ky
            for x in range(a_ft.shape[2]):
                square = across + x * x
                if square >= limit:
                    break
                shell = int(np.sqrt(np.float64(square)) + 0.5)
                weight = 1.0 if x == 0 or 2 * x == box else 2.0
                ar, ai = np.float64(a_ft[z, y, x].real), np.float64(a_ft[z, y, x].imag)
                br, bi = np.float64(b_ft[z, y, x].real), np.float64(b_ft[z, y, x].imag)
                out[shell, 0] += weight * (ar * br + ai * bi)
                out[shell, 1] += weight * (ar * ar + ai * ai)
                out[shell, 2] += weight * (br * br + bi * bi)


def shell_cross_sums(a_ft: np.ndarray, b_ft: np.ndarray) -> np.ndarray:
    """Sums per shell of Re(A conj B), |A|^2 and |B|^2 for two half transforms (D, D, D // 2 + 1): (D // 2 + 1, 3) float64.

    Raises ValueError where the two are not half transforms of one shape.
    """
    box = a_ft.shape[0]
    if a_ft.shape != b_ft.shape or a_ft.shape != (box, box, box // 2 + 1):
        raise ValueError(f"expected two half transforms of shape (D, D, D // 2 + 1), found {a_ft.shape} and {b_ft.shape}")
    return cross_sums(a_ft, b_ft)


@singledispatch
def cross_sums(a_ft: np.ndarray, b_ft: np.ndarray) -> np.ndarray:
    """`shell_cross_sums` of arrays that are known to have the right shape."""
    box = a_ft.shape[0]
    out = np.zeros((box // 2 + 1, 3))
    _cross_sums(a_ft, b_ft, box, out)
    return out


def correlation_from_sums(sums: np.ndarray) -> np.ndarray:
    """Equation (1) from the (..., 3) sums of `shell_cross_sums`; a shell without power in either map has correlation 0."""
    scale = np.sqrt(sums[..., 1] * sums[..., 2])
    return np.divide(sums[..., 0], scale, out=np.zeros_like(scale), where=scale > 0)


def fourier_shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equation (1) between two real volumes (D, D, D): (D // 2 + 1,) float64, shell 0 first."""
    transform = library_of(a).fft.rfftn
    return correlation_from_sums(shell_cross_sums(transform(a), transform(b)))


def shell_mean(values: np.ndarray) -> np.ndarray:
    """Mean per shell of real values on a half grid (D, D, D // 2 + 1) or (D, D // 2 + 1): (D // 2 + 1,) float64."""
    box = values.shape[0]
    index = half_shell_index(box, values.ndim).ravel()
    weight = np.broadcast_to(friedel_weight(box), values.shape).ravel()
    sums = np.bincount(index, weight * values.ravel())
    return (sums / np.bincount(index, weight))[: box // 2 + 1]


def shell_power(volume: np.ndarray) -> np.ndarray:
    """Mean |F|^2 per shell of a real volume (D, D, D), F the unnormalised transform: (D // 2 + 1,) float64."""
    volume_ft = fft.rfftn(volume)
    box = volume.shape[0]
    return shell_cross_sums(volume_ft, volume_ft)[:, 1] / shell_counts(box)


def centred_shell_mean(values: np.ndarray) -> np.ndarray:
    """Mean over spherical (circular) shells about D // 2 of a centred (D, ...) array, in either space: (D // 2 + 1,) float64."""
    box = values.shape[0]
    index = centred_shell_index(box, values.ndim).ravel()
    return (np.bincount(index, values.ravel().astype(np.float64)) / np.bincount(index))[: box // 2 + 1]


def spread_over_half_grid(per_shell: np.ndarray, box: int, ndim: int, library: Library = HOST) -> np.ndarray:
    """Per-shell values interpolated linearly in |k| onto the half grid, float32; zero in the corners beyond the last shell."""
    arrays, radius = library.arrays, half_radius(box, ndim, library)
    spread: np.ndarray = arrays.interp(radius, arrays.arange(len(per_shell)), arrays.asarray(per_shell), right=0.0)
    return spread.astype(np.float32)
