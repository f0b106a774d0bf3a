"""How far a local refinement moved poses, whether that is to be believed, and its report.html."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.events import Events
from protomer.job_run import JobRun
from protomer.local_alignment import Local, seen_from
from protomer.particles import Particles
from protomer.refinement import rotation_widths_deg
from protomer.report.build import Report
from protomer.report.figures import fsc_caption, fsc_figure, histogram_figure, resolution_figure
from protomer.report.pictures import orientation_figure, slices_figure
from protomer.volumes import MapRecord
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors

AT_EXTENT, MANY_AT_EXTENT = 0.95, 0.05  # a change of this share of the extent lies at it; more such particles than this are a pile-up
AWAY_FROM_ZERO = 0.5  # mean change over its root mean square
NO_NARROWER = 0.9  # posterior width over the prior's
FALLEN_TOGETHER_DEG, MANY_FALLEN = 5.0, 0.01


@dataclass(frozen=True)
class PoseChanges:
    """Changes (N,) of rotation (degrees) and of the shift at the fulcrum (Å); turn (N, 3): about map x, y, z (degrees). Extents and
    priors in the same units, infinite where there is none; fallen: share of copies that lie within 5 degrees of another of their image."""

    turn_deg: np.ndarray
    shift_A: np.ndarray
    extent: tuple[float, float]
    prior: tuple[float, float]
    fallen: float

    @classmethod
    def between(cls, given: Particles, found: Particles, local: Local, pixel_A: float) -> PoseChanges:
        """From the poses before and after."""
        before, after = (matrices_from_quaternions(p.rotation) for p in (given, found))
        turn_deg = np.rad2deg(rotation_errors(before, after, np.eye(3)[None]))
        fulcrum_A = local.fulcrum_px * pixel_A
        moved = seen_from(after, found.shift_A, fulcrum_A) - seen_from(before, given.shift_A, fulcrum_A)
        extent = float(np.rad2deg(local.extent[0])), float(local.extent[1] * pixel_A)
        prior = float(np.rad2deg(local.rotation_prior_rad)), local.shift_prior_px * pixel_A
        return cls(turn_deg, np.linalg.norm(moved, axis=1), extent, prior, _fallen_together(found, after) if found.is_expanded else 0.0)

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

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "rotation_change_deg": [round(float(v), 4) for v in np.percentile(self.angle_deg, (25, 50, 75, 95))],
            "shift_change_A": [round(float(v), 4) for v in np.percentile(self.shift_A, (25, 50, 75, 95))],
            "at_extent": [round(share, 4) for share in self.piled_up],
            "mean_turn_over_rms": round(self.bias, 4),
            "copies_fallen_together": round(self.fallen, 4),
        }


def _fallen_together(found: Particles, rotation: np.ndarray) -> float:
    """Share of rows whose rotation lies within FALLEN_TOGETHER_DEG of another row of the same image."""
    order = np.argsort(found.image_uid, kind="stable")
    uid, fallen = found.image_uid[order], np.zeros(len(order), bool)
    limit = 1.0 + 2.0 * np.cos(np.deg2rad(FALLEN_TOGETHER_DEG))
    for step in range(1, int(np.bincount(np.unique(uid, return_inverse=True)[1]).max())):
        same = uid[step:] == uid[:-step]
        trace = np.einsum("nij,nij->n", rotation[order][step:], rotation[order][:-step])
        near = same & (trace > limit)
        fallen[step:] |= near
        fallen[:-step] |= near
    return float(fallen.mean())


def warn_of_changes(changes: PoseChanges, particles: Particles, events: Events) -> None:
    """Warn of what healthy changes of poses do not show, and say what to change."""
    for name, unit, share, extent in zip(("rotation", "shift"), ("°", " Å"), changes.piled_up, changes.extent, strict=True):
        if share > MANY_AT_EXTENT:
            events.warn(
                f"{name}_at_extent",
                f"{100 * share:.0f} % of the {name} changes lie at the extent of {extent:g}{unit}: the part moves further, or the images "
                f"do not tell its pose; widen {name}_extent, or give a {name}_prior",
            )
    if changes.bias > AWAY_FROM_ZERO:
        events.warn(
            "turned_on_average",
            f"the poses turned to one side on average ({changes.bias:.2f} of their spread): the map moved with them, or the mask lies off "
            "the part",
        )
    width, prior = float(np.median(rotation_widths_deg(particles.pose_covariance))), changes.prior[0] * np.sqrt(3.0)
    if width > NO_NARROWER * prior:
        events.warn(
            "prior_decides",
            f"posteriors ({width:.1f}° wide in the median) are hardly narrower than the prior ({prior:.1f}°): the images do not tell this "
            "part's pose; refine a larger part, or keep the given poses",
        )
    if not np.isfinite(changes.prior[0]):
        events.warn(
            "no_prior",
            "without a rotation prior the FSC can rise while poses get worse, since half maps share what noise does to poses alike; "
            "compare with a run that has one (rotation_prior)",
        )
    if changes.fallen > MANY_FALLEN:
        events.warn(
            "copies_fallen_together",
            f"{100 * changes.fallen:.1f} % of the copies fell onto another of their image and count twice; narrow rotation_extent or "
            "give a prior",
        )


def write_report(record: MapRecord, particles: Particles, changes: PoseChanges, history: list[dict[str, Any]], job: JobRun) -> None:
    """report.html."""
    fsc = record.fsc
    assert fsc is not None
    width_A = fsc.box * fsc.voxel_size_A
    report = Report("Local refinement", job.events.warnings, {"particles": len(particles), "FSC mask": fsc.mask_name})
    report.headline("resolution in the mask", fsc.describe("corrected").split(" (")[0], "corrected FSC at 0.143")
    report.headline("rotations changed by", f"{np.median(changes.angle_deg):.2f}°", "median")
    report.headline("shifts changed by", f"{np.median(changes.shift_A):.2f} Å", "median, at the fulcrum")
    report.section("Poses")
    for values, extent, prior, label in ((changes.angle_deg, changes.extent[0], changes.prior[0], "change of rotation (degrees)"),
                                         (changes.shift_A, changes.extent[1], changes.prior[1], "change of shift there (Å)")):
        about_prior = f" Standard deviation of the prior per axis: {prior:.3g}." if np.isfinite(prior) else " No prior."
        report.figure(histogram_figure(values, label, extent, f"extent {extent:.3g}"),
                      "Healthy changes peak near 0 and fall off before the extent." + about_prior)
    report.figure(histogram_figure(rotation_widths_deg(particles.pose_covariance), "posterior width of the rotation (degrees)"),
                  "Width of each particle's posterior, prior included.")
    report.figure(orientation_figure(particles.rotation), "Viewing directions.")
    report.section("Resolution")
    report.figure(fsc_figure(fsc), fsc_caption(fsc))
    report.figure(resolution_figure({"half maps, FSC 0.5": [width_A / max(h["resolved_shell"], 1) for h in history]}),
                  "Resolution to which poses were aligned after each iteration: FSC 0.5 in the mask.")
    report.section("Map")
    report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the map, which is not masked, with contours of the mask.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")
