"""import: particle tables of other programs, and their stacks, to particles.h5."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from protomer.declarations.import_particles import ImportSettings
from protomer.errors import InputError
from protomer.formats import hdf5
from protomer.formats.cs import read_cs_particles
from protomer.formats.stack_table import read_stack_particles
from protomer.formats.star import read_star_particles
from protomer.imaging import image_check
from protomer.imaging.image_check import ImageCheck, are_dark, check_images
from protomer.tables import half_sets, table_check
from protomer.tables.import_report import import_report
from protomer.tables.particles import Particles
from protomer.tables.table_check import image_name

if TYPE_CHECKING:
    from protomer.running.job_run import Inputs, JobRun, Plan

T = TypeVar("T")
SHOWN = 8  # bad rows named in a message; rejected.csv names all
READ_BYTES_PER_SECOND = 5e8


def run(inputs: Inputs, settings: ImportSettings, job: JobRun) -> dict[str, Any]:
    """Read, check, normalise, split, write; returns the counts for summary.json. Raises InputError for what cannot be used."""
    table = _with_warnings_told(job, lambda: read_table(inputs, settings))
    if len(table) == 0:
        raise InputError("the table has no rows", "a table with particles", "look at the table: what should have filled it?")
    table_check.require_possible_optics(table)
    if note := table_check.defocus_note(table):
        job.events.warn("defocus", note)
    with job.progress("checking images", len(np.unique(table.image_uid))) as line:

        def advance(images: int) -> None:
            line.advance(images)
            job.check_stop()

        images = _with_warnings_told(job, lambda: check_images(table, job.threads, advance))
    for note in table_check.pixel_size_notes(table, np.array([g.pixel_size_A for g in table.optics_groups]), images.header_pixel_sizes_A):
        job.events.warn("pixel_size", note)
    reasons = unusable_rows(table, images, settings)
    require_usable(table, reasons, settings)
    kept = np.array([row for row in range(len(table)) if row not in reasons], int)
    particles = number_copies(normalised(table, images, settings).take(kept), job)
    particles = binned(split(particles, settings, job), settings.bin)
    particles = replace(particles, provenance={**particles.provenance, **job.provenance})
    job.output.write_text("rejected.csv", _rejected_csv(table, reasons))
    with job.output.writing("particles.h5") as path:
        hdf5.write_particles(path, particles)
    counts = _summary(table, particles, reasons)
    if are_dark(images, normalised(table, images, settings).grey_gain):
        job.events.warn("dark_images", "the images are darker in their middles than around: particles must be white, so import again with "
                        f"invert_contrast {'off' if settings.invert_contrast else 'on'}")
    if reasons:
        job.events.warn("rejected", f"{len(reasons)} of {len(table)} rows were left out; rejected.csv says which and why")
    job.output.write_text("report.html", import_report(particles, counts, job))
    return counts


def plan(inputs: Inputs, settings: ImportSettings, ranks: int, threads: int) -> Plan:
    """Memory: the table and a few blocks of images; time: reading every stack twice (once for its digest)."""
    from protomer.running.job_run import Plan

    table_path = next(Path(p) for p in (inputs.star, inputs.cs, inputs.stack) if p is not None)
    table_bytes = 0 if inputs.stack is not None else os.path.getsize(table_path)
    return Plan(memory_bytes=int(3e8 + 8 * table_bytes + 4 * threads * image_check.BLOCK_BYTES), disk_bytes=int(2 * table_bytes + 1e6),
                seconds=2.0 + 2 * (os.path.getsize(table_path) if inputs.stack is not None else 0) / READ_BYTES_PER_SECOND,
                notes=("stacks are looked for by the run itself, which reads each twice; how long that takes depends on the disk",))


def read_table(inputs: Inputs, settings: ImportSettings) -> Particles:
    """The one table that was given. Raises InputError where none or several were."""
    given = [name for name in ("star", "cs", "stack") if getattr(inputs, name) is not None]
    if len(given) != 1 or (inputs.passthrough is not None and given != ["cs"]) or (inputs.ctf is not None and given != ["stack"]):
        raise InputError(f"import was given {', '.join('--' + g for g in given) or 'no table'}"
                         + " with --passthrough" * (inputs.passthrough is not None) + " with --ctf" * (inputs.ctf is not None),
                         "one of --star, --cs (perhaps with --passthrough), --stack (perhaps with --ctf)", "name one table of particles")
    folder = Path(settings.project_folder) if settings.project_folder else None
    pixel, keep = settings.pixel_size, not settings.redraw_halves
    if inputs.star is not None:
        return read_star_particles(inputs.star, pixel, folder, keep_halves=keep)
    if inputs.cs is not None:
        return read_cs_particles(inputs.cs, inputs.passthrough, pixel, folder, keep_halves=keep)
    return read_stack_particles(inputs.stack, inputs.ctf, pixel)


def unusable_rows(table: Particles, images: ImageCheck, settings: ImportSettings) -> dict[int, str]:
    """Row -> why it cannot be used; the first reason counts."""
    state = np.where((images.state == image_check.FLAT_BACKGROUND) & (not settings.normalise), image_check.GOOD, images.state)
    reasons = {int(row): image_check.REASONS[int(state[row])] for row in np.flatnonzero(state)}
    findings = {"a number of the row is NaN or infinite": table_check.not_finite(table),
                "the row repeats the image and pose of an earlier row": table_check.duplicates(table)}
    if not settings.allow_zero_defocus:
        findings["the defocus is zero"] = table_check.zero_defocus(table)
    for reason, rows in findings.items():
        for row in np.flatnonzero(rows):
            reasons.setdefault(int(row), reason)
    return dict(sorted(reasons.items()))


def require_usable(table: Particles, reasons: dict[int, str], settings: ImportSettings) -> None:
    """Raise InputError where rows are unusable and were not to be rejected, or where none would be left."""
    if not reasons or (settings.bad_images == "reject" and len(reasons) < len(table)):
        return
    counts = {reason: sum(r == reason for r in reasons.values()) for reason in dict.fromkeys(reasons.values())}
    shown = "\n    ".join(f"row {row + 1}, {image_name(table, row)}: {reason}" for row, reason in list(reasons.items())[:SHOWN])
    more = f"\n    and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    remedy = "mend the table or the stacks"
    if len(reasons) < len(table):
        remedy += ", or leave these rows out with --set bad_images=reject (rejected.csv then lists them)"
    if "the defocus is zero" in counts:
        remedy += ("; give the CTF that was estimated (a stack takes it as --ctf TABLE.csv), or, if the images have no CTF, accept it "
                   "with --set allow_zero_defocus=true")
    listed = "; ".join(f"{count}: {reason}" for reason, count in counts.items())
    raise InputError(f"{len(reasons)} of {len(table)} rows cannot be used ({listed})\n    {shown}{more}",
                     "whole, finite, varying images, each named once per pose, with a defocus", remedy)


def normalised(table: Particles, images: ImageCheck, settings: ImportSettings) -> Particles:
    """Grey offset and gain of every row; a .cs file's dark particles (negative gain as read) turn white."""
    gain = table.grey_gain * (-1.0 if settings.invert_contrast else 1.0)
    if settings.normalise:
        return table.with_columns(grey_offset=images.mean, grey_gain=gain / images.sd)
    return table.with_columns(grey_gain=gain)


