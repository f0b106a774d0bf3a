"""ctf-refine: particles with poses, and half maps -> the same particles with better CTFs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import fft

from protomer.ctf_refinement.loop import Found, refine_ctf
from protomer.ctf_refinement.passes import Band, Engine, OwnPart, survey
from protomer.ctf_refinement.report import report_of, summary_of
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.image_memory import image_folder
from protomer.imaging.images import ImageStore, common_frame
from protomer.maps.finishing import require_mask_values
from protomer.maps.half_maps_given import in_frame, load_half_maps
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Halves, Volume
from protomer.running.batches import make_batches, share_of_batches
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.tables.particles import Particles
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.slices import transform_volume

SURVEY_BATCHES = 30
LEAST_GREY, MOST_GREY = 0.5, 2.0
FINEST_USEFUL_A = 6.0
STRETCH_ROOM = 1.03  # left for a magnification that is refined
FEWEST_SHELLS = 5
LEAST_WEIGHT = 0.05  # of a shell, for what the weight was taken from
AT_END = 0.02  # of the images may end at defocus_range


@dataclass(frozen=True)
class Given:
    """What the job starts from: half maps, weighted by their FSC (shells,), and the finest resolution used (A)."""

    particles: Particles
    half_maps: Halves[Volume]
    weight: np.ndarray
    finest_A: float


def run(inputs: Inputs, settings: CtfRefineSettings, job: JobRun) -> dict[str, Any]:
    """Load, survey, refine in turn, save."""
    with fft.set_workers(job.threads):
        given = load_all(inputs, settings)
        if given.finest_A > FINEST_USEFUL_A:
            job.events.warn("coarse", f"the half maps agree to {given.finest_A:.1f} Å only: there the CTF hardly depends on what is "
                            "refined, and standard errors are large")
        images = images_of(given.particles)
        warn_of_few(given.particles, images, settings, job)
        engine = prepare(given, settings, job)
        found = refine_ctf(engine, given.particles, settings, images)
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
    fsc = measure_fsc(half_maps, mask, "" if inputs.mask is None else inputs.mask.name)
    finest_A = settings.max_resolution or fsc.resolution_A_at("corrected")
    if not box * pixel_A / settings.min_resolution + FEWEST_SHELLS <= box * pixel_A / finest_A:
        raise InputError(f"resolutions from {settings.min_resolution:g} to {finest_A:.4g} Å",
                         f"at least {FEWEST_SHELLS} shells between them", "better half maps; or set min_resolution and max_resolution")
    weight = np.clip(fsc.corrected, 0.0, 1.0)  # what is expected of the truth, given one half map
    window = np.float32(1.0) if mask is None else mask.data
    weighted = half_maps.map(lambda half: Volume(apply_shell_filter(half.data * window, weight).astype(np.float32), half.voxel_size_A))
    return Given(particles, weighted, weight, max(finest_A, 2.0 * pixel_A))


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


def prepare(given: Given, settings: CtfRefineSettings, job: JobRun) -> Engine:
    """Images, band, maps at the images' grey scale, noise."""
    particles, (box, pixel_A) = given.particles, common_frame(given.particles)
    plane = HalfPlane(box, largest_radius(box))
    radius = min(int(box * pixel_A / given.finest_A), plane.radius)
    inner = usable_radius(particles, int(radius / STRETCH_ROOM) if settings.magnification else radius)
    band = Band(plane, plane.prefix(inner), max(int(np.ceil(box * pixel_A / settings.min_resolution)), 1))
    batches, team = make_batches(particles, 1, 0), job.team
    numbers = share_of_batches(len(batches), team.rank, team.size)
    image_bytes = 8 * sum(batches[n].pictures for n in numbers) * len(plane)
    folder = image_folder(job.cache, image_bytes, 30 * box**3, team.ranks_here(), job.events)
    store = ImageStore(particles, plane, [b.rows for b in batches], folder, job.threads, blocks=[b.block for b in batches])
    volumes_ft = given.half_maps.map(lambda half: transform_volume(half.data, radius, workers=job.threads))
    flat = np.ones((len(particles.optics_groups), radius + 1))
    nothing = OwnPart(particles, np.zeros((2, radius + 1)), np.zeros((2, radius + 1)))
    engine = Engine(store, batches, band, volumes_ft, nothing, flat, numbers, team, job.shared_progress, job.check_stop)
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
    unweighted = found.own / np.maximum(given.weight[:shells], LEAST_WEIGHT)
    own = OwnPart(particles, found.own * found.grey[:, None], unweighted)
    return replace(engine, volumes_ft=scaled, noise=found.noise, own=own)


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
