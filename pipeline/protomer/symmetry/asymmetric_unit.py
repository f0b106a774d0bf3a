"""One asymmetric unit of a point group, cut out of a map where the map is thinnest.

(1) f(x): how far x is from a seed. Its copies under the group are f(g^-1 x), and the unit is where f is the least of them:
        U = {x: f(x) <= f(g^-1 x) for all g}
    The copies g U cover everything and share no more than their borders, whatever f is and however noisy the map.
(2) watershed: f is ln(1 + t), t the travel time from the seed where a voxel of density d, 1 at the map's 99th percentile, takes
    max(d, FLOOR)^-2 (protomer_kernels.travel_times): copies meet where density is thin, so that the unit follows a molecule. The logarithm
    changes no comparison; between voxels t itself, whose slope grows 400-fold in thin density, is badly interpolated
(3) wedge: f = -(x . seed): flat cuts through the box centre, half-way between the seed and its copies
(4) the seed, unless given: of the peaks of the smoothed map (wedge: of DIRECTIONS), each tried, the one that cuts the least density:
    the sum of d over all pairs of neighbouring voxels in different copies

Density, travel times and (4) are taken on a coarser grid, of a quarter of the low-pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from protomer.errors import SettingsError
from protomer.maps.volumes import Volume
from protomer_kernels.fourier import crop_volume, low_pass
from protomer_kernels.travel_times import travel_times

FLOOR, POWER = 0.05, -2.0
FULL_PERCENTILE = 99.0  # of the density, counted as 1
VOXELS_PER_LOW_PASS, SMALLEST_BOX, LARGEST_BOX = 4.0, 32, 96
MOST_PEAKS, DIRECTIONS = 12, 60
DENSE = 0.3  # from where voxels count in the correlation of a map with its copies
LEAST_APART_PX = 2.0  # of a seed from its copies, coarse voxels

Distance = Callable[[np.ndarray], np.ndarray]  # f of eq. (1): points (n, 3) [x, y, z] in coarse voxels from the centre -> (n,)


@dataclass(frozen=True)
class Unit:
    """voxels (D, D, D) bool: eq. (1), cut to what was given, made symmetric. contains: eq. (1) for points (n, 3) [x, y, z] in voxels from
    the centre."""

    voxels: np.ndarray
    contains: Callable[[np.ndarray], np.ndarray]
    method: str
    seed_px: tuple[float, float, float]  # x, y, z from the corner of the box
    cut: float  # mean density at the borders between copies, over the mean density
    correlation: float  # of the smoothed map with its copy, under the operator that fits worst

    def describe(self, group: str) -> str:
        """In words."""
        seed = ",".join(f"{s:.4g}" for s in self.seed_px)
        return (f"one asymmetric unit of {group} by {self.method} from the seed {seed} (voxels from the corner), with "
                f"{self.cut:.2f} of the mean density where it is cut")


@dataclass(frozen=True)
class _Coarse:
    """The smoothed map on the coarse grid: density (c, c, c), 1 where full; points (n, 3) of the support, coarse voxels from the centre."""

    density: np.ndarray
    support: np.ndarray
    points: np.ndarray
    scale: float  # coarse voxels per voxel


def find_unit(volume: Volume, support: np.ndarray, operators: np.ndarray, method: str, low_pass_A: float,
              seed_px: tuple[float, float, float] | None = None) -> Unit:
    """The unit of the support (D, D, D) bool under operators (g, 3, 3) about the box centre; the density of `volume` seeds and shapes it.

    method: "watershed" or "wedge". seed_px: x, y, z in voxels from the corner of the box. Raises SettingsError for a seed outside the box
    or one that is its own copy.
    """
    coarse = _coarsened(volume, support, low_pass_A)
    seeds = _seeds(coarse, operators, method) if seed_px is None else _given_seed(seed_px, coarse, operators, volume.box)
    distances = [_distance(coarse, seed, method) for seed in seeds]
    cuts = [_cut(coarse, operators, distance) for distance in distances]
    number = int(np.argmin([total for total, _ in cuts]))
    distance = distances[number]

    def contains(points: np.ndarray) -> np.ndarray:
        return _is_least(distance, points * coarse.scale, operators)

    full = made_symmetric(support, operators)
    voxels = np.zeros_like(full)
    voxels[full] = contains(_offsets(full))
    found = tuple(float(s) for s in seeds[number] / coarse.scale + volume.box // 2)
    return Unit(voxels, contains, method, (found[0], found[1], found[2]), cuts[number][1], _weakest(coarse, operators))


def made_symmetric(support: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """All voxels that are in the support or have a copy in it (bool)."""
    box, points, near = len(support), _offsets(support), np.zeros_like(support)
    for operator in operators[1:]:
        index = np.rint(points @ operator.T).astype(int) + box // 2
        x, y, z = index[((index >= 0) & (index < box)).all(axis=1)].T
        near[z, y, x] = True
    left = ndimage.binary_dilation(near) & ~support  # a copy's voxels fall between those of the box
    out, weight, points = support.copy(), support.astype(np.float32), _offsets(left)
    found = np.zeros(len(points), bool)
    for operator in operators[1:]:
        rest = np.flatnonzero(~found)
        found[rest] = _sampled(weight, points[rest] @ operator) >= 0.5
    out[left] = found
    return out


def _coarsened(volume: Volume, support: np.ndarray, low_pass_A: float) -> _Coarse:
    """The map low-passed and cropped in Fourier space; its solvent at 0."""
    box, width_A = volume.box, volume.box * volume.voxel_size_A
    wanted = 2 * int(np.ceil(VOXELS_PER_LOW_PASS * width_A / low_pass_A / 2))
    small = min(box, max(SMALLEST_BOX, min(wanted, LARGEST_BOX)))
    smooth = crop_volume(low_pass(volume.data, width_A / low_pass_A, 2.0), small)
    scale = small / box
    inside = _is_near(support, small, scale)
    solvent = float(np.median(smooth[~inside])) if (~inside).any() else 0.0
    full = float(np.percentile(smooth[inside], FULL_PERCENTILE)) - solvent
    density = (smooth - solvent) / (full if full > 0 else 1.0)
    return _Coarse(density.astype(np.float32), inside, _offsets(inside), scale)


def _is_near(support: np.ndarray, small: int, scale: float) -> np.ndarray:
    """Coarse voxels that hold a voxel of the support."""
    index = np.clip(np.rint(_offsets(support) * scale).astype(int) + small // 2, 0, small - 1)
    out = np.zeros((small,) * 3, bool)
    out[index[:, 2], index[:, 1], index[:, 0]] = True
    return out


def _offsets(voxels: np.ndarray) -> np.ndarray:
    """Of every true voxel, x, y, z from the centre in voxels, (n, 3)."""
    return np.argwhere(voxels)[:, ::-1].astype(np.float64) - len(voxels) // 2


def _sampled(grid: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A grid at points (n, 3) [x, y, z] from its centre, linear between voxels, 0 outside."""
    return np.asarray(ndimage.map_coordinates(grid, (points + len(grid) // 2)[:, ::-1].T, order=1, mode="constant"))


def _weakest(coarse: _Coarse, operators: np.ndarray) -> float:
    """Correlation of the density with its copies inside the dense part of the support, so that no outline makes up for what is inside; the
    smallest of all operators."""
    own = _sampled(coarse.density, coarse.points)
    points, own = coarse.points[own >= DENSE], own[own >= DENSE]
    if len(own) == 0 or own.std() == 0:
        return 1.0  # a solid body
    return float(min(np.corrcoef(own, _sampled(coarse.density, points @ operator))[0, 1] for operator in operators[1:]))


def _apart(points: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """How far each point (n, 3) is from the nearest of its own copies, (n,)."""
    return np.asarray(np.min([np.linalg.norm(points @ operator - points, axis=1) for operator in operators[1:]], axis=0))


def _given_seed(seed_px: tuple[float, float, float], coarse: _Coarse, operators: np.ndarray, box: int) -> np.ndarray:
    seed = np.array(seed_px, float)
    if not ((seed >= 0) & (seed <= box - 1)).all():
        raise SettingsError(f"unit_seed {seed_px}", f"x,y,z in voxels from the corner of a box of {box}", "look the point up in a viewer")
    at = ((seed - box // 2) * coarse.scale)[None]
    if _apart(at, operators)[0] < LEAST_APART_PX:
        raise SettingsError(f"unit_seed {seed_px} lies on an axis of the group: it is its own copy", "a point inside one unit",
                            "move it away from the axes, into the part that the mask should keep")
    return at


def _seeds(coarse: _Coarse, operators: np.ndarray, method: str) -> np.ndarray:
    """Candidates (n, 3), in coarse voxels from the centre: peaks of the density, the highest first, of each orbit one; or directions."""
    if method == "wedge":
        n = np.arange(DIRECTIONS) + 0.5
        z, turn = 1 - 2 * n / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * n  # a spiral of equal areas
        return np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], axis=1) * len(coarse.density) / 4
    apart = _apart(coarse.points, operators)
    value = _sampled(coarse.density, coarse.points)
    highest = _sampled(ndimage.maximum_filter(coarse.density, 5), coarse.points) <= value + 1e-6
    for least in (VOXELS_PER_LOW_PASS, LEAST_APART_PX, 0.0):
        peaks = np.flatnonzero(highest & (apart > least))
        if len(peaks):
            break
    else:
        peaks = np.array([int(np.argmax(apart))])
    chosen: list[int] = []
    for peak in peaks[np.argsort(-value[peaks], kind="stable")]:
        copies = coarse.points[peak] @ operators
        if len(chosen) < MOST_PEAKS and all(np.linalg.norm(copies - coarse.points[c], axis=1).min() > 1.8 for c in chosen):
            chosen.append(int(peak))
    return coarse.points[chosen]


def _distance(coarse: _Coarse, seed: np.ndarray, method: str) -> Distance:
    """f of eq. (1) from a seed (3,)."""
    if method == "wedge":
        return lambda points: -(points @ seed)
    slowness = np.clip(coarse.density, FLOOR, 1.0) ** POWER
    middle = len(slowness) // 2
    z, y, x = (float(np.clip(s + middle, 0, len(slowness) - 1)) for s in seed[::-1])
    times = np.log1p(travel_times(slowness, (z, y, x)))
    return lambda points: np.asarray(ndimage.map_coordinates(times, (points + middle)[:, ::-1].T, order=1, mode="nearest"))


def _is_least(distance: Distance, points: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Eq. (1) for points (n, 3): g^-1 x is x @ g for rows x."""
    own, out = distance(points), np.ones(len(points), bool)
    for operator in operators[1:]:
        left = np.flatnonzero(out)
        out[left] = own[left] <= distance(points[left] @ operator)
    return out


def _cut(coarse: _Coarse, operators: np.ndarray, distance: Distance) -> tuple[float, float]:
    """The sum of eq. (4), and the mean density at the cut over that of the support."""
    nearest = np.argmin([distance(coarse.points @ operator) for operator in operators], axis=0)
    copy = np.full(coarse.density.shape, -1)
    copy[coarse.support] = nearest
    density = np.maximum(coarse.density, 0)
    total = pairs = 0.0
    for axis in range(3):
        c, d = np.moveaxis(copy, axis, 0), np.moveaxis(density, axis, 0)
        both = (c[1:] >= 0) & (c[:-1] >= 0) & (c[1:] != c[:-1])
        total += float((0.5 * (d[1:] + d[:-1]))[both].sum())
        pairs += float(both.sum())
    return total, total / max(pairs, 1.0) / max(float(density[coarse.support].mean()), 1e-12)