def number_copies(particles: Particles, job: JobRun) -> Particles:
    """Images that come several times with different poses are symmetry copies; said where the table did not say so."""
    numbered = table_check.numbered_copies(particles)
    if numbered.is_expanded and not particles.is_expanded:
        images = len(np.unique(particles.image_uid))
        job.events.warn("copies", f"{len(particles)} rows show {images} images: rows of one image are taken as its symmetry copies; "
                        "which operators made them is not known")
    return numbered


def split(particles: Particles, settings: ImportSettings, job: JobRun) -> Particles:
    """The table's half-sets, or new ones."""
    if half_sets.have_halves(particles.half) and not settings.redraw_halves:
        half_sets.require_two_halves(particles.half)
        return particles
    if settings.redraw_halves and particles.has_poses:
        job.events.warn("halves", "half-sets were drawn anew on request: poses that came with the table were refined with others, so the "
                        "first resolution measured with them is not gold standard")
    return particles.with_columns(half=half_sets.draw_halves(particles, settings.split_by, job.seed))


def binned(particles: Particles, factor: float) -> Particles:
    """Optics groups with the box and pixel size of images cropped by the factor (nearest even box)."""
    if factor == 1.0:
        return particles
    groups = []
    for group in particles.optics_groups:
        box = 2 * round(group.box / factor / 2)
        if box < 8:
            raise InputError(f"bin {factor:g} leaves {box} of {group.box} pixels", "a box of at least 8 pixels", "bin less")
        groups.append(replace(group, box=box, pixel_size_A=group.pixel_size_A * group.box / box))
    return replace(particles, optics_groups=tuple(groups))


def _rejected_csv(table: Particles, reasons: dict[int, str]) -> str:
    """One line per row that was left out: its number in the table (from 1), its image, and why."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "image", "reason"))
    writer.writerows((row + 1, image_name(table, row), reason) for row, reason in reasons.items())
    return text.getvalue()


def _summary(table: Particles, particles: Particles, reasons: dict[int, str]) -> dict[str, Any]:
    counts = {reason: sum(r == reason for r in reasons.values()) for reason in dict.fromkeys(reasons.values())}
    return {"rows_in": len(table), "rows_out": len(particles), "rows_rejected": len(reasons), "rejected": counts,
            "images": len(np.unique(particles.image_uid)), "stacks": len(particles.stacks), "has_poses": particles.has_poses,
            "half_sets": [int((particles.half == h).sum()) for h in (0, 1)],
            "optics_groups": [{"name": g.name, "box": g.box, "pixel_size_A": g.pixel_size_A, "rows": int((particles.optics == i).sum())}
                              for i, g in enumerate(particles.optics_groups)]}


def _with_warnings_told(job: JobRun, work: Callable[[], T]) -> T:
    """Do the work; what the readers warned of is told once per kind, with the number of files."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    kinds: dict[str, list[str]] = {}
    for warning in caught:
        where, _, what = str(warning.message).partition(": ")
        if where not in kinds.setdefault(what, []):
            kinds[what].append(where)
    for what, files in kinds.items():
        job.events.warn("input", f"{files[0]}: {what}" + (f" (and {len(files) - 1} more files)" if len(files) > 1 else ""))
    return result
