"""Resolution place by place: how far two half maps agree in a window about each voxel.

Bands of frequencies are tried from coarse to fine. A place is resolved as far as its correlation (protomer_kernels/local_correlation.py) is
in every band, or in one of any two that follow each other (in a coarse band a place may happen to have no density),

(1) at or above the threshold, and
(2) more than noise gives by chance. Without signal atanh(c) sqrt(N - 2) is standard normal, N the number of independent pairs of values in
    band and window (Fisher 1915, for known means); of all places looked at, those count of which no more than a given share is expected
    to be false: Benjamini & Yekutieli (2001), Ann. Stat. 29, 1165, for p-values that depend on each other. Half of that share is allowed
    in each band, since the first two decide whether a place has a resolution at all.

False discovery rates for FSCs, by permutation where (2) has the formula: Beckers & Sachse (2020), J. Struct. Biol. 212, 107579. Between
the last band that holds and the first that fails the crossing is interpolated.

Windows are as narrow as (2) allows: so wide that a band has PAIRS independent pairs of values in them, two to three wavelengths, or wider
where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import ndtr, ndtri

from protomer.maps.volumes import Halves, Volume
from protomer_kernels.fourier import filter_half_grid
from protomer_kernels.local_correlation import grid_for_window, independent_pairs, local_correlation
from protomer_kernels.shells import half_radius

PAIRS = 80.0  # independent pairs of values in a window: noise correlates by 0.11
WIDEST = 0.4  # of the box: widest window
STEP, LEAST_STEP = 0.08, 1.0  # from band to band: a share of its radius, and shells
OVERLAP = 1.5  # half width of a band, in steps
FILTER_EDGE = 2.0  # shells


@dataclass(frozen=True)
class Bands:
    """Where correlations are measured, coarse to fine: radius and half width in cycles per box, window width in voxels; (n,) each."""

    radius: np.ndarray
    half_width: np.ndarray
    width_px: np.ndarray
    box: int

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def grid(self) -> int:
        """Edge of the grid on which correlations of all bands are given: as fine as the narrowest window asks."""
        return grid_for_window(self.box, float(self.width_px.min()))


@dataclass(frozen=True)
class LocalResolution:
    """resolution_A (D, D, D) float32, `none_A` where `is_known` (D, D, D) bool says there is none; by band tried: its resolution, the
    correlation that was asked for, and the share of the places looked at that were resolved and in question after it."""

    resolution_A: Volume
    is_known: np.ndarray
    none_A: float
    band_A: np.ndarray
    asked: np.ndarray
    share: np.ndarray
    finest_A: float

    def of(self, inside: np.ndarray) -> np.ndarray:
        """Resolutions of the voxels (bool (D, D, D)) that have one."""
        return np.asarray(self.resolution_A.data[inside & self.is_known])


def choose_bands(box: int, voxel_size_A: float, coarsest_A: float, window_A: float) -> Bands:
    """Bands from a resolution to the last shell of the box."""
    radius, half_width = [max(box * voxel_size_A / coarsest_A, 2.0)], []
    while True:
        step = max(LEAST_STEP, STEP * radius[-1])
        half_width.append(OVERLAP * step)
        if radius[-1] + step + OVERLAP * max(LEAST_STEP, STEP * (radius[-1] + step)) > box / 2:
            break
        radius.append(radius[-1] + step)
    middle = np.array(radius)
    widths = [max(window_A / voxel_size_A, least_width_px(box, band)) for band in zip(radius, half_width, strict=True)]
    return Bands(middle, np.array(half_width), np.minimum(widths, WIDEST * box), box)


def least_width_px(box: int, band: tuple[float, float]) -> float:
    """Width of the window in which a band has PAIRS independent pairs of values, voxels; they grow as the volume of the window."""
    width_px = 2.5 * box / band[0]
    for _ in range(2):
        width_px *= float(np.cbrt(PAIRS / independent_pairs(box, band, width_px)))
    return width_px


def measure_local_resolution(half_maps: Halves[Volume], bands: Bands, inside: np.ndarray, threshold: float, false_share: float,
                             after_each: Callable[[], None] = lambda: None) -> LocalResolution:
    """Resolution at the voxels inside (bool (D, D, D)). after_each is called after each band; the last bands may not be needed."""
    box, grid, width_A = bands.box, bands.grid, bands.box * half_maps.a.voxel_size_A
    a_ft, b_ft = (fft.rfftn(half.data) for half in half_maps)
    nearest = np.rint(np.arange(grid) * box / grid).astype(int) % box
    alive = inside[np.ix_(nearest, nearest, nearest)]
    looked_at = max(int(alive.sum()), 1)
    cycles, excess, missed = np.zeros(alive.shape, np.float32), np.zeros(alive.shape, np.float32), np.zeros(alive.shape, bool)
    asked, share = [], []
    for radius, half_width, width_px in zip(bands.radius.tolist(), bands.half_width.tolist(), bands.width_px.tolist(), strict=True):
        correlation = local_correlation(a_ft, b_ft, (radius, half_width), width_px, grid)
        asked.append(max(threshold, critical_correlation(correlation[alive], looked_at, false_share / 2,
                                                         independent_pairs(box, (radius, half_width), width_px))))
        margin = correlation - np.float32(asked[-1])
        holds = alive & (margin >= 0)
        ends = alive & ~holds & ~missed & (cycles > 0)
        cycles[ends] += (np.float32(radius) - cycles[ends]) * excess[ends] / (excess[ends] - margin[ends])
        cycles[holds], excess[holds] = radius, margin[holds]
        alive, missed = holds | (alive & ~missed), ~holds
        share.append(float((alive & (cycles > 0)).sum()) / looked_at)
        after_each()
        if not alive.any():
            break
    return _at_all_voxels(cycles, inside, width_A, bands, np.array(asked), np.array(share))


def critical_correlation(correlation: np.ndarray, looked_at: int, false_share: float, pairs: float) -> float:
    """The correlation from which on no more than `false_share` of the places are expected to be there by chance, by (2).

    correlation: of the places that are still in question; looked_at: of how many there were to begin with, the others having no signal.
    """
    scale = np.sqrt(max(pairs - 2.0, 1.0))
    p = np.sort(ndtr(-np.arctanh(np.minimum(correlation.astype(np.float64), 1 - 1e-9)) * scale))
    limit = false_share / (looked_at * (np.log(looked_at) + np.euler_gamma))
    passed = np.flatnonzero(p <= limit * np.arange(1, len(p) + 1))
    rank = int(passed[-1]) + 1 if len(passed) else 1
    return float(np.tanh(-ndtri(min(limit * rank, 0.5)) / scale))


def _at_all_voxels(cycles: np.ndarray, inside: np.ndarray, width_A: float, bands: Bands, asked: np.ndarray,
                   share: np.ndarray) -> LocalResolution:
    """Cut-offs on the grid (cycles per box, 0: none) interpolated to the voxels inside; resolutions."""
    weight = interpolated((cycles > 0).astype(np.float32), bands.box)
    between = interpolated(cycles, bands.box)
    known = (weight >= 0.5) & inside
    none_A = 2.0 * width_A / float(bands.radius[0])
    resolution_A = np.full(weight.shape, none_A, np.float32)
    resolution_A[known] = np.float32(width_A) * weight[known] / between[known]
    tried = len(asked)
    return LocalResolution(Volume(resolution_A, width_A / bands.box), known, none_A, width_A / bands.radius[:tried], asked, share,
                           width_A / float(bands.radius[-1]))


def interpolated(field: np.ndarray, box: int) -> np.ndarray:
    """A periodic field (n, n, n) at the voxels of a box of the same extent, linear between its points: (box,) * 3."""
    grid = len(field)
    place = np.arange(box) * grid / box
    low = np.floor(place).astype(int)
    part = (place - low).astype(np.float32)
    for axis in range(3):
        t = part.reshape([-1 if axis == other else 1 for other in range(3)])
        field = field.take(low % grid, axis) * (1 - t) + field.take((low + 1) % grid, axis) * t
    return field


def filter_locally(volume: Volume, cut_off: np.ndarray, levels: np.ndarray, after_each: Callable[[], None] = lambda: None) -> Volume:
    """A map low-passed at each voxel at its cut-off (D, D, D), cycles per box: between filters at the two levels (ascending) next to it."""
    radius, out = half_radius(volume.box, 3), np.zeros_like(volume.data)
    place = np.interp(cut_off, levels, np.arange(len(levels))).astype(np.float32)
    for number, level in enumerate(levels.tolist()):
        weight = np.maximum(1 - np.abs(place - np.float32(number)), 0)
        if weight.any():
            gain = 0.5 - 0.5 * np.sin(np.pi * np.clip((radius - np.float32(level)) / FILTER_EDGE, -0.5, 0.5))
            out += weight * filter_half_grid(volume.data, gain.astype(np.float32))
        after_each()
    return Volume(out, volume.voxel_size_A)
