"""report.html of a local refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from protomer.engine.iteration_record import rotation_widths_deg
from protomer.local.trust import Trust
from protomer.maps.fsc_curves import FscSet
from protomer.maps.map_agreement import mean_of
from protomer.maps.sharpening import fsc_weight, sharpened_map
from protomer.maps.volumes import MapRecord, Volume
from protomer.refinement.start import resampled
from protomer.report.build import Report
from protomer.report.figures import Expected, fsc_caption, fsc_figure, histogram_figure, resolution_figure
from protomer.report.local_pictures import before_after_figure, beside_figure, control_figure, iterations_figure, motion_figure
from protomer.report.pictures import add_cut_offs, orientation_figure, slices_figure
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles


def write_report(
    maps: tuple[MapRecord, MapRecord],
    particles: Particles,
    trust: Trust,
    beside: Mapping[str, FscSet],
    history: list[dict[str, Any]],
    job: JobRun,
) -> None:
    """report.html. maps: before and after; beside: FSC in the mask of other refinements, by name."""
    record, fsc, changes = maps[1], trust.fsc, trust.changes
    report = Report("Local refinement", job.events.warnings, {"particles": len(particles), "FSC mask": fsc.mask_name})
    by = "corrected FSC at 0.143" + (", and the control" if trust.control is not None else "")
    report.headline("resolution in the mask", trust.describe(), f"see the warnings: {', '.join(trust.withheld)}" if trust.withheld else by)
    report.headline("before", trust.given_fsc.describe("corrected").split(" (")[0], "the given half maps in the same mask")
    report.headline("rotations changed by", f"{np.median(changes.angle_deg):.2f}°", "median")
    if changes.confidence is not None:
        report.headline("error, at least", f"{changes.confidence.median_error_deg:.2f}°", "median, of images made from this map")
        report.headline("particles that count", f"{trust.effective:.0f}", f"of {len(particles)}: right poses to expect, no copy twice")
        report.headline("the part moves by", f"{changes.motion_deg:.2f}°", "about each axis, as changes and that error suggest")
    _poses(report, particles, trust)
    report.section("Resolution")
    doubted = " Not to be believed: see the warnings." if trust.withheld else ""
    report.figure(fsc_figure(fsc), fsc_caption(fsc) + doubted)
    if trust.control is not None:
        report.figure(control_figure(trust.control), "The same refinement with noise in place of the images' detail: where the grey curve "
                      "stays near what the mask makes, poses are not fitted to noise.")
    width_A = fsc.box * fsc.voxel_size_A
    report.figure(iterations_figure([h["fsc"] for h in history], width_A), "FSC of the half maps in each iteration.")
    report.figure(resolution_figure({"half maps, FSC 0.5": [width_A / max(h["resolved_shell"], 1) for h in history]}),
                  "Where the FSC in the mask fell to 0.5 after each iteration: poses were aligned to two shells beyond.")
    this = "this refinement" + (" (withheld)" if trust.withheld else "")
    report.figure(beside_figure({"given half maps": trust.given_fsc, this: fsc, **beside}), "Half maps before and after"
                  + (", and those of other refinements" if beside else "") + ", all in this mask.")
    report.section("Map")
    report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the map, which is not masked, with contours of the mask.")
    assert record.fsc_mask is not None
    add_cut_offs(report, job.output.folder / "cut_off.mrc", record.fsc_mask)
    pair = (Volume(resampled(mean_of(r.half_maps), fsc.box, fsc.voxel_size_A), fsc.voxel_size_A) for r in maps)
    before, after = (sharpened_map(mean, fsc_weight(fsc), 0.0) for mean in pair)
    report.figure(before_after_figure(before, after, record.fsc_mask), "Slices through the mask's centre of mass, before and after: means "
                  "of the half maps, both filtered by the FSC of those after.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def _poses(report: Report, particles: Particles, trust: Trust) -> None:
    """How poses changed, and how wide their posteriors are."""
    changes = trust.changes
    report.section("Poses")
    drawn = ((changes.angle_deg, "change of rotation (degrees)", changes.extent[0], maxwell(changes.prior[0])),
             (changes.shift_A, "change of shift at the fulcrum (Å)", changes.extent[1], rayleigh(changes.prior[1])))
    for values, label, extent, prior in drawn:
        about_prior = (" Changes as wide as the curve: the part moves as the prior says. Much narrower: it moves less, or the images do "
                       "not tell its pose (see the posterior widths)." if prior else " No prior.")
        report.figure(histogram_figure(values, label, extent, f"extent {extent:.3g}", prior),
                      "Healthy changes fall off well before the extent." + about_prior)
    axes, turns = changes.principal_turns
    report.figure(motion_figure(changes.turn_deg, changes.extent[0], changes.prior[0]), "Turns about the fulcrum, a point per particle; "
                  "dashed: extent; circle: standard deviation of the prior.")
    report.table(("axis of the map (x, y, z)", "root mean square turn (degrees)"),
                 [(", ".join(f"{v:.2f}" for v in axis), f"{turn:.2f}") for axis, turn in zip(axes, turns, strict=True)],
                 "Axes about which the part turned most, next and least.")
    report.figure(histogram_figure(rotation_widths_deg(particles.pose_covariance), "posterior width of the rotation (degrees)"),
                  "Width of each particle's posterior, prior included.")
    report.figure(orientation_figure(particles.rotation), "Viewing directions.")


def maxwell(sd: float) -> Expected | None:
    """Density of the length of a vector of three Gaussian components; None where the standard deviation is infinite."""
    if not np.isfinite(sd):
        return None
    return lambda at: np.sqrt(2 / np.pi) * at**2 / sd**3 * np.exp(-0.5 * (at / sd) ** 2), f"prior, {sd:g}° about each axis"


def rayleigh(sd: float) -> Expected | None:
    """The same for two components."""
    if not np.isfinite(sd):
        return None
    return lambda at: at / sd**2 * np.exp(-0.5 * (at / sd) ** 2), f"prior, {sd:.3g} Å along each axis"
