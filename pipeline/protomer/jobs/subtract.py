"""subtract: what lies outside a mask taken from the images, each half-set from its own half map; and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.subtract import SubtractSettings
from protomer.errors import InputError
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.formats.mrc_stack import described
from protomer.imaging.images import common_frame
from protomer.report.build import Report
from protomer.running.batches import share_of_batches
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.subtraction.fit import Fit, fit_sample, require_fit, warn_of_contrast
from protomer.subtraction.frame import frame_of
from protomer.subtraction.images import StackPlan, Subtraction, make_stack, plan_stacks, sample_rows
from protomer.subtraction.maps import read_keep_mask, read_support, split_density
from protomer.subtraction.report import Examples, examples_of, summary_of, warn_of_power, write_report
from protomer.subtraction.table import is_subtracted, reverted, subtracted
from protomer.tables.half_sets import require_two_halves
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.slices import volume_radius

SAMPLE_BATCHES = 4  # of each half-set
BASE_BYTES, VOLUMES, BATCH_ARRAYS = 330_000_000, 14, 8
SECONDS_PER_PIXEL = 7e-8


def run(inputs: Inputs, settings: SubtractSettings, job: JobRun) -> dict[str, Any]:
    """Load, look whether maps and images belong together, subtract, save; or the way back."""
    particles = load_particles(inputs)
    if settings.revert:
        return revert(particles, job)
    require_subtractable(particles, inputs, job)
    record, (box, pixel_A) = read_map_record(inputs.volume), common_frame(particles)
    mask = read_keep_mask(read_volume(inputs.mask), inputs.mask.name, box, pixel_A, job.events)
    support = None if inputs.support is None else read_support(read_volume(inputs.support), inputs.support.name)
    density = split_density(record, mask, support, box, job.events)
    frame, posed = frame_of(particles, settings, mask, density.resolution_A, job.events)
    work, plans = Subtraction(particles, density, frame, job.threads), plan_stacks(particles)
    fits, shown = job.team.on_first(lambda: look_first(work, plans, job))
    sums, digests = subtract_all(plans, work, settings.half_precision, job)
    if not job.team.is_first:
        return {}
    written = save(posed, plans, digests, work, job)
    warn_of_power(sums, job.events)
    write_report(work, record.map, sums, fits, shown, job)
    return summary_of(work, written, sums, fits)


def load_particles(inputs: Inputs) -> Particles:
    """Particles with poses. Raises InputError."""
    particles = read_particles(inputs.particles)
    if not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles of a refinement", "refine them first")
    return particles


def require_subtractable(particles: Particles, inputs: Inputs, job: JobRun) -> None:
    """Raise InputError where volume, mask or half-sets are missing; warn where something was taken from the images before."""
    for name, what in (("volume", "the volume.h5, with half maps, that the particles made"), ("mask", "a mask around the part that stays")):
        if getattr(inputs, name) is None:
            raise InputError(f"subtract was given no --{name}", what, f"add --{name}, or ask for the way back with --set revert=on")
    require_two_halves(particles.half)
    if is_subtracted(particles):
        job.events.warn("subtracted_already", "something was taken from these images before: what is taken now must still be in them; "
                        "to begin from the whole images, revert first")


def look_first(work: Subtraction, plans: list[StackPlan], job: JobRun) -> tuple[tuple[Fit, Fit], Examples]:
    """How the maps fit a sample of the images (rank 0). Raises InputError where they plainly do not."""
    samples = sample_rows(plans, 0, SAMPLE_BATCHES), sample_rows(plans, 1, SAMPLE_BATCHES)
    first, second = (fit_sample(work.particles, rows, work.density, half, job.threads) for half, rows in enumerate(samples))
    for half, fit in enumerate((first, second)):
        job.events.event("fit", half=half, kept=fit.kept, rest=fit.rest, rest_error=fit.rest_error, remaining=fit.remaining,
                         sigmas=fit.sigmas, own_noise=fit.own_noise, own_noise_error=fit.own_noise_error, contrast=fit.contrast)
    require_fit((first, second), is_subtracted(work.particles), job.events)
    warn_of_contrast((first, second), work.particles.by_image("scale")[0], job.events)
    return (first, second), examples_of(work, samples)


def subtract_all(plans: list[StackPlan], work: Subtraction, half_precision: bool, job: JobRun) -> tuple[np.ndarray, list[str]]:
    """Every rank its share of the stacks; the SUMS of all images in the order of the stacks, and the stacks' digests, on every rank."""
    if job.team.is_first:
        job.events.event("announced", files=[name for plan in plans for name in (plan.name, plan.note)])
    share = share_of_batches(len(plans), job.team.rank, job.team.size)
    sums, digests = [np.zeros((0, 3))], []
    with job.shared_progress("subtracting", sum(len(plans[n].rows) for n in share)) as line:

        def advance(images: int) -> None:
            line.advance(images)
            job.check_stop()

        for number in share:
            digest, own = make_stack(plans[number], work, job.output.folder, half_precision, job.checkpoint.identity, advance)
            sums.append(own)
            digests.append(digest)
            if number == share[0]:
                job.checkpoint.save({"stacks": len(plans)})  # the stacks themselves are what a stopped run goes on from
    together = job.team.gather_rows(np.array(digests, object))
    return job.team.gather_rows(np.concatenate(sums)), [str(digest) for digest in together]


