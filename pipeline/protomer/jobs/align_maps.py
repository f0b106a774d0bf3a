"""align-maps: maps -> the same maps, their masks and particles, in the frame of a reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from protomer.declarations.align_maps import AlignMapsSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.alignment_inputs import Given, Source, read, side, sources
from protomer.maps.alignment_report import add_pictures, add_section, new_report
from protomer.maps.finishing import write_maps
from protomer.maps.map_aligning import Aligned, as_mapping, find_placement, view_matrix, warn_of_doubt, warn_of_loss
from protomer.maps.map_search import Limits
from protomer.maps.placement import place_mask, place_particles, place_record, place_volume
from protomer.maps.rigid_motion import Frame
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.tables.particle_sets import joined
from protomer.tables.particles import Particles


def run(inputs: Inputs, settings: AlignMapsSettings, job: JobRun) -> dict[str, Any]:
    """Find every placement, refuse what cannot be moved, then move and write one volume after the other."""
    of_reference, files = sources(inputs, settings)
    reference = read(of_reference, settings)
    found = find_all(reference, files, settings, job)
    report = new_report(reference.name, reference.map, [aligned for aligned, _ in found], settings)
    sets = []
    for number, (source, (aligned, _)) in enumerate(zip(files, found, strict=True), 1):
        given = read(source, settings)
        warn_of_doubt(given.name, aligned, job.events)
        warn_of_loss(given.name, given.map, aligned, given.resolution_A, job.events)
        moved = move(given, aligned, settings)
        write(moved, f"class_{number}/", job)
        add_section(report, f"class_{number}", given.name, aligned)
        if settings.figures and aligned.alignment is not None:
            difference = add_pictures(report, reference.map, moved.map, aligned.alignment, settings.low_pass)
            with job.output.writing(f"class_{number}/difference.mrc") as path:
                write_volume(path, difference)
        sets += [] if moved.particles is None else [moved.particles.with_columns(class_number=np.full(len(moved.particles), number))]
        job.check_stop()
    together = write_together(sets, job)
    entries = write_transformations(files, found, job)
    report.warnings = list(job.events.warnings)
    job.output.write_text("report.html", report.html())
    numbers = {} if not sets else {"particles": sum(map(len, sets)), "particles_joined": 0 if together is None else len(together)}
    return {"volumes": len(files), "alignments": entries, **numbers}


def find_all(reference: Given, files: list[Source], settings: AlignMapsSettings, job: JobRun) -> list[tuple[Aligned, Frame]]:
    """The placement of each volume, and the frame that it had. Nothing is written yet: raises InputError for what cannot be moved."""
    limits = Limits(settings.max_angle, np.inf if settings.max_shift is None else settings.max_shift, settings.both_hands)
    compared, found = side(reference, settings), []
    has_masks = is_expanded = False
    with job.progress("maps", len(files)) as line:
        for source in files:
            given = read(source, settings)
            aligned = find_placement(compared, side(given, settings), settings.low_pass, limits, job.check_stop)
            require_movable(given, aligned, settings)
            has_masks |= given.mask is not None
            is_expanded |= given.particles is not None and given.particles.is_expanded
            found.append((aligned, Frame.of(given.map)))
            line.advance(1, note=given.name)
    if has_masks and not (settings.apply_masks or settings.align_masks):
        job.events.warn("masks_unused", "masks were given, but neither apply_masks nor align_masks is on: nothing was done with them")
    if is_expanded:
        job.events.warn("expanded_particles", "some of the particles are symmetry copies; they were moved as they are, and their "
                                              "operators with them")
    return found


def require_movable(given: Given, aligned: Aligned, settings: AlignMapsSettings) -> None:
    """Raise InputError for the particles of a volume whose hand was flipped, unless told how."""
    found = aligned.alignment
    if found is None or given.particles is None or not aligned.placement.is_mirrored or settings.update_flipped_poses:
        return
    unflipped = "" if found.other_hand is None else f"; {found.other_hand:.3f} in its own"
    raise InputError(f"{given.name} fits the reference in the other hand ({found.fit.score:.3f}{unflipped}), and its particles "
                     "have poses in its own", "particles and a reference of one hand",
                     "set update_flipped_poses=true to mirror the poses too (exact, but for the curvature of the Ewald sphere), or "
                     "both_hands=false to keep the hand, or leave the particles out")


def move(given: Given, aligned: Aligned, settings: AlignMapsSettings) -> Given:
    """A volume and what belongs to it in the reference's frame."""
    placement, keeps_mask = aligned.placement, settings.align_masks and given.mask is not None
    record = None if given.record is None else place_record(given.record, placement)
    mask = place_mask(given.mask, placement) if keeps_mask and given.mask is not None else None
    particles = None if given.particles is None else place_particles(given.particles, placement)
    return Given(given.name, place_volume(given.map, placement) if record is None else record.map, record, mask, particles)


