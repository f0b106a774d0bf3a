"""local-refine: expectation-maximisation of one part of the particle, near given poses (the loop of refine, with a local E-step)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.batches import fold_count, make_batches, share_of_batches
from protomer.declarations.local_refine import LocalRefineSettings
from protomer.errors import InputError, SettingsError
from protomer.expectation import Model
from protomer.finishing import map_summary, measure_maps, write_maps
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.half_sets import require_two_halves, warn_of_small_halves
from protomer.image_memory import image_folder
from protomer.images import ImageStore, common_frame
from protomer.job_run import Inputs, JobRun, Plan
from protomer.local_alignment import Local
from protomer.local_report import PoseChanges, warn_of_changes, write_report
from protomer.local_start import given_poses, local_of, mask_in_box, part_of, rest_of, start_fits
from protomer.particles import Particles
from protomer.refinement import reconstruct_halves, survey_images
from protomer.refinement_checkpoint import resume, until_settled
from protomer.refinement_outcome import posed
from protomer.refinement_plan import work_of
from protomer.refinement_setup import Masking, Setup, State
from protomer.schedule import Band
from protomer.symmetry import operators
from protomer.volumes import MapRecord, Volume
from protomer_kernels.half_plane import HalfPlane, largest_radius

ALIGNMENT_FSC = 0.5
SECONDS_PER_COEFFICIENT = 1e-6


def run(inputs: Inputs, settings: LocalRefineSettings, job: JobRun) -> dict[str, Any]:
    """Load, iterate until settled, reconstruct, measure, save."""
    particles = load_particles(inputs)
    warn_of_small_halves(particles.half, job.events)
    record, (box, pixel_A) = read_map_record(inputs.volume), common_frame(particles)
    mask = mask_in_box(read_volume(inputs.mask), inputs.mask.name, box, pixel_A, job.events)
    local = local_of(particles, settings, mask)
    if settings.subtract_on_the_fly:
        local = replace(local, rest=rest_of(record, mask, largest_radius(box), job.threads))
    setup = prepare(particles, local, mask, inputs, settings, job)
    noise, largest = survey_images(setup, len(particles.optics_groups))
    setup = replace(setup, largest=largest)
    state = resume(setup, job) or begin(setup, record, mask, noise, settings)
    state = until_settled(setup, state, settings.extra_passes, job)
    half_maps, together = reconstruct_halves(setup, state.model.noise, state.counted_poses, setup.operators)
    return finish(setup, state, (half_maps.map(lambda data: Volume(data, pixel_A)), Volume(together, pixel_A)), mask, inputs, job)


def load_particles(inputs: Inputs) -> Particles:
    """Particles with poses and halves. Raises InputError, SettingsError."""
    particles = read_particles(inputs.particles)
    if not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles of a refinement", "refine them first")
    require_two_halves(particles.half)
    if particles.is_expanded and len(operators(inputs.symmetry, inputs.axes)) > 1:
        raise SettingsError(f"--symmetry {inputs.symmetry} for symmetry-expanded particles", "C1: the copies stand for the symmetry",
                            "leave --symmetry out, or give the particles before their expansion")
    return particles


def prepare(particles: Particles, local: Local, mask: Volume, inputs: Inputs, settings: LocalRefineSettings, job: JobRun) -> Setup:
    """What stays the same during the run."""
    plane = HalfPlane(mask.box, largest_radius(mask.box))
    batches = make_batches(particles, fold_count(settings.cross_fit_folds, np.bincount(particles.half).tolist(), plane.radius), job.seed)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    work = work_of(settings.half_precision, batches, numbers, mask.box, job.threads)
    folder = image_folder(job.cache, work.image_bytes, work.refinement_bytes, job.team.ranks_here(), job.events)
    return Setup(
        particles,
        ImageStore(particles, plane, [b.rows for b in batches], folder, job.threads, settings.half_precision),
        batches,
        numbers,
        job.team,
        operators(inputs.symmetry, inputs.axes),
        mask.voxel_size_A,
        0,
        float(local.extent[1]),
        settings.marginalise,
        job.seed,
        job.threads,
        job.shared_progress,
        np.zeros((1, 1)),
        Masking("static", given=mask.data),
        job.check_stop,
        local=local,
        alignment_fsc=ALIGNMENT_FSC,
    )


def begin(setup: Setup, record: MapRecord, mask: Volume, noise: np.ndarray, settings: LocalRefineSettings) -> State:
    """The first state: each half's own map in the mask, the given poses. Raises InputError where map and poses do not fit the images."""
    plane = setup.store.plane
    limit = plane.radius - 1
    if settings.max_alignment_resolution is not None:
        limit = min(limit, int(plane.box * setup.pixel_size_A / settings.max_alignment_resolution))
    first = min(limit, max(8, round(plane.box * setup.pixel_size_A / settings.initial_low_pass)))
    band = replace(Band.at(plane.box, limit), radius=first, first_radius=limit)
    part = part_of(record, mask, settings.initial_low_pass)
    maps = {key: part[key[0]].astype(np.float32) for key in setup.keys}
    model = Model(maps, noise, setup.operators, band.insertion_radius, fulcrum_px=setup.fulcrum_px)
    state = State(band, model, given_poses(setup.particles, setup.pixel_size_A), np.zeros(len(setup.particles), np.int64))
    start_fits(setup, state, record)
    return state


def finish(
    setup: Setup, state: State, maps: tuple[Any, Volume], mask: Volume, inputs: Inputs, job: JobRun
) -> dict[str, Any]:
    """Measure the maps in the mask, write everything (rank 0), and say how poses changed."""
    particles = replace(posed(setup, state, None, job), operators=setup.particles.operators)
    if not job.team.is_first:
        return {}
    record = replace(measure_maps(*maps, mask, inputs.mask.name, inputs.symmetry, None, job), refinement_mask=mask)
    write_maps(record, job)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    assert setup.local is not None
    changes = PoseChanges.between(setup.particles, particles, setup.local, setup.pixel_size_A)
    warn_of_changes(changes, particles, job.events)
    write_report(record, particles, changes, state.history, job)
    return {**map_summary(particles, record), "iterations": len(state.history), **changes.summary()}


def plan(inputs: Inputs, settings: LocalRefineSettings, ranks: int, threads: int) -> Plan:
    """Memory of the rank that needs most; time from the number of images, at measured rates."""
    particles = read_particles(inputs.particles)
    box, _ = common_frame(particles)
    radius = largest_radius(box)
    batches = make_batches(particles, fold_count(settings.cross_fit_folds, np.bincount(particles.half).tolist(), radius), settings.seed)
    works = [work_of(settings.half_precision, batches, share_of_batches(len(batches), rank, ranks), box, threads) for rank in range(ranks)]
    most = max(works, key=lambda work: work.image_bytes + work.refinement_bytes)
    return Plan(most.image_bytes + most.refinement_bytes, 40 * box**3 + 2000 * len(particles),
                15 + len(particles) * len(HalfPlane(box, radius)) * SECONDS_PER_COEFFICIENT * 5 / (ranks * threads))
