"""ctf-refine: particles with poses, and half maps -> the same particles with better CTFs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import fft

from protomer.computing.arithmetic import Arithmetic
from protomer.ctf_refinement.loop import Found, refine_ctf
from protomer.ctf_refinement.passes import Engine
from protomer.ctf_refinement.reference import Given, in_mask, prepared
from protomer.ctf_refinement.report import report_of, summary_of
from protomer.ctf_refinement.start import engine_of, images_of, warn_of_few
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.imaging.images import common_frame
from protomer.maps.finishing import require_mask_values
from protomer.maps.half_maps_given import in_frame, load_half_maps
from protomer.refinement.preparing import kept_images
from protomer.running.batches import make_batches, share_of_batches
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer_kernels.half_plane import HalfPlane, largest_radius

FINEST_USEFUL_A = 6.0
AT_END = 0.02  # of the images may end at defocus_range


def run(inputs: Inputs, settings: CtfRefineSettings, job: JobRun) -> dict[str, Any]:
    """Load, survey, refine in turn, save."""
    with fft.set_workers(job.threads):
        given = load_all(inputs, settings)
        if given.resolution_A > FINEST_USEFUL_A:
            job.events.warn("coarse", f"the half maps agree to {given.resolution_A:.1f} Å only: there the CTF hardly depends on what is "
                            "refined, and standard errors are large")
        images = images_of(given.particles)
        warn_of_few(given.particles, images, settings, job)
        engine = prepare(given, settings, job)
        found = refine_ctf(engine, Found.nothing(given.particles), settings, images)
    warn_of_outcome(found, settings, job)
    if not job.team.is_first:
        return {}
    with job.output.writing("particles.h5") as path:
        write_particles(path, replace(found.particles, provenance=dict(job.provenance)))
    job.output.write_text("report.html", report_of(given.particles, found, engine.band, given.finest_A, settings, job.events))
    return summary_of(given.particles, found, given.finest_A, settings)


def load_all(inputs: Inputs, settings: CtfRefineSettings) -> Given:
    """Particles and their half maps, in one frame. Raises InputError, SettingsError."""
    if not any((settings.defocus, settings.beam_tilt, settings.trefoil, settings.tetrafoil, settings.spherical_aberration,
                settings.magnification)):
        raise SettingsError("nothing to refine", "at least one of defocus, beam_tilt, trefoil, tetrafoil, spherical_aberration and "
                            "magnification", "switch one of them on")
    particles = read_particles(inputs.particles)
    if not len(particles) or not particles.has_poses or (particles.half < 0).any():
        raise InputError(f"{inputs.particles}: {len(particles)} particles{'' if particles.has_poses else ' without poses'}"
                         f"{', some without half-sets' if len(particles) and (particles.half < 0).any() else ''}",
                         "particles with poses and half-sets", "refine them first")
    box, pixel_A = common_frame(particles)
    half_maps = load_half_maps(inputs.volume, None).half_maps
    if half_maps.a.box != box or abs(half_maps.a.voxel_size_A / pixel_A - 1) > 1e-3:
        raise InputError(f"half maps of box {half_maps.a.box} at {half_maps.a.voxel_size_A:.4g} Å", f"box {box} at {pixel_A:.4g} Å, as the "
                         "images have it", "give the volume.h5 of the job that the particles come from")
    mask = None if inputs.mask is None else in_frame(read_volume(inputs.mask), half_maps.a.voxel_size_A)
    if mask is not None:
        require_mask_values(mask, inputs.mask.name)
    mask, fsc = in_mask(half_maps, mask, "" if inputs.mask is None else inputs.mask.name)
    return prepared(particles, half_maps, mask, fsc, settings)


def prepare(given: Given, settings: CtfRefineSettings, job: JobRun) -> Engine:
    """Images, and what is compared with them."""
    particles, (box, _), team = given.particles, common_frame(given.particles), job.team
    batches = make_batches(particles, 1, 0)
    numbers = share_of_batches(len(batches), team.rank, team.size)
    image_bytes = 8 * sum(batches[n].pictures for n in numbers) * len(HalfPlane(box, largest_radius(box)))
    store = kept_images(particles, batches, (image_bytes, 30 * box**3), False, Arithmetic(job.threads), job)
    return engine_of(given, settings, store, batches, numbers, job)


def warn_of_outcome(found: Found, settings: CtfRefineSettings, job: JobRun) -> None:
    """Warn of changes that ended where they may not go on."""
    if found.at_end > AT_END * len(found.change_A):
        job.events.warn("defocus_range", f"{found.at_end} of {len(found.change_A)} defoci changed by the most that was allowed, "
                        f"{settings.defocus_range:g} Å: they are wrong by more, or the images say nothing; see the histogram")


def plan(inputs: Inputs, settings: CtfRefineSettings, ranks: int, threads: int) -> Plan:
    """Memory of images and maps; time from measured rates."""
    given = load_all(inputs, settings)
    box, pixel_A = common_frame(given.particles)
    coefficients = int(0.5 * np.pi * min(box * pixel_A / given.finest_A, box / 2) ** 2)
    images, rows = len(np.unique(given.particles.image_uid)), len(given.particles)
    sums = 100 * len(given.particles.optics_groups) * coefficients
    work = settings.rounds * rows * coefficients * (6e-7 if settings.magnification else 3e-7) + images * box**2 * 3e-8
    return Plan(400_000_000 + int(8 * images * 0.4 * box**2 / ranks) + 120 * box**3 + sums, 400 * rows + 1_000_000,
                8 + work / (ranks * threads))
