"""Fourier shell correlation by direction: sums over the coefficients of a shell that lie in a cone.

(1) FSC(s, u) = sum Re(A conj B) / sqrt(sum |A|^2 sum |B|^2) over coefficients k of shell s whose angle to the axis u, or to -u, is at most
    that of the cone: Tan et al. (2017), Nature Methods 14, 793
"""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(parallel=True, cache=True, nogil=True)
def _cone_sums(a_ft, b_ft, axes, cosine_squared, out):
    """Per cone and shell the sums of Re(a conj b), |a|^2, |b|^2 and their number into out (cones, shells, 4), in fixed order."""
    box, last = a_ft.shape[0], out.shape[1] - 1
    half, limit = box // 2, (last + 0.5) ** 2
    for cone in numba.prange(axes.shape[0]):
        for z in range(box):
            kz = z if z <= half else z - box
            for y in range(box):
                ky = y if y <= half else y - box
                across = kz * kz + ky * ky
                if across >= limit:
                    continue
                beside = kz * axes[cone, 2] + ky * axes[cone, 1]
                for x in range(half + 1):
                    square = across + x * x
                    if square >= limit:
                        break
                    along = beside + x * axes[cone, 0]
                    if along * along < cosine_squared * square:
                        continue
                    shell = int(math.sqrt(square) + 0.5)
                    weight = 1.0 if x == 0 or 2 * x == box else 2.0
                    ar, ai = np.float64(a_ft[z, y, x].real), np.float64(a_ft[z, y, x].imag)
                    br, bi = np.float64(b_ft[z, y, x].real), np.float64(b_ft[z, y, x].imag)
                    out[cone, shell, 0] += weight * (ar * br + ai * bi)
                    out[cone, shell, 1] += weight * (ar * ar + ai * ai)
                    out[cone, shell, 2] += weight * (br * br + bi * bi)
                    out[cone, shell, 3] += weight


def cone_cross_sums(a_ft: np.ndarray, b_ft: np.ndarray, axes: np.ndarray, half_angle_rad: float, last_shell: int) -> np.ndarray:
    """Sums of eq. (1) for two half transforms (D, D, D // 2 + 1) in cones about axes (n, 3) [x, y, z], unit vectors.

    Returns (n, last_shell + 1, 4) float64: Re(A conj B), |A|^2, |B|^2 and how many coefficients there are.
    Raises ValueError where the two are not of one shape.
    """
    box = a_ft.shape[0]
    if a_ft.shape != b_ft.shape or a_ft.shape != (box, box, box // 2 + 1):
        raise ValueError(f"expected two half transforms of shape (D, D, D // 2 + 1), found {a_ft.shape} and {b_ft.shape}")
    out = np.zeros((len(axes), last_shell + 1, 4))
    _cone_sums(a_ft, b_ft, np.ascontiguousarray(axes, np.float64), math.cos(half_angle_rad) ** 2, out)
    return out
