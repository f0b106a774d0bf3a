"""Twist and rise of a helix whose axis lies along z, from the map's correlation with itself turned about z and moved along it.

On cylinders v(rho, phi, z), with the mean over phi and z taken off at each rho,

(1) A(t, r) = sum rho v(rho, phi, z) v(rho, phi + t, z + r) / sqrt(P P')    over the z that both copies cover, P and P' their powers there;
    by Fourier transforms along phi and z, so that all turns and moves are had at once
(2) a helix has A near 1 at (n twist, n rise) for n = 1, 2, ...; S_m = mean of A over n <= m
(3) each peak of A is a candidate; it is followed in S_1, S_2, S_4, ... as far as the map reaches, which makes it sharper each time
(4) of the candidates that keep at least NEAR_BEST of the best S, the one with the smallest rise: the others are its multiples

Right-handed twist is positive, and the rise is positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, ndimage, optimize

from protomer.errors import InputError
from protomer.maps.mask_rule import find_support
from protomer.maps.volumes import Halves, Volume
from protomer_kernels import masks
from protomer_kernels.fourier import low_pass

TURNS = 360  # samples of phi
RADIUS = 0.45  # of the box: where density is looked for
MARGIN_PX = 3
USED_LENGTH = 0.9  # of the box along z
REACH = 0.6  # of the used length: farther copies overlap too little
MOST_COPIES = 16
CANDIDATES = 12
LOWEST_PEAK = 0.05
NEAR_BEST = 0.9
CARRIED = 0.7
HIGHEST_CYCLIC = 12
EXTRA = 8  # samples around the surface, for its splines
WANDER_DEG, WANDER_VOXELS = 5.0, 1.5  # how far from its peak a candidate may go


@dataclass(frozen=True)
class HelixScores:
    """Eq. (1): `surface` (turns, moves) for turns of 360 / turns degrees from 0 and moves of `step_A` from 0."""

    surface: np.ndarray
    step_A: float
    reach_A: float  # largest move that is trusted

    def at(self, twist_deg: np.ndarray, rise_A: np.ndarray) -> np.ndarray:
        """A at any turn (degrees) and move (angstrom), by cubic splines, periodic in the turn."""
        turns = np.mod(np.asarray(twist_deg) / 360.0 * len(self.surface), len(self.surface))
        places = [turns + EXTRA, np.asarray(rise_A) / self.step_A + EXTRA]
        return np.asarray(ndimage.map_coordinates(self._spline, places, order=3, mode="nearest", prefilter=False))

    @cached_property
    def _spline(self) -> np.ndarray:
        """Spline coefficients with EXTRA more samples: periodic in the turn, A(-t, -r) = A(t, r) below zero move."""
        mirrored = np.roll(self.surface[::-1], 1, axis=0)[:, EXTRA:0:-1]
        padded = np.pad(np.concatenate([mirrored, self.surface], axis=1), ((EXTRA, EXTRA), (0, 0)), mode="wrap")
        return np.asarray(ndimage.spline_filter(padded, order=3))


@dataclass(frozen=True)
class Helix:
    """A twist (degrees, right-handed positive) and rise (angstrom), S of eq. (2) over `copies`, and the smallest A among them."""

    twist_deg: float
    rise_A: float
    score: float
    weakest: float
    copies: int
    cyclic: int = 1  # order of the rotation axis that the helix has besides


def helix_scores(volume: Volume, finest_A: float, radius_A: float | None = None) -> HelixScores:
    """Eq. (1) for moves up to REACH of the used length, within a radius (unset: as far as there is density). Raises InputError where the
    map is constant within its cylinder."""
    box, step_A = volume.box, volume.voxel_size_A
    smooth = low_pass(volume.data, box * step_A / finest_A, 2).astype(np.float32)
    used = int(USED_LENGTH * box) // 2
    planes = smooth[box // 2 - used:box // 2 + used + 1]
    farthest = radius_px(volume) if radius_A is None else max(min(int(np.ceil(radius_A / step_A)), int(RADIUS * box)), 4)
    radii, angle = np.arange(1, farthest), 2 * np.pi * np.arange(TURNS) / TURNS
    x, y = box // 2 + radii[:, None] * np.cos(angle), box // 2 + radii[:, None] * np.sin(angle)
    rings = np.stack([ndimage.map_coordinates(plane, [y, x], order=3, mode="nearest") for plane in planes], axis=-1)  # (rho, phi, z)
    rings = (rings - rings.mean(axis=(1, 2), keepdims=True)) * np.sqrt(radii)[:, None, None]
    if float(np.abs(rings).max()) < 1e-6 * max(float(np.abs(smooth).max()), 1e-30):
        raise InputError("the map is constant about z", "a filament along z", "look at the map")
    length = rings.shape[2]
    padded = fft.next_fast_len(2 * length)
    waves = fft.fft(fft.rfft(rings, axis=1), n=padded, axis=2)
    sums = fft.ifft((np.abs(waves) ** 2).sum(axis=0), axis=1)[:, :length]  # sum over z of conj V(n, z) V(n, z + r)
    products = fft.irfft(sums, n=TURNS, axis=0)
    power = np.cumsum((rings.astype(np.float64) ** 2).sum(axis=(0, 1)))
    moves = np.arange(length)
    below, above = power[length - 1 - moves], power[-1] - np.concatenate([[0.0], power])[moves]
    reach = max(int(REACH * length), 4)
    surface = (products / np.sqrt(np.maximum(below * above, 1e-30)))[:, :reach]
    return HelixScores(surface, step_A, (reach - 2) * step_A)


def radius_px(volume: Volume) -> int:
    """How far from z there is density by the mask's rule, and a little more: what lies beyond is noise."""
    seen = find_support(volume).voxels.any(axis=0)
    y, x = np.nonzero(seen)
    largest = int(RADIUS * volume.box)
    farthest = float(np.hypot(y - volume.box // 2, x - volume.box // 2).max()) if len(y) else largest
    return max(min(int(np.ceil(farthest)) + MARGIN_PX, largest), 4)


def expected_score(half_maps: Halves[Volume], finest_A: float) -> float:
    """What A of a perfect helix reaches in the mean of two half maps, from their correlation c in the cylinder: 2 c / (1 + c)."""
    box, step_A = half_maps.a.box, half_maps.a.voxel_size_A
    mean = Volume((half_maps.a.data + half_maps.b.data) * np.float32(0.5), step_A)
    inside = masks.cylinder_mask(box, radius_px(mean), USED_LENGTH * box, 0) > 0
    a, b = (low_pass(half.data, box * step_A / finest_A, 2)[inside] for half in half_maps)
    c = max(float(np.corrcoef(a, b)[0, 1]), 0.0)
    return 2 * c / (1 + c)


def find_helix(scores: HelixScores, twist_deg: tuple[float, float], rise_A: tuple[float, float]) -> tuple[Helix, list[Helix]]:
    """The helix within ranges of twist and rise, and all candidates that were followed, best first. Raises InputError for none."""
    if not (0 < rise_A[0] < rise_A[1] and twist_deg[0] < twist_deg[1]):
        raise InputError(f"a twist from {twist_deg[0]:g} to {twist_deg[1]:g}° and a rise from {rise_A[0]:g} to {rise_A[1]:g} Å",
                         "ranges that begin below where they end, and a rise above 0", "set twist_from, twist_to, rise_from and rise_to")
    cyclic = cyclic_order(scores)
    followed = [follow(scores, *peak) for peak in _peaks(scores, twist_deg, (rise_A[0], min(rise_A[1], scores.reach_A)))]
    helices = [helix for helix in followed if rise_A[0] <= helix.rise_A <= rise_A[1]]
    if not helices:
        raise InputError(f"no peak of the self-correlation with a twist from {twist_deg[0]:g} to {twist_deg[1]:g}° and a rise from "
                         f"{rise_A[0]:g} to {rise_A[1]:g} Å", "a helix along z", "widen the ranges, or use a finer low_pass")
    ordered = sorted(helices, key=lambda helix: -helix.score)
    near = [helix for helix in ordered if helix.score >= NEAR_BEST * ordered[0].score]
    best = min(near, key=lambda helix: (round(helix.rise_A / (0.2 * scores.step_A)), abs(helix.twist_deg)))
    return Helix(best.twist_deg, best.rise_A, best.score, best.weakest, best.copies, cyclic), ordered


def cyclic_order(scores: HelixScores) -> int:
    """The highest order up to HIGHEST_CYCLIC of a rotation axis along z: A(360 k / n, 0) of at least CARRIED for all k."""
    for order in range(HIGHEST_CYCLIC, 1, -1):
        turns = 360.0 / order * np.arange(1, order)
        if float(scores.at(turns, np.zeros(order - 1)).min()) >= CARRIED:
            return order
    return 1


def _peaks(scores: HelixScores, twist_deg: tuple[float, float], rise_A: tuple[float, float]) -> list[tuple[float, float]]:
    """Local maxima of A within the ranges, the highest first: (twist, rise)."""
    turn = 360.0 / len(scores.surface) * np.arange(len(scores.surface))
    turn = np.where(turn > 180.0, turn - 360.0, turn)
    fine = np.arange(rise_A[0], rise_A[1], scores.step_A / 2)
    values = scores.at(turn[:, None] + 0 * fine, 0 * turn[:, None] + fine)
    top = ndimage.maximum_filter(values, size=(9, 5), mode=("wrap", "nearest"))
    inside = (turn >= twist_deg[0] - 0.5) & (turn <= twist_deg[1] + 0.5)
    i, j = np.nonzero((values == top) & inside[:, None] & (values > LOWEST_PEAK))
    order = np.argsort(-values[i, j])[:CANDIDATES]
    return [(float(turn[i[n]]), float(fine[j[n]])) for n in order]


def follow(scores: HelixScores, twist_deg: float, rise_A: float) -> Helix:
    """Step (3) from one candidate."""
    most = max(min(int(scores.reach_A / rise_A), MOST_COPIES), 1)
    away_A = WANDER_VOXELS * scores.step_A
    bounds = ((twist_deg - WANDER_DEG, twist_deg + WANDER_DEG), (max(rise_A - away_A, 0.5 * rise_A), rise_A + away_A))
    at, copies = np.array([twist_deg, rise_A]), 1
    while True:
        n = np.arange(1, copies + 1)
        simplex = at + np.array([[0, 0], [1.0, 0], [0, 0.3 * scores.step_A]]) / copies
        result = optimize.minimize(lambda p, n=n: -float(scores.at(n * p[0], n * p[1]).mean()), at, method="Nelder-Mead",
                                   bounds=bounds, options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-7})
        at = result.x
        if copies >= most:
            values = scores.at(n * at[0], n * at[1])
            return Helix(float((at[0] + 180.0) % 360.0 - 180.0), float(at[1]), float(values.mean()), float(values.min()), copies)
        copies = min(2 * copies, most)
