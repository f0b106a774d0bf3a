"""symmetry-expand: rows for all symmetry copies of every image, and back to one row per image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.symmetry_expand import SymmetryExpandSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.hdf5_particles import write_copies
from protomer.report.build import Report
from protomer.report.pictures import orientation_figure
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.subtraction.table import is_subtracted
from protomer.symmetry.expansion import (
    axial_shifts_A,
    copies_in_blocks,
    expanded,
    no_longer_copies,
    one_row_per_image,
    own_columns,
    require_expandable,
    torn_filaments,
)
from protomer.symmetry.gate import Finding, inspect_map
from protomer.symmetry.operator_sets import OperatorSet, helix_of, operators_of
from protomer.tables.particles import Particles

SHOWN_ROWS = 200_000  # viewing directions in a figure
BASE_BYTES, BYTES_PER_IMAGE, SECONDS_PER_IMAGE, SECONDS_PER_ROW = 500_000_000, 800, 4e-6, 1e-6
FAR_ALONG = 1 / 3  # of the box: copies that move further along a helix show little of their subunit


def run(inputs: Inputs, settings: SymmetryExpandSettings, job: JobRun) -> dict[str, Any]:
    """Load, check, copy, save; or the way back."""
    particles = replace(read_particles(inputs.particles), provenance=dict(job.provenance))
    warn_of_subtraction(particles, settings.undo, job)
    if settings.undo:
        return undo(particles, settings, job)
    operators = chosen_operators(inputs, settings)
    require_expandable(particles)
    finding = pass_gate(inputs, settings, job)
    warn_of_helix(particles, settings, job)
    with job.output.writing("particles.h5") as path:
        write_copies(path, particles, operators, own_columns(particles), watched_blocks(particles, operators, job))
    report_expansion(particles, operators, finding, job)
    return {"images": len(particles), "copies": len(operators), "rows": len(particles) * len(operators), "operators": operators.name,
            **({} if finding is None else {**finding.summary(), "forced": bool(finding.objections)})}


def warn_of_subtraction(particles: Particles, is_undone: bool, job: JobRun) -> None:
    """Warn where the images have lost a part of the particle, so that copies would look for it, or differ in what they lost."""
    if is_subtracted(particles):
        what = ("each image is the one from which something was taken as the copy that is kept saw it" if is_undone else
                "unless what was taken has this symmetry, copies show what is no longer in the images; expand first, then subtract")
        job.events.warn("subtracted", f"something was taken from these images: {what}")


def chosen_operators(inputs: Inputs, settings: SymmetryExpandSettings) -> OperatorSet:
    """What the copies are made with. Raises SettingsError where that is nothing."""
    operators = operators_of(inputs.symmetry, inputs.axes, settings)
    if len(operators) == 1:
        raise SettingsError(f"the symmetry {operators.name}, which has one operator", "a point group above C1, a helix, or both",
                            "give --symmetry, such as C2, or helical_twist, helical_rise and helical_order")
    return operators


def pass_gate(inputs: Inputs, settings: SymmetryExpandSettings, job: JobRun) -> Finding | None:
    """What the map says of the symmetry, if a map was given. Raises InputError where it speaks against it, unless forced."""
    if inputs.volume is None:
        job.events.warn("no_volume", "no --volume was given: whether the map has this symmetry, and has it about these axes, was not seen")
        return None
    group = OperatorSet.of_group(inputs.symmetry, inputs.axes)
    finding = inspect_map(inputs.volume, group, helix_of(settings), settings.max_axis_error)
    job.events.event("axes", **finding.summary())
    if finding.objections and not settings.force:
        wanted = chosen_operators(inputs, settings).name
        raise InputError("; ".join(finding.objections), f"a map of symmetry {wanted} on the axes of --axes {inputs.axes}",
                         "bring map and particles onto the axes with `protomer symmetry-find`, check the group and --axes, or expand all "
                         "the same with --set force=true")
    if finding.objections:
        job.events.warn("forced", f"expanded by force: {'; '.join(finding.objections)}")
    return finding


def watched_blocks(particles: Particles, operators: OperatorSet, job: JobRun) -> Iterator[dict[str, np.ndarray]]:
    """The copies block by block, with a line that tells how far they are."""
    with job.progress("expanding", len(particles) * len(operators)) as line:
        for block in copies_in_blocks(particles, operators):
            yield block
            line.advance(len(block["copy"]))
            job.check_stop()


def warn_of_helix(particles: Particles, settings: SymmetryExpandSettings, job: JobRun) -> None:
    """Warn of what makes copies along a helix wrong, or half-sets dependent."""
    helix = helix_of(settings)
    if helix is None:
        return
    far = int(np.sum(axial_shifts_A(particles) > helix.rise_A / 2))
    if far:
        job.events.warn("helical_shifts", f"{far} of {len(particles)} images are shifted along the helix by more than half a rise "
                        f"({helix.rise_A / 2:.3g} Å): another subunit is nearer to their centre, and copies of neighbours may coincide; "
                        "refine with a smaller shift range, or recentre along the helix")
    torn = torn_filaments(particles)
    if torn:
        job.events.warn("torn_filaments", f"{torn} filaments have segments in both half-sets: neighbouring segments show the same "
                        "subunits, so the FSC is too good; import with --set split_by=filament")
    reach_A, width_A = float(np.abs(helix.numbers).max()) * helix.rise_A, min(g.box * g.pixel_size_A for g in particles.optics_groups)
    if reach_A > FAR_ALONG * width_A:
        job.events.warn("helical_reach", f"the outermost copies are {reach_A:.4g} Å along the helix, in images of {width_A:.4g} Å: their "
                        "subunits lie at the images' edges; a smaller helical_order loses nothing where segments overlap")


def report_expansion(particles: Particles, operators: OperatorSet, finding: Finding | None, job: JobRun) -> None:
    """report.html of an expansion."""
    rows, facts = len(particles) * len(operators), {} if finding is None else finding.facts()
    report = Report("Symmetry expansion", job.events.warnings,
                    {"operators": operators.name, "images": len(particles), "rows": rows, **facts})
    report.headline("rows", f"{rows:,}", f"{len(particles):,} images, {len(operators)} copies of each")
    if finding is not None and finding.axes is not None:
        report.headline("axes off by", f"{finding.axes.angle_deg:.2f}°", f"centre by {finding.axes.offset_A:.2f} Å")
    report.section("What was done", "Every image has a row for each operator, with the pose from which a map of this symmetry looks the "
                   "same. Copies keep their image's identity, half-set and CTF; no image was written.")
    if finding is not None and finding.axes is not None:
        report.section("The map's axes", "How far the given map is from the axes that the operators have, and how it correlates with its "
                       "own copies: as it stands, and about the axes that fit it best.")
        numbers = zip(finding.axes.correlation[1:].tolist(), finding.axes.best_correlation[1:].tolist(), strict=True)
        report.table(("operator", "correlation", "at best"), [(n + 1, *pair) for n, pair in enumerate(numbers)],
                     f"Correlations at waves down to {finding.axes.resolution_A:.1f} Å.")
    report.section("Viewing directions", "With operators whose axes lie where the map's do, the copies cover the sphere as symmetry asks.")
    shown = evenly(len(particles), SHOWN_ROWS)
    report.figure(orientation_figure(particles.rotation[shown]), "Before: the images.")
    some = particles.take(evenly(len(particles), max(SHOWN_ROWS // len(operators), 1)))
    report.figure(orientation_figure(expanded(some, operators).rotation), "After: all copies.")
    job.output.write_text("report.html", report.html())


def evenly(number: int, most: int) -> np.ndarray:
    """At most that many of the numbers below `number`, evenly spaced."""
    return np.arange(0, number, -(-number // most)) if number else np.zeros(0, np.int64)


def undo(particles: Particles, settings: SymmetryExpandSettings, job: JobRun) -> dict[str, Any]:
    """Back to one row per image."""
    given, rows = particles.operators, one_row_per_image(particles, settings.keep)
    moved, kept = int((particles.copy[rows] > 0).sum()), no_longer_copies(particles, rows)
    if moved and settings.keep == "original":
        job.events.warn("no_original", f"{moved} images have no copy 0 any more: the lowest copy that is left was kept of them")
    with job.output.writing("particles.h5") as path:
        write_particles(path, kept)
    report = Report("Symmetry expansion undone", job.events.warnings, {"operators before": given.name or "unknown", "kept": settings.keep,
                                                                        "rows before": len(particles), "poses of other copies": moved})
    report.headline("rows", f"{len(kept):,}", f"from {len(particles):,}")
    report.section("What was done", "Each image has one row again, with the pose of one of its copies; the operators are forgotten.")
    report.figure(orientation_figure(kept.rotation[evenly(len(kept), SHOWN_ROWS)]), "Viewing directions of the images.")
    job.output.write_text("report.html", report.html())
    return {"images": len(kept), "rows_before": len(particles), "operators_before": given.name, "kept": settings.keep,
            "poses_of_other_copies": moved}


def plan(inputs: Inputs, settings: SymmetryExpandSettings, ranks: int, threads: int) -> Plan:
    """Memory of the parent's table and one block; disk of the copies' own columns; time from measured rates."""
    particles = read_particles(inputs.particles)
    if settings.undo:
        rows = len(one_row_per_image(particles, settings.keep))
        return Plan(300_000_000 + 400 * len(particles), 400 * rows, 3 + 1e-6 * len(particles))
    operators = chosen_operators(inputs, settings)
    require_expandable(particles)
    rows, each = len(particles) * len(operators), 120 if "pose_covariance" in own_columns(particles) else 56
    return Plan(BASE_BYTES + BYTES_PER_IMAGE * len(particles), 400 * len(particles) + each * rows,
                3 + SECONDS_PER_IMAGE * len(particles) + SECONDS_PER_ROW * rows,
                (f"{rows} rows: {len(particles)} images, {len(operators)} copies of each ({operators.name}); no image is written",))
