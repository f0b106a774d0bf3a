"""What an ab-initio run works with: images in a box as small as the final resolution allows, in batches drawn at random once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.abinitio.frame import Frame
from protomer.abinitio.noise import background_noise
from protomer.abinitio.schedule import UNIT, Step, steps_of
from protomer.abinitio.work import device_needs, image_bytes, work_bytes
from protomer.classes.start import in_box
from protomer.computing.backend import arithmetic_of
from protomer.declarations.ab_initio import AbInitioSettings
from protomer.errors import InputError
from protomer.imaging.image_memory import available_memory_bytes
from protomer.randomness import uniform
from protomer.refinement.preparing import kept_images, surveyed
from protomer.refinement.setup import Setup
from protomer.running.batches import Batch
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

LEAST_IMAGES = UNIT  # of each class


@dataclass(frozen=True)
class AbInitio:
    """What does not change during a run: the engine's setup, sizes, noise (groups, shells), and what is asked for."""

    setup: Setup
    frame: Frame
    noise: np.ndarray
    steps: list[Step]
    classes: int
    non_negative: bool
    centre: bool

    def units(self, step: Step) -> list[int]:
        """The batches of a step, the same on every rank, which go round all; every attempt sees the same ones."""
        number, total = -(-step.images * self.classes // UNIT), len(self.setup.batches)
        first = sum(-(-s.images * self.classes // UNIT) for s in self.steps[: step.number] if s.start == step.start)
        return [(first + n) % total for n in range(min(number, total))]

    def own(self, units: list[int]) -> list[int]:
        """Those of them that this rank works on."""
        return [unit for unit in units if unit % self.setup.team.size == self.setup.team.rank]


def require_possible(particles: Particles, settings: AbInitioSettings) -> None:
    """Raise InputError for expanded particles and for too few."""
    if particles.is_expanded:
        raise InputError("these particles are symmetry-expanded", "one row for each image",
                         "give the parent, with --symmetry for a point group; a global search would let copies fall onto one another")
    if len(particles) < LEAST_IMAGES * settings.classes:
        raise InputError(f"{len(particles)} particles for {settings.classes} class(es)", f"at least {LEAST_IMAGES} for each class",
                         "give more particles or fewer classes")


def unit_batches(particles: Particles, seed: int) -> list[Batch]:
    """All images in batches of UNIT, drawn at random once; neither halves nor the order of the table matter."""
    order = np.argsort(uniform(seed, particles.image_uid, "ab-initio/order"), kind="stable")
    parts = [np.sort(order[first : first + UNIT]) for first in range(0, len(order), UNIT)]
    return [Batch((0, 0), rows, len(rows), n) for n, rows in enumerate(parts)]


def require_memory(bytes_needed: int, classes: int, ranks_here: int) -> None:
    """Raise InputError where the classes do not fit, before anything is begun."""
    free = available_memory_bytes() / ranks_here
    if bytes_needed > free:
        raise InputError(f"{classes} class(es) take {bytes_needed / 1e9:.2f} GB on each rank; {free / 1e9:.2f} GB are free for it",
                         "memory for all classes at once", "use fewer classes, a coarser final_resolution, or fewer ranks on this machine")


def prepare(particles: Particles, operators: np.ndarray, settings: AbInitioSettings, job: JobRun) -> AbInitio:
    """Everything before the first step; reads all images once. Raises InputError where memory or disk do not suffice."""
    frame, team = Frame.of(particles, settings), job.team
    needed, images = work_bytes(particles, settings, len(operators), job.threads), image_bytes(particles, settings, team.size)
    require_memory(needed, settings.classes, team.ranks_here())
    small = in_box(particles, frame.box)
    batches = unit_batches(particles, settings.seed)
    arithmetic = arithmetic_of(job.backend, job.threads, device_needs(particles, settings, len(operators)), job.events)
    store = kept_images(small, batches, (images, needed), False, arithmetic, job)
    extent_px = frame.box / 16 if settings.shift_search_extent is None else settings.shift_search_extent / frame.pixel_A
    setup, _ = surveyed(Setup(small, store, batches, range(team.rank, len(batches), team.size), team, frame.pixel_A, job.seed,
                              arithmetic, job.shared_progress, job.check_stop, operators=operators, shift_extent_px=extent_px))
    steps = steps_of(frame.first_radius, frame.last_radius, settings.starts, (settings.batch_first, settings.batch_last),
                     settings.similarity if settings.classes > 1 else 0.0)
    return AbInitio(setup, frame, background_noise(setup), steps, settings.classes, settings.non_negative, settings.centre)
