"""What every job on images begins with: where its prepared images are kept, its share of the batches, and a first look at the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.computing.arithmetic import Arithmetic
from protomer.computing.backend import arithmetic_of
from protomer.imaging.image_memory import image_folder
from protomer.imaging.images import ImageStore, common_frame
from protomer.refinement.loop import survey_images
from protomer.refinement.setup import Setup
from protomer.running.batches import Batch, share_of_batches
from protomer.running.footprint import OnDevice, Work
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius


def kept_images(
    particles: Particles, batches: list[Batch], needed_bytes: tuple[int, int], half_precision: bool, arithmetic: Arithmetic, job: JobRun
) -> ImageStore:
    """The images of all batches up to their finest wave, in memory or on the node's disk.

    needed_bytes: of this rank, for its images, and for all else that it works with. Raises InputError where there is no room."""
    box, _ = common_frame(particles)
    plane = HalfPlane(box, largest_radius(box))
    folder = image_folder(job.cache, *needed_bytes, job.team.ranks_here(), job.events)
    return ImageStore(particles, plane, [b.rows for b in batches], folder, arithmetic, half_precision, [b.block for b in batches])


def common_setup(
    particles: Particles, batches: list[Batch], work: Work, other_bytes: int, job: JobRun, on_device: OnDevice | None = None
) -> Setup:
    """The setup for this rank's share of the batches, but for what a job has of its own, which goes in by `replace`.

    work: of this rank's share; other_bytes: all that it takes beside its images; on_device: what it takes of a device, unset: as `work`
    has it. Raises InputError where that is too much."""
    arithmetic = arithmetic_of(job.backend, job.threads, on_device or work, job.events)
    store = kept_images(particles, batches, (work.image_bytes, other_bytes), work.half_precision, arithmetic, job)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    pixel_A = common_frame(particles)[1]
    return Setup(particles, store, batches, numbers, job.team, pixel_A, job.seed, arithmetic, job.shared_progress, job.check_stop)


def surveyed(setup: Setup) -> tuple[Setup, np.ndarray]:
    """The setup with the largest amplitudes of its images, all of them read; and their mean power (groups, shells), the first noise."""
    noise, largest = survey_images(setup, len(setup.particles.optics_groups))
    return replace(setup, largest=largest), noise
