"""How far a local refinement moved poses, and what that says of the part's motion.

A part that moves with a variance m about each axis is given with an error of that variance. Its refined pose has an error of variance e,
which a rehearsal measures. Where the images alone give a pose to the variance v, and a Gaussian prior of variance p is right (p infinite:
no prior), the posterior has

(1) 1 / e = 1 / v + 1 / p,    and poses change by a variance    c = (p / (p + v))^2 (m + v)

so that (2) m = c ((p + v) / p)^2 - v follows from e, p and the changes c seen. With no prior, m = c - e: poses that change by less than
1.4 times their error have become worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.engine.confidence import Confidence
from protomer.engine.local_alignment import nearest_mates, seen_from
from protomer.refinement.setup import Setup
from protomer.tables.particles import Particles
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors

AT_EXTENT = 0.95  # a change of this share of the extent lies at it
FALLEN_TOGETHER_DEG = 5.0
MEDIAN_OF_SD = 1.5382  # median length of a vector of three Gaussian components over their standard deviation


@dataclass(frozen=True)
class PoseChanges:
    """Changes (N,) of the shift at the fulcrum (Å); turn_deg (N, 3): about map x, y, z. Extents and priors in degrees and Å, infinite where
    there is none; fallen: share of copies that lie within 5 degrees of another of their image; confidence: what a rehearsal found."""

    turn_deg: np.ndarray
    shift_A: np.ndarray
    extent: tuple[float, float]
    prior: tuple[float, float]
    fallen: float
    confidence: Confidence | None

    @classmethod
    def between(cls, given: Particles, found: Particles, setup: Setup, confidence: Confidence | None) -> PoseChanges:
        """From the poses before and after; mates of a relaxed group count as the same."""
        assert setup.local is not None
        local, pixel_A = setup.local, setup.pixel_size_A
        after = matrices_from_quaternions(found.rotation)
        before = nearest_mates(matrices_from_quaternions(given.rotation), after, setup.mates)
        turn_deg = np.rad2deg(rotation_errors(before, after, np.eye(3)[None]))
        fulcrum_A = local.fulcrum_px * pixel_A
        moved = seen_from(after, found.shift_A, fulcrum_A) - seen_from(before, given.shift_A, fulcrum_A)
        extent = float(np.rad2deg(local.extent[0])), float(local.extent[1] * pixel_A)
        prior = float(np.rad2deg(local.rotation_prior_rad)), local.shift_prior_px * pixel_A
        fallen = fallen_together(found.image_uid, before, after) if found.is_expanded else 0.0
        return cls(turn_deg, np.linalg.norm(moved, axis=1), extent, prior, fallen, confidence)

    @property
    def angle_deg(self) -> np.ndarray:
        """(N,) of the turns."""
        return np.asarray(np.linalg.norm(self.turn_deg, axis=1))

    @property
    def piled_up(self) -> tuple[float, float]:
        """Shares of the particles at the extent of rotation, of shift."""
        return float(np.mean(self.angle_deg > AT_EXTENT * self.extent[0])), float(np.mean(self.shift_A > AT_EXTENT * self.extent[1]))

    @property
    def bias(self) -> float:
        """Length of the mean turn over the root mean square of the turns: 0 where turns are to all sides alike."""
        return float(np.linalg.norm(self.turn_deg.mean(axis=0)) / max(np.sqrt((self.turn_deg**2).sum(axis=1).mean()), 1e-9))

    @property
    def motion_deg(self) -> float | None:
        """Standard deviation about each axis by which the given poses were off, eq. (2); None where nothing was rehearsed."""
        if self.confidence is None:
            return None
        error, change = (median / MEDIAN_OF_SD for median in (self.confidence.median_error_deg, float(np.median(self.angle_deg))))
        looseness = error**2 / self.prior[0] ** 2  # e / p, below 1 where the images say anything
        if looseness >= 1.0:
            return 0.0
        images_alone = error**2 / (1.0 - looseness)
        return float(np.sqrt(max((change / (1.0 - looseness)) ** 2 - images_alone, 0.0)))

    @property
    def is_better(self) -> bool:
        """Whether the refined poses are nearer to the truth than the given ones, as far as a rehearsal tells."""
        motion = self.motion_deg
        return motion is None or self.confidence is None or self.confidence.median_error_deg < MEDIAN_OF_SD * motion

    @property
    def principal_turns(self) -> tuple[np.ndarray, np.ndarray]:
        """Axes (3, 3) of the map, one in each row, about which the given poses turned most, next and least, and the root mean square
        turn (3,) about each, degrees."""
        value, vector = np.linalg.eigh(self.turn_deg.T @ self.turn_deg / len(self.turn_deg))
        axes = vector[:, ::-1].T
        largest = np.take_along_axis(axes, np.argmax(np.abs(axes), axis=1)[:, None], axis=1)
        return axes * np.sign(largest), np.sqrt(np.maximum(value[::-1], 0.0))

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "rotation_change_deg": [round(float(v), 4) for v in np.percentile(self.angle_deg, (25, 50, 75, 95))],
            "shift_change_A": [round(float(v), 4) for v in np.percentile(self.shift_A, (25, 50, 75, 95))],
            "at_extent": [round(share, 4) for share in self.piled_up],
            "mean_turn_over_rms": round(self.bias, 4),
            "copies_fallen_together": round(self.fallen, 4),
            "pose_confidence": None if self.confidence is None else self.confidence.summary(),
            "principal_turns": [{"axis": axis.round(4).tolist(), "rms_deg": round(float(rms), 4)}
                                for axis, rms in zip(*self.principal_turns, strict=True)],
            "motion_deg_per_axis": None if self.motion_deg is None else round(self.motion_deg, 3),
        }


def fallen_together(image_uid: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Share of rows whose rotation (N, 3, 3) came to lie within FALLEN_TOGETHER_DEG of another row of the same image, and had not before,
    as neighbours along a helix have."""
    order = np.argsort(image_uid, kind="stable")
    uid, fallen = image_uid[order], np.zeros(len(order), bool)
    limit = 1.0 + 2.0 * np.cos(np.deg2rad(FALLEN_TOGETHER_DEG))
    for step in range(1, int(np.bincount(np.unique(uid, return_inverse=True)[1]).max())):
        were, are = (np.einsum("nij,nij->n", r[order][step:], r[order][:-step]) > limit for r in (before, after))
        together = (uid[step:] == uid[:-step]) & are & ~were
        fallen[step:] |= together
        fallen[:-step] |= together
    return float(fallen.mean())
