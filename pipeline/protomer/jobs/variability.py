"""variability: linear modes of particles with known poses, half-set by half-set, and how many of them are real."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.variability import VariabilitySettings
from protomer.fixed_poses.start import radius_of, require_density
from protomer.fixed_poses.work import Fixed
from protomer.formats.hdf5 import read_particles
from protomer.imaging.images import common_frame
from protomer.jobs.reconstruct import known_poses
from protomer.refinement.preparing import common_setup, surveyed
from protomer.running.batches import BATCH, Batch, make_batches, share_of_batches
from protomer.running.events import Events
from protomer.running.footprint import BASE_BYTES, DEVICE_MAPS, VIEWED, DeviceNeeds, Work
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.tables.particles import Particles
from protomer.variability.checkpoint import resume, save
from protomer.variability.control import Excess, control_start, excess_of, judged, made_images
from protomer.variability.expectation import look, real_images
from protomer.variability.loop import advance, begin, resized, until_done
from protomer.variability.outcome import finish
from protomer.variability.posterior import at_own_variance
from protomer.variability.start import load_particles, mask_of, require_room
from protomer.variability.work import Standing, Varying
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.insertion import accumulator_bytes
from protomer_kernels.modes import mode_accumulator_bytes, pairs

SECONDS_PER_COEFFICIENT = 2.5e-8  # of an image in one pass, for each mode and each pair of modes: measured


def run(inputs: Inputs, settings: VariabilitySettings, job: JobRun) -> dict[str, Any]:
    """Load, find the mean and what varies about it, the same of images that do not vary, place every image, save."""
    particles = load_particles(inputs, settings, job.events)
    varying = prepare(particles, inputs, settings, job)
    setup, noise = surveyed(varying.fixed.setup)
    varying = replace(varying, fixed=replace(varying.fixed, setup=setup))
    found, control = resume(job)
    if found is None:
        found = begin(varying, noise)
        if inputs.mask is not None:
            require_density(found.mean, *varying.fixed.masks(varying.fixed.box), inputs.mask.name)
    found = until_done(varying, found, lambda at: advance(varying, at, real_images(varying, at.noise), "iteration"),
                       lambda at: tell(at, "iteration", job, lambda: save(at, None, job)))
    excess, null = excess_of(varying, found, real_images(varying, found.noise), "against the other half's modes"), None
    if settings.noise_control:
        null = of_control(varying, found, control, job)
    seen = look(varying, found, real_images(varying, found.noise), "placing images", inserts=False)
    coordinates, size = at_own_variance(seen.coordinates)
    verdict = judged(excess, null, np.array(found.last["correlation"]))
    return finish(varying, resized(found, size), (coordinates, verdict), read_particles(inputs.particles), settings, job)


def of_control(varying: Varying, found: Standing, control: Standing | None, job: JobRun) -> Excess:
    """What the same analysis finds in images of the mean map and noise."""
    source = made_images(varying, found)
    control = control or control_start(varying, found)
    control = until_done(varying, control, lambda at: advance(varying, at, source, "control iteration", keeps_noise=True),
                         lambda at: tell(at, "control", job, lambda: save(found, at, job)))
    return excess_of(varying, control, source, "control against the other half's modes")


def tell(standing: Standing, kind: str, job: JobRun, keep: Any) -> None:
    """One line in the log, a checkpoint, and the end where a signal asked for it."""
    last = standing.last
    job.events.event(kind, number=last["iteration"], variance=last["variance"], halves_agree=np.round(last["correlation"], 4).tolist(),
                     gain_nats=round(last["gain"], 4))
    keep()
    job.stop_together()


def prepare(particles: Particles, inputs: Inputs, settings: VariabilitySettings, job: JobRun) -> Varying:
    """What stays the same during the run. Raises InputError, SettingsError."""
    (box, pixel_A), number = common_frame(particles), settings.modes
    radius = radius_of("filter_resolution", settings.filter_resolution, particles, "modes reach", 3, job.events)
    solvent, focus = mask_of(inputs, particles, job.events)
    require_room(focus, pixel_A, settings)
    batches = make_batches(particles, 1, job.seed)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    work = work_of(settings, batches, numbers, box, job.threads)
    needed = max(work.reconstruction_bytes, loop_bytes(box, radius, number))
    setup = common_setup(particles, batches, work, needed, job, device_needs(work, radius, number))
    fixed = Fixed(setup, known_poses(particles, pixel_A), 1, radius, radius, solvent, focus, (tuple(range(len(batches))),))
    high = 0.0 if settings.high_pass is None else box * pixel_A / settings.high_pass
    return Varying(fixed, number, high, settings.iterations, settings.particle_scale == "optimal")


def work_of(settings: VariabilitySettings, batches: list[Batch], numbers: range, box: int, threads: int) -> Work:
    """What decides the memory of the rank with these batches, but for its accumulators."""
    return Work(sum(batches[n].pictures for n in numbers), box, 2, 2, settings.half_precision, threads)


def loop_bytes(box: int, radius: int, number: int) -> int:
    """What an iteration takes without the images: accumulators of both halves, Fourier volumes of mean and modes while they are laid side
    by side, and maps of both halves."""
    volumes = 2 * (number + 1) * accumulator_bytes(radius) // 3
    return BASE_BYTES + 2 * mode_accumulator_bytes(radius, number) + volumes + 4 * box**3 * (4 * number + 8)


def device_needs(work: Work, radius: int, number: int) -> DeviceNeeds:
    """Of a device: the largest of a pass (accumulators of both halves, Fourier volumes of mean and modes), the mean maps and the end."""
    volumes = (number + 3) * accumulator_bytes(radius) // 3
    means = 6 * accumulator_bytes(radius) + 4 * work.box**3 * DEVICE_MAPS
    end = replace(work, reach=radius).device_bytes
    views = BATCH * len(HalfPlane(work.box, radius)) * 8 * 2 * (number + 1)
    return DeviceNeeds(max(2 * mode_accumulator_bytes(radius, number) + volumes, means, end), VIEWED * work.device_batch_bytes + views)


def plan(inputs: Inputs, settings: VariabilitySettings, ranks: int, threads: int) -> Plan:
    """Memory of the rank that needs most; time from the number of images and modes, at measured rates."""
    particles, number = load_particles(inputs, settings, Events(None)), settings.modes
    box, pixel_A = common_frame(particles)
    radius = max(3, min(largest_radius(box), int(box * pixel_A / settings.filter_resolution)))
    require_room(mask_of(inputs, particles, Events(None))[1], pixel_A, settings)
    batches = make_batches(particles, 1, settings.seed)
    works = [work_of(settings, batches, share_of_batches(len(batches), rank, ranks), box, threads) for rank in range(ranks)]
    most = max(work.image_bytes + max(work.reconstruction_bytes, loop_bytes(box, radius, number)) for work in works)
    terms = len(particles) * len(HalfPlane(box, radius)) * (3 * number + pairs(number))
    passes = settings.iterations * (2 if settings.noise_control else 1) + 3
    maps = number * (settings.frames + 6) + 6 * (settings.intermediates + settings.clusters + 1)
    return Plan(most, maps * 4 * box**3 + 700 * len(particles), 15 + passes * terms * SECONDS_PER_COEFFICIENT / (ranks * threads),
                (f"{number} modes down to {box * pixel_A / radius:.2f} Å in a box of {box}: a coarser filter_resolution takes less time by "
                 "its square and less memory by its cube",),
                device_bytes=max(device_needs(work, radius, number).device_bytes for work in works))
