"""What a refinement of CTFs starts from: half maps brought to the images' grey scale, a band, and the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from protomer.ctf_refinement.passes import Band, Engine, OwnPart, survey
from protomer.ctf_refinement.reference import Given
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.errors import InputError
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import ImageStore, common_frame
from protomer.maps.volumes import Halves
from protomer.running.batches import Batch
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles
from protomer_kernels.slices import transform_volume

SURVEY_BATCHES = 30
LEAST_GREY, MOST_GREY = 0.5, 2.0
STRETCH_ROOM = 1.03  # left for a magnification that is refined


def images_of(particles: Particles) -> np.ndarray:
    """How many images each optics group has, copies not counted."""
    _, first = np.unique(particles.image_uid, return_index=True)
    return np.bincount(particles.optics[first], minlength=len(particles.optics_groups))


def warn_of_few(particles: Particles, images: np.ndarray, settings: CtfRefineSettings, job: JobRun) -> None:
    """Warn of optics groups that keep their aberrations."""
    few = [f"{group.name} ({number})" for group, number in zip(particles.optics_groups, images.tolist(), strict=True)
           if 0 < number < settings.fewest_images]
    if few and (settings.beam_tilt or settings.trefoil or settings.tetrafoil or settings.spherical_aberration or settings.magnification):
        job.events.warn("few_images", f"optics groups of fewer than {settings.fewest_images} images keep their aberrations and "
                        f"magnification: {', '.join(few[:8])}{', ...' if len(few) > 8 else ''}; "
                        "their images' defocus is refined all the same")


def engine_of(
    given: Given, settings: CtfRefineSettings, store: ImageStore, batches: Sequence[Batch], numbers: range, job: JobRun
) -> Engine:
    """Band, maps at the images' grey scale, noise; numbers: this rank's batches of the store. Raises InputError where nothing fits."""
    particles, (box, pixel_A), plane = given.particles, common_frame(given.particles), store.plane
    radius = min(int(box * pixel_A / given.finest_A), plane.radius)
    inner = usable_radius(particles, int(radius / STRETCH_ROOM) if settings.magnification else radius)
    band = Band(plane, plane.prefix(inner), max(int(np.ceil(box * pixel_A / settings.min_resolution)), 1))
    volumes_ft = given.half_maps.map(lambda half: transform_volume(half.data, radius, workers=job.threads))
    flat = np.ones((len(particles.optics_groups), radius + 1))
    nothing = OwnPart(particles, np.zeros((2, radius + 1)), np.zeros((2, radius + 1)))
    engine = Engine(store, batches, band, volumes_ft, nothing, flat, numbers, job.team, job.shared_progress, job.check_stop)
    found = survey(engine, particles, SURVEY_BATCHES)
    if found.grey.min() <= 0:
        raise InputError("the images do not agree with the half maps at these poses", "the half maps that these poses made",
                         "give the volume.h5 of the job that the particles come from")
    if not LEAST_GREY < found.grey.min() <= found.grey.max() < MOST_GREY:
        said = " and ".join(f"{value:.2f}" for value in found.grey)
        job.events.warn("grey_scale", f"the images hold {said} times the density of the half maps, where 1 is expected: the maps were "
                        "scaled, or are not of these particles at these poses")
    scaled = Halves(*(volume_ft * np.float32(value) for volume_ft, value in zip(volumes_ft, found.grey, strict=True)))
    shells = found.own.shape[1]
    unweighted = found.own / given.kept[:shells]
    own = OwnPart(particles, found.own * found.grey[:, None], unweighted)
    return replace(engine, volumes_ft=scaled, noise=found.noise, own=own)