def write(moved: Given, folder: str, job: JobRun) -> None:
    """The maps, mask and particles of one volume."""
    if moved.record is not None:
        write_maps(replace(moved.record, provenance=dict(job.provenance)), job, folder)
    else:
        with job.output.writing(folder + "map.mrc") as path:
            write_volume(path, moved.map)
    if moved.mask is not None:
        with job.output.writing(folder + "mask.mrc") as path:
            write_volume(path, moved.mask)
    if moved.particles is not None:
        with job.output.writing(folder + "particles.h5") as path:
            write_particles(path, replace(moved.particles, provenance=dict(job.provenance)))


def write_together(sets: list[Particles], job: JobRun) -> Particles | None:
    """particles.h5: all that were moved, class_number saying of which volume; a warning where they cannot be one table."""
    if not sets:
        return None
    try:
        together = joined(sets)
    except InputError as error:
        job.events.warn("particles_not_joined", f"{error.found}: there is no particles.h5 of all, only one in each folder ({error.remedy})")
        return None
    frames = {(group.box, round(group.pixel_size_A, 4)) for group in together.optics_groups}
    if len(frames) > 1:
        job.events.warn("several_pixel_sizes", f"the joined particles have {len(frames)} boxes and pixel sizes, which refinements do not "
                                               "take together: import them with one, binned alike")
    with job.output.writing("particles.h5") as path:
        write_particles(path, replace(together, provenance=dict(job.provenance)))
    return together


def write_transformations(files: list[Source], found: list[tuple[Aligned, Frame]], job: JobRun) -> list[dict[str, Any]]:
    """transformations.yaml, whose entries are returned, and alignment.cxc for ChimeraX."""
    entries = [as_mapping(source.name, f"class_{number}", aligned) for number, (source, (aligned, _)) in
               enumerate(zip(files, found, strict=True), 1)]
    job.output.write_text("transformations.yaml",
                          "# x' = rotation M x + shift_A, M = diag(1, 1, -1) where hand_flipped, else none; angstrom from the box centres\n"
                          + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))
    lines = ["# ChimeraX: open the reference as #1 and the volumes, as they were, as #2, #3 ... in order; then open this file."]
    for number, (source, (aligned, frame)) in enumerate(zip(files, found, strict=True), 2):
        lines += [f"# #{number}: {source.name}", f"view matrix models #{number},{view_matrix(frame, aligned.placement)}"]
        if aligned.placement.is_mirrored:
            lines[-1] = f"# its hand was flipped, which no motion can do: open class_{number - 1}/map.mrc in its place"
    job.output.write_text("alignment.cxc", "\n".join(lines) + "\n")
    return entries


def plan(inputs: Inputs, settings: AlignMapsSettings, ranks: int, threads: int) -> Plan:
    """Memory for the maps of one volume and a sampling grid of the largest box; seconds at measured rates."""
    of_reference, files = sources(inputs, settings)
    new = read(of_reference, settings).map.box ** 3
    largest, seconds, disk = new, 0.0, 1_000_000
    for source in files:
        given = read(source, settings)
        old = given.map.box**3
        maps = 1 if given.record is None else 4
        largest = max(largest, old)
        seconds += 8.0 + 3e-7 * old + maps * 4.5e-7 * max(old, new)
        disk += (4 if given.record is None else 36) * new + 4 * new * settings.figures
    return Plan(memory_bytes=400_000_000 + 100 * largest, disk_bytes=disk, seconds=seconds / min(threads, 4))
