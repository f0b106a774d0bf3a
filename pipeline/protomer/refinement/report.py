"""report.html of a refinement."""

from __future__ import annotations

from typing import Any

import numpy as np

from protomer.engine.confidence import Confidence
from protomer.engine.iteration_record import rotation_widths_deg
from protomer.maps.volumes import MapRecord
from protomer.refinement.ctf_within import CtfFound
from protomer.refinement.curvature import CurvedMaps
from protomer.report.build import Report
from protomer.report.ctf_within import add_ctf
from protomer.report.curvature_pictures import add_curvature
from protomer.report.figures import fsc_caption, fsc_figure, histogram_figure, noise_figure, pose_change_figure, resolution_figure
from protomer.report.pictures import add_cut_offs, orientation_figure, projections_figure, slices_figure
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

DOUBTS = {"no_better_than_start", "poses_disagree"}


def write_report(
    record: MapRecord,
    particles: Particles,
    history: list[dict[str, Any]],
    confidence: Confidence | None,
    low_passes_A: tuple[float, float],
    about_axes: str,
    outcome: tuple[CurvedMaps, CtfFound | None],
    job: JobRun,
) -> None:
    """Warnings first, then resolution, map, symmetry, orientations, poses and noise. about_axes: a paragraph, empty without symmetry; the
    others as in refinement_report."""
    report = refinement_report("Refinement", record, particles, history, confidence, low_passes_A, {}, job)
    add_curvature(report, outcome[0])
    if about_axes:
        report.section("Symmetry", about_axes)
    fsc = record.fsc
    assert fsc is not None
    add_poses(report, particles, history, fsc.box * fsc.voxel_size_A)
    add_ctf(report, outcome[1])
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def refinement_report(
    title: str,
    record: MapRecord,
    particles: Particles,
    history: list[dict[str, Any]],
    confidence: Confidence | None,
    low_passes_A: tuple[float, float],
    more: dict[str, Any],
    job: JobRun,
) -> Report:
    """A report that begins as those of all refinements do: warnings, facts (with `more`), resolution and map. low_passes_A: of the start,
    and below which the halves were joined, 0 where never."""
    start_A, joined_A = low_passes_A
    fsc = record.fsc
    assert fsc is not None and record.sharpened is not None
    width_A = fsc.box * fsc.voxel_size_A
    facts = {
        "particles": len(particles),
        "symmetry": record.symmetry,
        "box": f"{fsc.box} voxels of {fsc.voxel_size_A:.4g} Å",
        "FSC mask": fsc.mask_name,
        "in the half-sets": " and ".join(str(int((particles.half == half).sum())) for half in (0, 1)),
        "initial low-pass": f"{start_A:g} Å",
        "halves joined below": f"{joined_A:.4g} Å" if joined_A else "never",
        **more,
    }
    report = Report(title, job.events.warnings, facts)
    doubted = DOUBTS & {warning["code"] for warning in job.events.warnings}
    label = "corrected FSC at 0.143" + ("; do not believe it: see the warnings" if doubted else "")
    report.headline("resolution", fsc.describe("corrected").split(" (")[0], label)
    report.headline("unmasked", fsc.describe("unmasked").split(" (")[0], "FSC at 0.143")
    report.headline("iterations", str(len(history)), "until resolution and poses settled")
    if confidence is not None:
        report.headline("expected pose error", f"{confidence.median_error_deg:.2g}°, {confidence.median_error_A:.2g} Å",
                        f"median; {100 * confidence.lost:.1f} % lost ({confidence.images} images made from the map, searched again)")
    report.section("Resolution")
    report.figure(fsc_figure(fsc), fsc_caption(fsc))
    report.figure(
        resolution_figure({"half maps": [width_A / max(h["resolved_shell"], 1) for h in history]}),
        "Resolution of the half maps in each iteration: FSC 0.143 in a sphere, or where a mask is used in that, corrected for it.",
    )
    report.section("Map")
    report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the FSC-weighted map, with contours of the FSC mask.")
    add_cut_offs(report, job.output.folder / "cut_off.mrc", record.fsc_mask)
    report.figure(projections_figure(record.sharpened), "Projections of the sharpened map.")
    return report


def add_poses(report: Report, particles: Particles, history: list[dict[str, Any]], width_A: float) -> None:
    """Orientations, how poses moved, the iterations in numbers, how sharp the posteriors are, and the noise. width_A: of the box."""
    report.section("Poses")
    report.figure(orientation_figure(particles.rotation), "Viewing directions.")
    moved = [h for h in history if h["turn_quartiles_deg"] is not None]
    turns, shifts = (np.array([h[name] for h in moved]) for name in ("turn_quartiles_deg", "shift_change_quartiles_A"))
    report.figure(
        pose_change_figure(turns, shifts), "How far the best pose of a particle moved in each iteration; settled poses move less and less."
    )
    report.table(
        ("iteration", "resolution (Å)", "aligned to (Å)", "median turn (deg)", "mean weight of the best mode", "searched globally"),
        [
            (
                h["iteration"],
                round(width_A / max(h["resolved_shell"], 1), 2),
                round(width_A / h["alignment_radius"], 2),
                round(h["median_turn_deg"], 3),
                round(h["mean_top_weight"], 3),
                h["searched"],
            )
            for h in history
        ],
        "Iterations.",
    )
    report.figure(
        histogram_figure(rotation_widths_deg(particles.pose_covariance), "posterior width of the rotation (degrees)"),
        "Width of each particle's posterior, from its curvature, widened to what images with known poses showed.",
    )
    report.figure(
        histogram_figure(particles.pose_posterior, "probability that the pose is right"),
        "How far each pose may be believed: the weight of its mode, corrected by how often images with known poses were found at theirs.",
    )
    report.section("Noise")
    box, voxel_size_A = particles.optics_groups[0].box, width_A / particles.optics_groups[0].box
    report.figure(
        noise_figure(np.array(history[-1]["noise"]), [g.name for g in particles.optics_groups], box, voxel_size_A),
        "Noise spectrum of each optics group.",
    )
