"""A map made helical: every voxel the mean of what the subunits of the map's central part show in its place.

With g: x -> Rz(twist) x + rise z, from one subunit to the next (right-handed twist positive), and V the map,

(1) W(r) = sum_n w(z_n) V(g^-n r) / sum_n w(z_n),   g^-n r = Rz(-n twist) (r - n rise z),   z_n = z - n rise      Egelman 2000, IHRSR;
    w(z) = 1 up to half the central length from the centre, and falls as half a cosine over an edge beyond     He and Scheres 2017, 2.3
(2) V between voxels by cubic B-splines: coefficients c from scipy.ndimage.spline_filter, V(x) = sum_i c_i b(x - i)         Unser 1999

Within a plane of W all x and y have the same z_n, so that c is first summed along z to one plane, then looked up in x and y.
"""

from __future__ import annotations

from functools import singledispatch

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.libraries import library_of

MARGIN_PX = 3.0  # of the box: a spline at a point within it has its four samples, on the last voxel too
EDGE_PX = 2.0
ONE, THREE, FOUR, SIX = (np.float32(number) for number in (1.0, 3.0, 4.0, 6.0))


@register_jitable
def spline_weights(fraction):
    """b of eq. (2) at the four nearest samples of a point `fraction` beyond the second."""
    rest = ONE - fraction
    before, second = rest * rest * rest / SIX, (FOUR - SIX * fraction * fraction + THREE * fraction * fraction * fraction) / SIX
    third, after = (FOUR - SIX * rest * rest + THREE * rest * rest * rest) / SIX, fraction * fraction * fraction / SIX
    return before, second, third, after


@register_jitable
def _spline_weights(fraction, out):
    """spline_weights in an array."""
    out[0], out[1], out[2], out[3] = spline_weights(fraction)


@register_jitable
def weight_of_copy(there, half_px, edge_px):
    """w of eq. (1) at z."""
    beyond = max(abs(there) - half_px, 0.0)
    return 0.5 + 0.5 * np.cos(np.pi * min(beyond / edge_px, 1.0))


@register_jitable
def _add_turned(plane, angle, weight, radius_px, taps, out):
    """Adds weight times `plane` (spline coefficients in x and y), turned by an angle about its centre, within a radius."""
    box = plane.shape[0]
    centre = box // 2
    cosine, sine = np.cos(angle), np.sin(angle)
    reach = int(radius_px)
    for y in range(max(centre - reach, 0), min(centre + reach + 1, box)):
        for x in range(max(centre - reach, 0), min(centre + reach + 1, box)):
            dx, dy = x - centre, y - centre
            if dx * dx + dy * dy > radius_px * radius_px:
                continue
            u, v = centre + cosine * dx + sine * dy, centre - sine * dx + cosine * dy
            i, j = int(np.floor(u)), int(np.floor(v))
            _spline_weights(u - i, taps[0])
            _spline_weights(v - j, taps[1])
            total = 0.0
            for q in range(4):
                row = 0.0
                for p in range(4):
                    row += taps[0, p] * plane[j - 1 + q, i - 1 + p]
                total += taps[1, q] * row
            out[y, x] += weight * total


@numba.njit(parallel=True, cache=True, nogil=True)
def _wind(coefficients, lattice, window, out):
    """Eq. (1) from spline coefficients (D, D, D) float64; lattice: twist (rad) and rise (px); window: half the central length, edge and
    radius (px)."""
    twist_rad, rise_px = lattice
    half_px, edge_px, radius_px = window
    box = coefficients.shape[0]
    centre = box // 2
    for z in numba.prange(box):
        taps, along = np.empty((2, 4)), np.empty(4)
        total, weights = np.zeros((box, box)), 0.0
        first = int(np.ceil((z - centre - half_px - edge_px) / rise_px))
        last = int(np.floor((z - centre + half_px + edge_px) / rise_px))
        for n in range(first, last + 1):
            there = z - centre - n * rise_px
            weight = weight_of_copy(there, half_px, edge_px)
            if weight <= 0.0:
                continue
            k = int(np.floor(there))
            _spline_weights(there - k, along)
            base = k + centre - 1
            plane = np.zeros((box, box))
            for m in range(4):
                plane += along[m] * coefficients[base + m]
            _add_turned(plane, n * twist_rad, weight, radius_px, taps, total)
            weights += weight
        out[z] = total / weights


def longest_part_px(box: int) -> float:
    """The longest central part that `wound` can take."""
    return 2.0 * (box // 2 - MARGIN_PX - EDGE_PX) - 0.5


def wound(volume: np.ndarray, twist_rad: float, rise_px: float, central_px: float, radius_px: float | None = None) -> np.ndarray:
    """Eq. (1) of a map (D, D, D): float32, 0 beyond a radius about z (unset: as far as the box goes).

    central_px: length along z of the part whose subunits count. Raises ValueError where it holds no subunit of every place, or lies so
    near the ends of the box that splines lack samples. It is made where the map lies.
    """
    box = len(volume)
    half_px, farthest = central_px / 2, box // 2 - MARGIN_PX
    if not (0 < rise_px <= central_px and half_px + EDGE_PX < farthest):
        raise ValueError(f"a rise of {rise_px:g} px, with the central {central_px:g} px of a box of {box}")
    radius = farthest if radius_px is None else min(radius_px, farthest)
    coefficients = library_of(volume).ndimage.spline_filter(volume.astype(np.float64), order=3)
    return wind(coefficients, (float(twist_rad), float(rise_px)), (half_px, EDGE_PX, float(radius)))


@singledispatch
def wind(coefficients: np.ndarray, lattice: tuple[float, float], window: tuple[float, float, float]) -> np.ndarray:
    """Eq. (1), (D, D, D) float32, from spline coefficients (D, D, D) float64; lattice and window as _wind takes them."""
    out = np.empty(coefficients.shape, np.float32)
    _wind(coefficients, lattice, window, out)
    return out
