"""classify-fixed: classes of particles with known poses, half-set by half-set, told apart inside a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.classify_fixed import ClassifyFixedSettings
from protomer.fixed_poses.checkpoint import resume, until_settled
from protomer.fixed_poses.loop import begin, common_map
from protomer.fixed_poses.outcome import class_maps, classified, finish
from protomer.fixed_poses.reliability import rehearse, stated
from protomer.fixed_poses.start import (
    blocks_of,
    differences,
    kind_of_start,
    load_particles,
    masks,
    number_of_classes,
    radius_of,
    require_density,
)
from protomer.fixed_poses.work import Fixed, Standing
from protomer.formats.hdf5 import read_particles
from protomer.imaging.images import common_frame
from protomer.jobs.reconstruct import known_poses
from protomer.maps.volumes import Halves
from protomer.refinement.preparing import common_setup, surveyed
from protomer.running.batches import Batch, folded_batches, share_of_batches
from protomer.running.footprint import DEVICE_MAPS, VIEWED, DeviceNeeds, Work
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.insertion import accumulator_bytes

PASSES, SECONDS_PER_COEFFICIENT = 25, 1.2e-7  # in all, as a rule; of an image and class in one of them: measured
RANDOM_SIMILARITY = 0.5


def run(inputs: Inputs, settings: ClassifyFixedSettings, job: JobRun) -> dict[str, Any]:
    """Load, find what varies, sort until classes settle, see how far that can be believed, reconstruct, save."""
    particles = load_particles(inputs, settings, job.events)
    fixed = prepare(particles, inputs, settings, job)
    setup, noise = surveyed(fixed.setup)
    fixed = replace(fixed, setup=setup)
    standing = resume(fixed, job)
    if standing is None:
        standing = first_standing(fixed, noise, inputs, settings, job)
    standing = until_settled(fixed, standing, job)
    reliability = rehearse(fixed, standing) if settings.rehearse else None
    if reliability is not None:
        standing = replace(standing, posterior=stated(standing.log_odds, standing.prior, reliability.beta))
    records = class_maps(fixed, standing, job)
    return finish(fixed, standing, records, classified(standing, particles, job), reliability, job)


def first_standing(fixed: Fixed, noise: np.ndarray, inputs: Inputs, settings: ClassifyFixedSettings, job: JobRun) -> Standing:
    """The start. Raises InputError where the masks or volumes say nothing about the particles' map."""
    common = common_map(fixed, noise)
    solvent, focus = fixed.masks(fixed.box)
    if inputs.focus_mask is not None:
        require_density(Halves(common.mean[0, 0], common.mean[1, 0]), solvent, focus, inputs.focus_mask.name)
    volumes = []
    if kind_of_start(inputs, settings) == "volumes":
        mean = common.mean[0, 0] + common.mean[1, 0]
        volumes = differences(inputs, settings, fixed.setup.particles, 0.5 * mean, focus, fixed.radius, job.events)
    return begin(fixed, common, volumes)


def prepare(particles: Particles, inputs: Inputs, settings: ClassifyFixedSettings, job: JobRun) -> Fixed:
    """What stays the same during the run."""
    (box, pixel_A), number = common_frame(particles), number_of_classes(inputs, settings)
    told_apart = "classes are told apart down to"
    radius = radius_of("target_resolution", settings.target_resolution, particles, told_apart, 2, job.events)
    batches = batches_of(particles, number, settings)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    work = work_of(settings, batches, numbers, box, number, job.threads)
    setup = common_setup(particles, batches, work, work.reconstruction_bytes, job, device_needs(work, radius, number))
    solvent, focus = masks(inputs, particles, job.events)
    is_random = kind_of_start(inputs, settings) == "random"
    unset = RANDOM_SIMILARITY if is_random else 0.0
    return Fixed(
        setup,
        known_poses(particles, pixel_A),
        number,
        radius,
        max(2, round(box * pixel_A / settings.initial_low_pass)),
        solvent,
        focus,
        blocks_of([b.key for b in batches], [len(b.rows) for b in batches], settings.images_per_block, number),
        settings.epochs,
        unset if settings.similarity is None else settings.similarity,
        is_random,
        settings.class_change,
        settings.final_passes,
    )


def batches_of(particles: Particles, number: int, settings: ClassifyFixedSettings) -> list[Batch]:
    """The fixed batches; folds only where the accumulators of all classes leave room for them."""
    radius = largest_radius(common_frame(particles)[0]) * number ** (1 / 3)  # accumulators grow as the cube of the radius
    return folded_batches(particles, settings.cross_fit_folds, round(radius), settings.seed)


def work_of(settings: ClassifyFixedSettings, batches: list[Batch], numbers: range, box: int, number: int, threads: int) -> Work:
    """What decides the memory of the rank with these batches: maps and accumulators of every class, on every rank."""
    own, keys = [batches[n] for n in numbers], len({batch.key for batch in batches}) * (number + 1)
    return Work(sum(b.pictures for b in own), box, keys, keys, settings.half_precision, threads)


def device_needs(work: Work, radius: int, number: int) -> DeviceNeeds:
    """Of a device: the largest of an E-step (Fourier volumes, accumulators, and those of earlier blocks), an M-step and the end."""
    of_one, keys = accumulator_bytes(radius), work.keys // (number + 1)
    held, added = 2 * number * keys * of_one, (keys + (2 * (number + 1) if keys > 2 else 0)) * of_one
    expectation = held + (2 * number + 4) * of_one // 3
    maximisation = held + added + 2 * of_one + 4 * work.box**3 * (2 * (number + 1) + DEVICE_MAPS)
    end = replace(work, keys=2, own_keys=2, reach=radius).device_bytes
    return DeviceNeeds(max(expectation, maximisation, end), VIEWED * work.device_batch_bytes)


def plan(inputs: Inputs, settings: ClassifyFixedSettings, ranks: int, threads: int) -> Plan:
    """Memory of the rank that needs most; time from the number of images and classes, at measured rates."""
    particles, number = read_particles(inputs.particles), number_of_classes(inputs, settings)
    box, pixel_A = common_frame(particles)
    radius = min(largest_radius(box), int(box * pixel_A / settings.target_resolution))
    batches = batches_of(particles, number, settings)
    works = [work_of(settings, batches, share_of_batches(len(batches), rank, ranks), box, number, threads) for rank in range(ranks)]
    most = max(work.image_bytes + work.refinement_bytes for work in works)
    coefficients = len(particles) * (number + 1) * len(HalfPlane(box, max(2, radius)))
    return Plan(most, number * 40 * box**3 + 500 * len(particles),
                15 + PASSES * (coefficients * SECONDS_PER_COEFFICIENT / threads + works[0].keys * 1e-7 * (2 * box) ** 3) / ranks,
                (f"{number} classes in a box of {box}: a smaller box takes less memory by its cube",),
                device_bytes=max(device_needs(work, max(2, radius), number).device_bytes for work in works))