def save(posed: Particles, plans: list[StackPlan], digests: list[str], work: Subtraction, job: JobRun) -> Particles:
    """particles.h5 and mask.mrc (rank 0); the notes of the stacks are taken away."""
    stack, index = np.empty(len(posed), np.int32), np.empty(len(posed), np.int32)
    stacks = []
    for number, (plan, digest) in enumerate(zip(plans, digests, strict=True)):
        stack[plan.rows], index[plan.rows] = number, np.arange(len(plan.rows))
        stacks.append(described(job.output.path(plan.name), len(plan.rows), work.frame.new_box, digest))
        job.digests[plan.name] = digest
    table = subtracted(posed, tuple(stacks), stack, index, work.frame.moves_px * work.density.pixel_A)
    table = replace(table, provenance=dict(job.provenance))
    with job.output.writing("particles.h5") as path:
        write_particles(path, table)
    with job.output.writing("mask.mrc") as path:
        write_volume(path, work.frame.moved(work.density.mask))
    for plan in plans:
        job.output.path(plan.note).unlink(missing_ok=True)
    return table


def revert(particles: Particles, job: JobRun) -> dict[str, Any]:
    """Back to the images as they were."""
    before = replace(reverted(particles), provenance=dict(job.provenance))
    if not job.team.is_first:
        return {}
    with job.output.writing("particles.h5") as path:
        write_particles(path, before)
    moved = float(np.abs(before.shift_A - particles.shift_A).max(initial=0.0))
    if moved > 0:
        job.events.warn("frame_stays", "the images were moved when they were subtracted: poses now centre the whole images on the part "
                        "that was kept, and the map's frame stays where it is; reconstruct before the next local refinement")
    report = Report("Subtraction reverted", job.events.warnings, {"particles": len(before), "stacks": len(before.stacks)})
    report.section("What was done", "The particles show the images again that they had before subtraction, with the grey values they were "
                   "refined on. Rotations are as they were given; shifts take back the whole pixels by which the images had been moved.")
    job.output.write_text("report.html", report.html())
    return {"particles_in": len(particles), "particles_out": len(before), "images": len(np.unique(before.image_uid)),
            "largest_move_A": round(moved, 4)}


def plan(inputs: Inputs, settings: SubtractSettings, ranks: int, threads: int) -> Plan:
    """Memory of the maps, a Fourier volume and a few batches; disk of the new stacks; time at measured rates."""
    particles = load_particles(inputs)
    if settings.revert:
        return Plan(300_000_000 + 600 * len(particles), 400 * len(particles), 3 + 1e-5 * len(particles))
    box, _ = common_frame(particles)
    new_box = int(settings.recrop) if settings.recrop is not None and settings.recrop.isdigit() else box
    side = 2 * volume_radius(largest_radius(box)) + 1
    memory = BASE_BYTES + 4 * VOLUMES * box**3 + 8 * side * side * (side // 2 + 1) * 2
    batch = 64 * 4 * (BATCH_ARRAYS * box**2 + 4 * len(HalfPlane(box, largest_radius(box))))
    disk = len(particles) * new_box**2 * (2 if settings.half_precision else 4)
    note = "recrop=auto: the disk is for the whole box" if settings.recrop == "auto" else f"{len(particles)} images of {new_box} pixels"
    return Plan(memory + batch, disk + 500 * len(particles), 10 + len(particles) * box**2 * SECONDS_PER_PIXEL / (ranks * threads), (note,))
