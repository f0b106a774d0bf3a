"""classify: expectation-maximisation of several structures, half-set by half-set, with decoys for what is none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.classes.checkpoint import resumed, until_settled, votes_of
from protomer.classes.classification import Classes, Mixture
from protomer.classes.first_images import first_images, handed_on
from protomer.classes.outcome import class_maps, classified, warn_of_classes, warn_of_reliability, write_posteriors
from protomer.classes.reliability import Reliability, rehearse_classes
from protomer.classes.replicates import stability
from protomer.classes.report import write_report
from protomer.classes.start import alike, begin, in_box, load_particles, load_starts, require_classes, require_starts
from protomer.declarations.classify import ClassifySettings
from protomer.engine.joining import join_shell
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.imaging.images import common_frame
from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import MapRecord
from protomer.refinement.plan import work_of
from protomer.refinement.preparing import common_setup, surveyed
from protomer.refinement.setup import Setup
from protomer.running.batches import Batch, fold_count, make_batches, share_of_batches
from protomer.running.footprint import Work
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius

SECONDS_PER_COEFFICIENT = 1e-5  # and image and class: measured, whole runs


def run(inputs: Inputs, settings: ClassifySettings, job: JobRun) -> dict[str, Any]:
    """Load, iterate until classes settle, from as many seeds as are asked for, reconstruct each class, measure, save."""
    given = load_particles(inputs, job.events)
    particles, saved = in_box(given, settings.box), job.checkpoint.load()
    require_starts(inputs, particles, settings.seed)
    votes = votes_of(saved)
    while len(votes) < settings.replicates - 1:
        seed = settings.seed + settings.replicates - 1 - len(votes)  # the run's own comes last
        job.events.event("replicate", seed=seed, done=len(votes), of=settings.replicates)
        _, mixture = settle(particles, inputs, replace(settings, seed=seed), replace(job, seed=seed), (saved, votes))
        votes, saved = [*votes, mixture.posterior], None
    classes, mixture = settle(particles, inputs, settings, job, (saved, votes))
    reliability = rehearse_classes(classes, mixture) if settings.rehearse else None
    records = class_maps(classes, mixture, settings.initial_low_pass, job)
    return finish((classes, mixture, reliability, votes), records, given, inputs, job)


def settle(
    particles: Particles, inputs: Inputs, settings: ClassifySettings, job: JobRun, done: tuple[Mapping[str, Any] | None, list[np.ndarray]]
) -> tuple[Classes, Mixture]:
    """One classification from its start, or from where a checkpoint (`done`, with earlier replicates) left it, until it is settled: first
    of some of the images where these are many, then of all."""
    saved, votes = done
    some = first_rows(particles, len(inputs.volume), settings)
    found: Mixture | None = None
    if some is not None and (saved is None or len(saved["posterior"]) != len(particles)):
        first = replace(settings, final_iterations=0, extra_passes=0, cross_fit_folds=folds_of(particles, len(inputs.volume), settings))
        classes, mixture = begin_or_resume(particles.take(some), inputs, first, job, saved)
        found = until_settled(classes, mixture, votes, job)
        job.events.event("first_images_settled", images=len(some), of=len(particles))
    classes, mixture = begin_or_resume(particles, inputs, settings, job, saved, found)
    return classes, until_settled(classes, mixture, votes, job)


def first_rows(particles: Particles, number: int, settings: ClassifySettings) -> np.ndarray | None:
    """Rows of the images that the classes are first told apart in; None: all, also where some would be too few for the folds of all."""
    some = first_images(particles, number, settings.batch_per_class, settings.seed)
    if some is None or folds_of(particles.take(some), number, settings) < folds_of(particles, number, settings):
        return None
    return some


def begin_or_resume(
    particles: Particles, inputs: Inputs, settings: ClassifySettings, job: JobRun, saved: Mapping[str, Any] | None,
    found: Mixture | None = None
) -> tuple[Classes, Mixture]:
    """The classes of these particles and their first state: that of a checkpoint, or what some of the images gave, or the given volumes."""
    setup, noise = surveyed(prepare(particles, len(inputs.volume), settings, job))
    starts = load_starts(inputs, settings, setup, job.events)
    classes = classes_of(setup, alike(starts), settings)
    mixture = resumed(classes, saved)
    if mixture is not None:
        return classes, mixture
    if found is not None:
        return classes, handed_on(classes, found)
    is_decoy = [isinstance(volume, str) for volume in inputs.volume]
    return classes, begin(classes, starts, is_decoy, noise, settings.max_alignment_resolution)


def prepare(particles: Particles, number: int, settings: ClassifySettings, job: JobRun) -> Setup:
    """What stays the same during the run."""
    (box, pixel_A), low_pass_A = common_frame(particles), settings.initial_low_pass
    batches = batches_of(particles, number, settings)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    work = work_of_classes(settings.half_precision, batches, numbers, box, job.threads, number)
    return replace(
        common_setup(particles, batches, work, work.refinement_bytes, job),
        join_shell=join_shell(box * pixel_A, largest_radius(box), low_pass_A, low_pass_A, job.events),
        shift_extent_px=box / 16 if settings.shift_search_extent is None else settings.shift_search_extent / pixel_A,
        marginalise=settings.marginalise,
        particle_scale=settings.particle_scale,
        non_uniform=NonUniform.of(settings),
    )


def classes_of(setup: Setup, alike_starts: np.ndarray, settings: ClassifySettings) -> Classes:
    """The classes, in the terms of the loop."""
    width_A = setup.store.plane.box * setup.pixel_size_A
    return Classes(
        setup,
        alike_starts,
        max(1, round(width_A / settings.initial_low_pass)),
        settings.hard,
        settings.null_class,
        settings.random_iterations,
        settings.final_iterations + settings.extra_passes,
        settings.class_change,
    )


def finish(
    found: tuple[Classes, Mixture, Reliability | None, list[np.ndarray]], records: list[MapRecord], given: Particles, inputs: Inputs,
    job: JobRun
) -> dict[str, Any]:
    """Write everything (rank 0), and say how it went."""
    classes, mixture, reliability, votes = found
    particles = classified(mixture, classes, given, job)
    if not job.team.is_first:
        return {}
    names = [volume if isinstance(volume, str) else volume.parent.name if volume.name == "volume.h5" else volume.name
             for volume in inputs.volume]
    is_decoy = [isinstance(volume, str) for volume in inputs.volume]
    warn_of_classes(mixture, names, job.events)
    warn_of_reliability(reliability, job.events)
    stable = stability(mixture.posterior, votes) if votes else None
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    with job.output.writing("classes.csv") as path:
        write_posteriors(path, particles, mixture.posterior, stable)
    write_report((classes, mixture, reliability, stable), records, particles, (names, is_decoy), job)
    counts = np.bincount(particles.class_number, minlength=classes.number + 1)
    in_decoys = int(sum(counts[k + 1] for k in range(classes.number) if is_decoy[k]) + counts[0])
    return {
        "particles_in": len(particles),
        "particles_out": len(particles),
        "images": len(particles),
        "iterations": len(mixture.history),
        "classes": [
            {"class": k + 1, "start": names[k], "is_decoy": is_decoy[k], "images": int(counts[k + 1]),
             "fraction": round(float(mixture.posterior[:, k].mean()), 4),
             "resolution_A": None if record.fsc is None else record.fsc.summary()}
            for k, record in enumerate(records)
        ],
        "images_of_none": int(counts[0]),
        "mean_posterior": round(float(particles.class_posterior.mean()), 4),
        "rehearsed": None if reliability is None else {"posterior": round(reliability.mean_stated, 4),
                                                       "right": round(reliability.share_right, 4)},
        "stability": None if stable is None else round(float(stable.mean()), 4),
        "lost_to_decoys": round(in_decoys / len(particles), 4),
        "changed_class_last": round(mixture.history[-1]["changed"], 4),
        "resolution_A": best_resolution(records),
    }


def best_resolution(records: list[MapRecord]) -> dict[str, object] | None:
    """Of the class that is resolved best."""
    measured = [record.fsc for record in records if record.fsc is not None]
    return min(measured, key=lambda fsc: fsc.resolution_A_at("corrected")).summary() if measured else None


def batches_of(particles: Particles, number: int, settings: ClassifySettings) -> list[Batch]:
    """The fixed batches; folds only where the accumulators of all classes leave room for them."""
    return make_batches(particles, folds_of(particles, number, settings), settings.seed)


def folds_of(particles: Particles, number: int, settings: ClassifySettings) -> int:
    """Into how many folds each half is divided."""
    radius, sizes = largest_radius(common_frame(particles)[0]), np.bincount(particles.half, minlength=2).tolist()
    return fold_count(settings.cross_fit_folds, sizes, round(radius * number ** (1 / 3)))  # accumulators grow as the cube of the radius


def work_of_classes(half_precision: bool, batches: list[Batch], numbers: range, box: int, threads: int, number: int) -> Work:
    """What decides the memory of the rank with these batches: maps and accumulators of every class."""
    work = work_of(half_precision, batches, numbers, box, threads)
    return replace(work, keys=work.keys * number, own_keys=work.own_keys * number, grid_rotations=work.grid_rotations * number,
                   classes=number)


def plan(inputs: Inputs, settings: ClassifySettings, ranks: int, threads: int) -> Plan:
    """Memory of the rank that needs most; time from the number of images and classes, at measured rates."""
    require_classes(inputs)
    particles, number = in_box(read_particles(inputs.particles), settings.box), len(inputs.volume)
    require_starts(inputs, particles, settings.seed)
    box, _ = common_frame(particles)
    batches = batches_of(particles, number, settings)
    works = [work_of_classes(settings.half_precision, batches, share_of_batches(len(batches), rank, ranks), box, threads, number)
             for rank in range(ranks)]
    most = max(work.image_bytes + work.refinement_bytes for work in works)
    coefficients = len(HalfPlane(box, largest_radius(box)))
    return Plan(most, number * 40 * box**3 + 2000 * len(particles),
                15 + number * len(particles) * coefficients * SECONDS_PER_COEFFICIENT / (ranks * threads),
                (f"{number} classes in a box of {box}: a smaller box takes less memory by its cube",),
                device_bytes=max(work.device_bytes for work in works))
