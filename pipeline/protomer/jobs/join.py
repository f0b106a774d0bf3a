"""join: several particle sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from protomer.declarations.join import JoinSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.report.build import Report
from protomer.report.pictures import orientation_figure
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.tables.particle_join import Joined, join
from protomer.tables.particle_matching import row_keys, rows_of, turns_rad
from protomer.tables.particles import Particles
from protomer.tables.selection_report import warn_of_halves

BASE_BYTES, BYTES_PER_ROW, BYTES_ON_DISK, SECONDS_PER_ROW = 250_000_000, 800, 400, 1e-5
SHOWN_ROWS = 200_000  # viewing directions in a figure
MOST_LISTED = 12  # columns or groups that a warning names
FAR_DEG = 5.0  # median angle between two poses of one image beyond which sets are in other frames


def run(inputs: Inputs, settings: JoinSettings, job: JobRun) -> dict[str, Any]:
    """Load, unite, save."""
    paths = sets(inputs)
    tables = [read_particles(path) for path in paths]
    joined = join(tables, paths, settings.duplicates)
    particles = replace(joined.particles, provenance=dict(job.provenance))
    warn_of_differences(tables, joined, job)
    warn_of_frames(tables, job)
    warn_of_halves(particles, job.events)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    summary = summary_of(tables, paths, joined)
    job.events.event("joined", **{name: summary[name] for name in ("rows_in", "rows_out", "rows_dropped", "sets")})
    job.output.write_text("report.html", report_of(summary, particles, job))
    return summary


def sets(inputs: Inputs) -> list[Path]:
    """The files. Raises InputError where they are not two or more."""
    paths = [path for path in inputs.particles if path is not None]
    if len(paths) < 2:
        raise InputError(f"{len(paths)} set of particles", "two or more", "give --particles once for each set")
    return paths


def warn_of_differences(tables: Sequence[Particles], joined: Joined, job: JobRun) -> None:
    """Warn of what the sets do not have in common."""
    if joined.filled:
        listed = [f"{name} ({value})" for name, value in joined.filled.items()]
        job.events.warn("filled_columns", f"{len(listed)} columns of other programs are not in every set; where one is missing stands: "
                        + ", ".join(listed[:MOST_LISTED]) + ", ..." * (len(listed) > MOST_LISTED))
    if joined.renamed:
        job.events.warn("optics_renamed", f"optics groups of one name differ, and were renamed: {'; '.join(joined.renamed[:MOST_LISTED])}")
    if len({table.has_poses for table in tables}) > 1:
        job.events.warn("poses_missing", "some sets have no poses, so the joined set counts as one without: refine it from the start")
    groups = joined.particles.optics_groups
    used = np.unique(joined.particles.by_image("optics")[0]).tolist()
    frames = sorted({(groups[g].box, round(groups[g].pixel_size_A, 4)) for g in used})
    if len(frames) > 1:
        listed_frames = ", ".join(f"{box} px of {pixel_A:g} Å" for box, pixel_A in frames)
        job.events.warn("different_images", f"the images differ: {listed_frames}. refine, local-refine, reconstruct and subtract want one "
                        "box and pixel size; select --optics parts them again, and export takes them")


def warn_of_frames(tables: Sequence[Particles], job: JobRun) -> None:
    """Warn where images that several sets have are posed differently: their maps are then not in one frame."""
    posed = [table for table in tables if table.has_poses]
    if len(posed) < 2:
        return
    keys = row_keys(posed, True)
    for table, key in zip(posed[1:], keys[1:], strict=True):
        row = rows_of(key, keys[0])
        both = np.flatnonzero(row >= 0)
        if not len(both):
            continue
        turns = turns_rad(posed[0].rotation[row[both]], table.rotation[both], np.eye(3)[None])
        turn_deg = float(np.median(np.rad2deg(turns)))
        if turn_deg > FAR_DEG:
            job.events.warn("other_frame", f"the {len(both)} rows that two sets have in common are turned by {turn_deg:.1f} degrees "
                            "(median) from one to the other: unless those are mates of a symmetric map, the sets' maps stand differently, "
                            "and a map from both together would be smeared; refine the joined set from the start")


def summary_of(tables: Sequence[Particles], paths: Sequence[Path], joined: Joined) -> dict[str, Any]:
    """Counts in = out + dropped, by set."""
    particles = joined.particles
    each = [{"particles": str(path), "rows": len(table), "duplicates_dropped": dropped}
            for path, table, dropped in zip(paths, tables, joined.dropped, strict=True)]
    return {"images": len(np.unique(particles.by_image("image_uid")[0])), "rows_in": sum(map(len, tables)), "rows_out": len(particles),
            "rows_dropped": sum(joined.dropped), "sets": each, "optics_groups": [group.name for group in particles.optics_groups],
            "stacks": len(particles.stacks), "halves": {name: int((particles.half == n).sum()) for n, name in enumerate("ab")},
            "filled_columns": dict(joined.filled), "optics_renamed": list(joined.renamed)}


def report_of(summary: dict[str, Any], particles: Particles, job: JobRun) -> str:
    """report.html."""
    halves = {f"half {name}": rows for name, rows in summary["halves"].items()}
    report = Report("Joined particle sets", job.events.warnings,
                    {"optics groups": len(particles.optics_groups), "stacks": summary["stacks"], **halves})
    report.headline("rows", f"{len(particles):,}", f"{summary['images']:,} images")
    report.section("Sets", "Rows stand in the order of the sets; half-sets and poses are those that each set came with.")
    report.table(("set", "rows", "dropped as duplicates"), [tuple(each.values()) for each in summary["sets"]])
    rows = np.bincount(particles.optics, minlength=len(particles.optics_groups)).tolist()
    report.table(("optics group", "rows"), [(group.name, number) for group, number in zip(particles.optics_groups, rows, strict=True)])
    if particles.has_poses:
        report.section("Viewing directions")
        shown = np.arange(0, len(particles), max(1, -(-len(particles) // SHOWN_ROWS)))
        report.figure(orientation_figure(particles.rotation[shown]), "Of the joined set.")
    return report.html()


def plan(inputs: Inputs, settings: JoinSettings, ranks: int, threads: int) -> Plan:
    """Memory of the tables, given and joined; disk of the joined one; time from a measured rate."""
    rows = sum(len(read_particles(path)) for path in sets(inputs))
    return Plan(BASE_BYTES + BYTES_PER_ROW * rows, BYTES_ON_DISK * rows, 2 + SECONDS_PER_ROW * rows, ("no image is read or written",))
