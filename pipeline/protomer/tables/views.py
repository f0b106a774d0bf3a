"""From where a map was seen: viewing directions, how evenly they cover the sphere, and how evenly their slices cover Fourier space.

(1) A view along v and one along -v give the same slice, and under a point group so do all g v: directions are counted in the part of the
    sphere that these leave, its unit.
(2) Sampling S(u) of a direction u in a shell of radius r: the number of slices that pass within half a coefficient of r u, that is
    |u . v| <= 1 / (2 r), over what an even coverage would give; its mean over all u is 1.
(3) SCF = 1 / <1 / S>, the harmonic mean of the sampling: what uneven views leave of the spectral signal-to-noise ratio. 1 for an even
    coverage, 8 / pi^2 = 0.81 for side views alone, 0 where directions are missing: Baldwin & Lyumkis (2020), Prog. Biophys. Mol. Biol.
    150, 160. Here a direction without any slice counts as half of one slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

PROBES = 1000  # directions u of a half sphere
GREATEST_RADIUS, FEWEST_SLICES = 25.0, 30.0  # of (2): a radius at which that many slices are expected
MOST_VIEWS = 400_000  # with copies, for the sampling
VIEWS_PER_CELL, FEWEST_CELLS, MOST_CELLS = 25, 6, 500  # of a unit
POINTS_PER_CELL = 100  # by which areas of cells are measured
INSIDE = np.array([0.2867, 0.1319, 0.9489])  # a direction that no symmetry axis has: the unit is what is nearer to it than to its mates


@dataclass(frozen=True)
class Coverage:
    """cell (n,) int64 of each view; count (cells,) views in each; even (cells,) what an even coverage would have there."""

    cell: np.ndarray
    count: np.ndarray
    even: np.ndarray

    @property
    def densest_half(self) -> float:
        """The share of the unit's area that holds the half of the views that stand most densely: near 0.5 where they are even."""
        order = np.argsort(-self.count / self.even)
        views, area = (np.concatenate([[0.0], np.cumsum(values[order])]) / values.sum() for values in (self.count, self.even))
        return float(np.interp(0.5, views, area))

    @property
    def empty(self) -> float:
        """The share of the unit's area in cells without a view."""
        return float(self.even[self.count == 0].sum() / self.even.sum())


@dataclass(frozen=True)
class Sampling:
    """S of (2) in the probed directions (m, 3), and the Fourier radius at which it was counted."""

    directions: np.ndarray
    sampling: np.ndarray
    radius: float
    expected: float  # slices in a direction

    @property
    def scf(self) -> float:
        """Eq. (3)."""
        return float(1.0 / np.mean(1.0 / np.maximum(self.sampling, 0.5 / self.expected)))

    @property
    def unseen(self) -> float:
        """The share of directions through which no slice passes."""
        return float(np.mean(self.sampling == 0))


def viewing_directions(rotation: np.ndarray) -> np.ndarray:
    """The direction each image looks along in the map's frame, R (0, 0, 1), from unit quaternions (n, 4), scalar last: (n, 3)."""
    x, y, z, w = np.asarray(rotation, np.float64).T
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=1)


def even_directions(number: int) -> np.ndarray:
    """Points of a Fibonacci spiral, which cover the sphere evenly: (number, 3)."""
    at = np.arange(number) + 0.5
    z, turn = 1.0 - 2.0 * at / number, np.pi * (3.0 - np.sqrt(5.0)) * at
    across = np.sqrt(1.0 - z * z)
    return np.stack([across * np.cos(turn), across * np.sin(turn), z], axis=1)


def folded(directions: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """The mate of each direction (n, 3), by (1), that lies in the unit: that of +-g v nearest to INSIDE."""
    nearest, best = np.full(len(directions), -np.inf), np.array(directions, np.float64)
    for operator in operators:
        mate = directions @ operator.T
        along = mate @ INSIDE
        better = np.abs(along) > nearest
        best[better] = mate[better] * np.where(along[better] < 0, -1.0, 1.0)[:, None]
        nearest[better] = np.abs(along[better])
    return best


def coverage(directions: np.ndarray, operators: np.ndarray) -> Coverage:
    """Views counted in cells of the unit, as small as their number allows."""
    cells = int(np.clip(len(directions) / VIEWS_PER_CELL, FEWEST_CELLS, max(MOST_CELLS // len(operators), FEWEST_CELLS)))
    tree = cKDTree(even_directions(cells * 2 * len(operators)))
    _, at = tree.query(folded(directions, operators))
    _, of_point = tree.query(folded(even_directions(POINTS_PER_CELL * cells * 2 * len(operators)), operators))
    used = np.union1d(at, of_point)
    area = np.maximum(np.bincount(np.searchsorted(used, of_point), minlength=len(used)), 1).astype(float)
    cell = np.searchsorted(used, at)
    return Coverage(cell, np.bincount(cell, minlength=len(used)), area / area.sum() * len(directions))


def sampling_of(directions: np.ndarray, operators: np.ndarray) -> Sampling:
    """Eq. (2) for views and their mates under a point group."""
    step = -(-len(directions) * len(operators) // MOST_VIEWS)
    views = np.concatenate([directions[::step] @ operator.T for operator in operators])
    radius = float(np.clip(len(views) / (2.0 * FEWEST_SLICES), 1.0, GREATEST_RADIUS))
    probes = even_directions(2 * PROBES)[:PROBES]  # of the upper half: by (1) the lower one is the same
    counts = np.zeros(PROBES)
    for first in range(0, len(views), 20_000):
        along = probes.astype(np.float32) @ views[first:first + 20_000].T.astype(np.float32)
        counts += (np.abs(along) <= 0.5 / radius).sum(axis=1)
    return Sampling(probes, counts * 2.0 * radius / len(views), radius, len(views) / (2.0 * radius))
