"""How much memory and time an ab-initio run takes, from the sizes of its largest arrays and measured rates."""

from __future__ import annotations

from protomer.abinitio.frame import Frame
from protomer.abinitio.schedule import (
    FINE_GRID_RADIUS,
    FINE_GRID_ROTATIONS,
    GRID_DENSITY,
    SHIFT_STEP,
    START_STEPS,
    UNIT,
    coarse_radius,
    steps_of,
)
from protomer.declarations.ab_initio import AbInitioSettings
from protomer.running.footprint import BASE_AT_THE_END_BYTES, BASE_BYTES, DeviceNeeds, Work
from protomer.tables.particles import Particles
from protomer_kernels.grid_posterior import DEVICE_SCORES_AT_ONCE, SCORES_AT_ONCE
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.insertion import accumulator_bytes
from protomer_kernels.rotations import shift_grid

POSE_BYTES = 4 * 8 * 7 + 8 * 18  # of an image in one class: four modes with rotation, shift and weight; covariance, likelihood and odds
MAPS_AT_THE_END = 6  # of the images' own box, for each class
COARSE_SECONDS, FINE_SECONDS = 1.2e-9, 1.6e-6  # per image and class: per rotation, shift and coefficient of the grid; per coefficient


def work_bytes(particles: Particles, settings: AbInitioSettings, order: int, threads: int) -> int:
    """Of one rank, prepared images left out: the larger of the coarse steps, the last pass, and the end."""
    frame, classes = Frame.of(particles, settings), settings.classes
    coarse = coarse_radius(frame.first_radius, frame.last_radius)
    length = HalfPlane(frame.box, largest_radius(frame.box)).prefix(min(coarse + 2, largest_radius(frame.box)))
    grid = 12 * classes * (GRID_DENSITY * coarse**3 // order + 1) * length
    scores = 4 * max(SCORES_AT_ONCE, classes * (GRID_DENSITY * coarse**3 // order) * 30)
    steps = grid * (1 + 2 * threads) + 3 * scores * threads + 3 * classes * accumulator_bytes(coarse + 2)
    fine = classes * (5 * accumulator_bytes(frame.last_radius + 2) // 2 + 8 * (FINE_GRID_ROTATIONS // order + 1) * length)
    poses = 3 * classes * len(particles) * POSE_BYTES
    maps = classes * (MAPS_AT_THE_END * 4 * frame.image_box**3 + 8 * frame.box**3)
    return max(BASE_BYTES + max(steps, fine) + poses, BASE_AT_THE_END_BYTES + poses + maps)


def image_bytes(particles: Particles, settings: AbInitioSettings, ranks: int) -> int:
    """Prepared images of one rank."""
    frame = Frame.of(particles, settings)
    return 8 * len(HalfPlane(frame.box, largest_radius(frame.box))) * -(-len(particles) // ranks)


def device_needs(particles: Particles, settings: AbInitioSettings, order: int) -> DeviceNeeds:
    """Of a device: the larger of the coarse and the fine steps, with the running sums of now and of the best attempt."""
    frame, classes = Frame.of(particles, settings), settings.classes
    coarse, extent_px = coarse_radius(frame.first_radius, frame.last_radius), frame.box / 16
    if settings.shift_search_extent is not None:
        extent_px = settings.shift_search_extent / frame.pixel_A
    length = HalfPlane(frame.box, largest_radius(frame.box)).prefix(min(coarse + 2, largest_radius(frame.box)))
    rotations, grid = GRID_DENSITY * coarse**3 // order + 1, FINE_GRID_ROTATIONS // order + 1
    shifts, fine_shifts = (len(shift_grid(extent_px, frame.box / steps)) for steps in (SHIFT_STEP * coarse, 32))
    moved, scores = 32 * UNIT * shifts * length, 4 * max(min(DEVICE_SCORES_AT_ONCE, UNIT * classes * rotations * shifts),
                                                         classes * rotations * shifts)
    of_grid = 2 * classes * rotations * length * (8 + 4) + rotations * length * 12 + moved + 3 * scores
    fine = Work(0, frame.box, classes, classes, False, 1, grid, FINE_GRID_RADIUS, fine_shifts, frame.last_radius + 2, classes)
    held = classes * (2 * accumulator_bytes(frame.last_radius + 2) + 4 * 4 * frame.box**3 + 8 * grid * length)
    return DeviceNeeds(held + max(classes * accumulator_bytes(coarse + 2) + of_grid, fine.device_bytes), fine.device_batch_bytes)


def seconds(particles: Particles, settings: AbInitioSettings, order: int, workers: int) -> float:
    """At measured rates."""
    frame, classes = Frame.of(particles, settings), settings.classes
    plane, total = HalfPlane(frame.box, largest_radius(frame.box)), 0.0
    for step in steps_of(frame.first_radius, frame.last_radius, settings.starts, (settings.batch_first, settings.batch_last), 0.0):
        images = min(step.images * classes, len(particles)) * classes
        if step.is_fine:
            total += images * plane.prefix(step.radius) * FINE_SECONDS
        else:
            shifts = 3.14 * (step.radius * 4.2 / 16) ** 2 + 1
            total += images * step.rotations / order * shifts * plane.prefix(step.radius) * COARSE_SECONDS + 0.02 * classes * order**0.5
    total += len(particles) * classes * plane.prefix(frame.last_radius) * FINE_SECONDS
    return 10.0 + total / workers + settings.starts * START_STEPS * 0.01
