"""Poses of filaments: what is known of them before an image is seen, and which of the equivalent ones is taken.

A filament's axis is z of the map. In the image it points along a = R^T z = (-sin tilt cos psi, sin tilt sin psi, cos tilt), the third row
of R; rot is free. With a tilt t0 and, where it is known, a psi p0 (rlnAngleTiltPrior, rlnAnglePsiPrior), and independent Gaussian errors,

(1) log P = -((tilt - t0) / s_t)^2 / 2 - ((psi - p0) / s_p)^2 / 2,  the greater one for t0, p0 and for the filament the other way round,
    pi - t0, p0 + pi, where its polarity is not known
(2) in a climb the term in tilt acts through the prior of pose_steps.py: its centre is the pose that the climb starts at, tilted to t0, and
    its precision 1 / s_t^2 about map x and y, 0 about z. This holds psi too, but only to where the climb starts, and a filament's
    images say their psi far more sharply than s_t
(3) poses that differ by the helix are the same (CONVENTIONS.md): of the copies n,  R' = Rz(n twist) R,  shift' = shift + n rise (R^T z)_xy,
    that one is taken whose shift along the axis is within half a rise
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from protomer_kernels.newton import NO_EXTENT
from protomer_kernels.rotations import quaternions_from_matrices
from protomer_kernels.symmetry_copies import copy_covariances

PSI_BINS, WINDOW_SD = 18, 3.0  # parts of a turn that are searched apart, and how far from its prior a psi is looked for
LEAST_SINE = 1e-3  # of the tilt, below which an image looks along the filament and has no psi


@dataclass(frozen=True)
class Filaments:
    """What is known of n images: tilt_rad (n,), psi_rad (n,), NaN where unknown; standard deviations of both; whether the polarity is
    unknown; twist_rad and rise_px of the helix that references have."""

    tilt_rad: np.ndarray
    psi_rad: np.ndarray
    tilt_sd_rad: float
    psi_sd_rad: float
    both_ways: bool
    twist_rad: float
    rise_px: float

    def take(self, rows: np.ndarray | slice) -> Filaments:
        """Some of the images."""
        return replace(self, tilt_rad=self.tilt_rad[rows], psi_rad=self.psi_rad[rows])

    @property
    def tilt_extent_rad(self) -> float:
        """How far from 90 degrees tilts are looked for: two standard deviations beyond the tilt farthest from there."""
        return float(np.abs(self.tilt_rad - np.pi / 2).max(initial=0.0)) + 2.0 * self.tilt_sd_rad

    def log_prior(self, rotation: np.ndarray) -> np.ndarray:
        """Eq. (1) for rotations (n, m, 3, 3), or (1, m, 3, 3) for all images: (n, m)."""
        tilt, psi = axis_angles(rotation)
        ways = [_square(tilt - t0, self.tilt_sd_rad) + self._of_psi(psi, turn)
                for t0, turn in ((self.tilt_rad[:, None], 0.0), (np.pi - self.tilt_rad[:, None], np.pi))[: 2 if self.both_ways else 1]]
        return -0.5 * np.min(ways, axis=0)

    def psi_prior(self, rotation: np.ndarray) -> np.ndarray:
        """The part of eq. (1) in psi, for rotations (n, m, 3, 3): (n, m)."""
        _, psi = axis_angles(rotation)
        return -0.5 * np.min([self._of_psi(psi, turn) for turn in ((0.0, np.pi) if self.both_ways else (0.0,))], axis=0)

    def _of_psi(self, psi: np.ndarray, turn: float) -> np.ndarray:
        """((psi - p0 - turn) / s_p)^2, 0 where p0 is unknown."""
        away = np.mod(psi - self.psi_rad[:, None] - turn + np.pi, 2 * np.pi) - np.pi
        return np.nan_to_num(_square(away, self.psi_sd_rad), nan=0.0)

    def windows(self, grid: np.ndarray) -> list[tuple[slice, np.ndarray]]:
        """Parts of a grid (G, 3, 3) that is sorted by psi, each with the images (row numbers) whose psi may lie there."""
        if not np.isfinite(self.psi_rad).all() or WINDOW_SD * self.psi_sd_rad > np.pi / 4:
            return [(slice(0, len(grid)), np.arange(len(self.psi_rad)))]
        psi = np.mod(axis_angles(grid)[1] + 1e-9, 2 * np.pi)
        edges = np.searchsorted(psi, 2 * np.pi * np.arange(PSI_BINS + 1) / PSI_BINS)
        found = []
        for n, (first, last) in enumerate(pairwise(edges.tolist())):
            away = 2 * np.pi * (n + 0.5) / PSI_BINS - self.psi_rad[:, None] - ([0.0, np.pi] if self.both_ways else [0.0])
            near = np.abs(np.mod(away + np.pi, 2 * np.pi) - np.pi) < WINDOW_SD * self.psi_sd_rad + np.pi / PSI_BINS
            if last > first and near.any():
                found.append((slice(first, last), np.flatnonzero(near.any(axis=1))))
        return found

    def bounds(self, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eq. (2): priors (n, m, 19) as climbs take them (newton.py) from rotations (n, m, 3, 3), and an extent without bounds."""
        tilt, _ = axis_angles(rotation)
        wanted = np.broadcast_to(self.tilt_rad[:, None], tilt.shape)
        if self.both_ways:
            other = np.pi - wanted
            wanted = np.where(np.abs(tilt - wanted) <= np.abs(tilt - other), wanted, other)
        priors = np.zeros((*tilt.shape, 19))
        priors[..., :9] = tilted(rotation, wanted - tilt).reshape(*tilt.shape, 9)
        priors[..., 11:13] = self.tilt_sd_rad**-2.0
        return priors, NO_EXTENT

    def nearest_copies(self, rotation: np.ndarray, shift_px: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eq. (3): rotations (n, m, 3, 3), shifts (n, m, 2), and n of the copy that was taken, (n, m) float64."""
        axis = rotation[..., 2, :2]
        along = np.sum(axis * shift_px, axis=-1) / np.maximum(np.sum(axis * axis, axis=-1), LEAST_SINE**2)
        copies = -np.rint(along / self.rise_px)
        return turned_about_z(rotation, copies * self.twist_rad), shift_px + copies[..., None] * self.rise_px * axis, copies


    def copied_covariances(self, covariance: np.ndarray, rotation: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """Covariances (n, 15), in radians and pixels, of the copies (n,) that were taken, at rotations (n, 3, 3); those that are not finite
        stay as they are."""
        out, known = covariance.copy(), np.isfinite(covariance).all(axis=1)
        for n in np.unique(copies[known & (copies != 0)]):
            rows = np.flatnonzero(known & (copies == n))
            turn, move = turned_about_z(np.eye(3)[None], np.array([n * self.twist_rad])), np.array([[0.0, 0.0, n * self.rise_px]])
            quaternions, made = quaternions_from_matrices(np.ascontiguousarray(rotation[rows])), np.empty((len(rows), 1, 15))
            copy_covariances(turn, move, quaternions[:, None], np.ascontiguousarray(covariance[rows]), made)
            out[rows] = made[:, 0]
        return out


@dataclass(frozen=True)
class GridPrior:
    """What is known of n images at the rotations of a grid (G, 3, 3) that is sorted by psi."""

    filaments: Filaments
    grid: np.ndarray

    def take(self, rows: slice) -> GridPrior:
        """Of some of the images."""
        return replace(self, filaments=self.filaments.take(rows))

    @property
    def windows(self) -> list[tuple[slice, np.ndarray]]:
        """Parts of the grid, each with the images that may lie there (Filaments.windows)."""
        return self.filaments.windows(self.grid)

    def log(self, part: slice, rows: np.ndarray) -> np.ndarray:
        """Log priors (m, g) float32 of some images in a part of the grid."""
        return self.filaments.take(rows).log_prior(self.grid[None, part]).astype(np.float32)

    @property
    def angles(self) -> np.ndarray:
        """(G, 2) float32: tilt and psi of the rotations, radians."""
        return np.stack(axis_angles(self.grid), axis=1).astype(np.float32)

    @property
    def given(self) -> np.ndarray:
        """(n, 2) float32: tilt and psi of the images, radians; NaN where a psi is not known."""
        return np.stack([self.filaments.tilt_rad, self.filaments.psi_rad], axis=1).astype(np.float32)

    @property
    def precision(self) -> tuple[float, float, float]:
        """Of tilt and psi, rad^-2, and 1 where the polarity is unknown, else 0."""
        return self.filaments.tilt_sd_rad**-2.0, self.filaments.psi_sd_rad**-2.0, float(self.filaments.both_ways)


def _square(away: np.ndarray, deviation: float) -> np.ndarray:
    return (away / deviation) ** 2


def axis_angles(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tilt and psi, radians, of rotations (..., 3, 3)."""
    return np.arccos(np.clip(rotation[..., 2, 2], -1.0, 1.0)), np.arctan2(rotation[..., 2, 1], -rotation[..., 2, 0])


def tilted(rotation: np.ndarray, more_rad: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) with the same rot and psi and a tilt greater by (...): turned about the map's y as rot turns it."""
    sine = np.maximum(np.hypot(rotation[..., 0, 2], rotation[..., 1, 2]), 1e-12)
    x, y = -rotation[..., 1, 2] / sine, rotation[..., 0, 2] / sine  # the axis; the view is (sin tilt cos rot, sin tilt sin rot, cos tilt)
    c, s = np.cos(more_rad), np.sin(more_rad)
    turn = np.stack([np.stack([c + x * x * (1 - c), x * y * (1 - c), y * s], axis=-1),
                     np.stack([x * y * (1 - c), c + y * y * (1 - c), -x * s], axis=-1),
                     np.stack([-y * s, x * s, c], axis=-1)], axis=-2)
    return np.ascontiguousarray(turn @ rotation)


def turned_about_z(rotation: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """Rz(angle) R for rotations (..., 3, 3) and angles (...); those whose angle is 0 keep their bits."""
    c, s = np.cos(angle_rad)[..., None], np.sin(angle_rad)[..., None]
    turned, x, y = rotation.copy(), rotation[..., 0, :], rotation[..., 1, :]
    turned[..., 0, :], turned[..., 1, :] = c * x - s * y, s * x + c * y
    return turned


def filament_grid(step_rad: float, tilt_extent_rad: float) -> np.ndarray:
    """Quaternions (G, 4) of all rot and psi in steps, and of tilts about 90 degrees: as many as are needed within the extent, in steps
    half as long again, since a filament's image changes more slowly with its tilt. Sorted by psi, from 0 to 2 pi."""
    turns = int(np.ceil(2 * np.pi / step_rad))
    steps = int(np.ceil(tilt_extent_rad / (1.5 * step_rad))) if tilt_extent_rad > 0.5 * step_rad else 0
    tilts = np.pi / 2 + np.linspace(-1, 1, 2 * steps + 1) * tilt_extent_rad if steps else np.array([np.pi / 2])
    angles = 2 * np.pi * np.arange(turns) / turns
    psi, tilt, rot = (a.ravel() for a in np.meshgrid(angles, tilts, angles, indexing="ij"))
    matrices = np.empty((len(rot), 3, 3))
    cr, sr, ct, st, cp, sp = np.cos(rot), np.sin(rot), np.cos(tilt), np.sin(tilt), np.cos(psi), np.sin(psi)
    matrices[:, 0] = np.stack([cr * ct * cp - sr * sp, -cr * ct * sp - sr * cp, cr * st], axis=-1)
    matrices[:, 1] = np.stack([sr * ct * cp + cr * sp, -sr * ct * sp + cr * cp, sr * st], axis=-1)
    matrices[:, 2] = np.stack([-st * cp, st * sp, ct], axis=-1)
    return np.asarray(quaternions_from_matrices(matrices))
