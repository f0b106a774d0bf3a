"""Correlation of two maps in a band of frequencies and a window about each place.

With a and b two maps of which a band H is left, and g a window of sum 1 that falls to nothing at its width w,

(1) H(k) = (1 + cos(pi (|k| - r) / h)) / 2 for | |k| - r | < h, else 0: no power leaks in from frequencies where there is more of it
(2) c(x) = g * (a b) / sqrt((g * a^2) (g * b^2)): the windowed FSC (Cardone, Heymann & Steven 2013, J. Struct. Biol. 184, 226) with band
    and window exchanged, as band-passed maps are correlated in SPHIRE (Moriya et al. 2017, J. Vis. Exp. 123, 55448)
(3) g(x) ~ (1 + cos(pi |x| / w)) / 2 for |x| < w, else 0: its full width at half maximum is w. A Gaussian has no end, and what is strong
    outshines what is weak from afar
(4) without anything in common, var c = integral of (g x g)(t) rho(t)^2 over all displacements t: g x g the autocorrelation of the window,
    rho that of noise in the band; the inverse is the number of independent pairs of values that c is made of

Products of two bands reach 2 (r + h), of which the window leaves what lies below its own cut-off: coarse bands are worked on in small
grids, and c, smooth as the window, is given on a grid that just holds it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft

from protomer_kernels.shells import half_radius

WINDOW_END = 2.5  # cycles per width: beyond, a window has less than 0.0013 of its transform left
RADII = 400  # points of the integrals in (3) and (4)


def band_weight(radius: np.ndarray, middle: float, half_width: float) -> np.ndarray:
    """Eq. (1) at |k| = radius, all in cycles per box."""
    distance = np.clip(np.abs(radius - middle) / half_width, 0.0, 1.0)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * distance))


def grid_for_window(box: int, width_px: float) -> int:
    """Edge of the smallest convenient grid that holds a field smoothed by a window of this width (voxels of the box)."""
    return min(box, int(fft.next_fast_len(2 * math.ceil(WINDOW_END * box / width_px) + 1, real=True)))


def grid_for_band(box: int, middle: float, half_width: float, width_px: float) -> int:
    """Edge of a grid on which products of two bands, below the cut-off of a window, are free of aliasing; the box itself at most."""
    needed = 2.0 * (middle + half_width) + WINDOW_END * box / width_px
    return min(box, int(fft.next_fast_len(math.ceil(needed) + 2, real=True)))


def resized_half_transform(spectrum: np.ndarray, box: int, new_box: int) -> np.ndarray:
    """The frequencies that the half transforms (D, D, D // 2 + 1) of two boxes share, on the second; others are 0. Corners stay corners."""
    keep = (min(box, new_box) - 1) // 2
    out = np.zeros((new_box, new_box, new_box // 2 + 1), spectrum.dtype)
    ends = (slice(0, keep + 1), slice(-keep, None)) if keep else (slice(0, 1),)
    for z in ends:
        for y in ends:
            out[z, y, : keep + 1] = spectrum[z, y, : keep + 1]
    return out


def in_band(spectrum: np.ndarray, middle: float, half_width: float, grid: int) -> np.ndarray:
    """A map of which a band is left, from its half transform (D, D, D // 2 + 1), at the points of a grid: (grid,) * 3, unscaled."""
    small = resized_half_transform(spectrum, len(spectrum), grid)
    square = np.rint(fft.fftfreq(grid, 1.0 / grid)).astype(np.float32) ** 2
    across = np.arange(grid // 2 + 1, dtype=np.float32) ** 2
    for z in range(grid):  # plane by plane: weights of a whole grid are as large as the map
        radius = np.sqrt(square[z] + square[:, None] + across[None, :])
        small[z] *= band_weight(radius, middle, half_width).astype(np.float32)
    return np.asarray(fft.irfftn(small, (grid,) * 3, overwrite_x=True))


def window_transform(cycles: np.ndarray, width_px: float, box: int) -> np.ndarray:
    """The transform of window (3) at |q| in cycles per box, 1 at 0."""
    r = np.linspace(0.0, 1.0, RADII)
    weight = (0.5 + 0.5 * np.cos(np.pi * r)) * r * r
    q = np.linspace(0.0, max(float(cycles.max()), 1.0), RADII)
    transform = (weight * np.sinc(2.0 * width_px / box * q[:, None] * r)).sum(axis=1) / weight.sum()
    return np.interp(cycles, q, transform)


def smoothed(field: np.ndarray, width_px: float, box: int, grid: int) -> np.ndarray:
    """A periodic field (n, n, n) of the extent of a box, smoothed by window (3), its width in voxels of the box, on a grid."""
    spectrum = resized_half_transform(fft.rfftn(field), len(field), grid)
    spectrum *= window_transform(half_radius(grid, 3), width_px, box).astype(np.float32)
    return np.asarray(fft.irfftn(spectrum, (grid,) * 3, overwrite_x=True)) * np.float32((grid / len(field)) ** 3)


def local_correlation(a_ft: np.ndarray, b_ft: np.ndarray, band: tuple[float, float], width_px: float, grid: int) -> np.ndarray:
    """Eq. (2) from the half transforms (D, D, D // 2 + 1) of two maps, in a band (middle, half width; cycles per box): (grid,) * 3 float32.

    Point j of the grid is voxel j D / grid. Where either map has no power in band and window the correlation is 0.
    """
    box = len(a_ft)
    fine = grid_for_band(box, *band, width_px)
    a, b = in_band(a_ft, *band, fine), in_band(b_ft, *band, fine)
    cross = smoothed(a * b, width_px, box, grid)
    np.square(a, out=a)
    np.square(b, out=b)
    power = smoothed(a, width_px, box, grid) * smoothed(b, width_px, box, grid)
    floor = 1e-10 * float(np.abs(power).max())
    out = np.divide(cross, np.sqrt(np.maximum(power, floor)), out=np.zeros_like(cross), where=power > floor)
    return np.clip(out, -1.0, 1.0).astype(np.float32)


def independent_pairs(box: int, band: tuple[float, float], width_px: float) -> float:
    """1 / var c of eq. (4) for white noise in the band; at least 3.

    rho is the transform of H^2, and g x g that of |g|^2's, both integrals over radii.
    """
    middle, half_width = band
    k = np.linspace(max(middle - half_width, 0.0), middle + half_width, RADII)
    weight = (band_weight(k, middle, half_width) * k) ** 2
    t = np.linspace(0.0, 2.0 * width_px, 4 * RADII)
    rho = (weight * np.sinc(2.0 * k * t[:, None] / box)).sum(axis=1) / weight.sum()
    q = np.linspace(0.0, 2.0 * WINDOW_END * box / width_px, 2 * RADII)
    power = (window_transform(q, width_px, box) * q) ** 2
    overlap = (power * np.sinc(2.0 * q * t[:, None] / box)).sum(axis=1) * (q[1] - q[0]) * 4.0 * np.pi / box**3  # g x g at t
    variance = float((4.0 * np.pi * t**2 * overlap * rho**2).sum() * (t[1] - t[0]))
    return max(1.0 / variance, 3.0)
