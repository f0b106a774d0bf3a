"""reconstruct: half maps from particles with poses, without alignment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.reconstruct import ReconstructSettings
from protomer.engine.pose_table import PoseTable
from protomer.errors import InputError
from protomer.formats.hdf5 import read_any_volume, read_particles, write_particles
from protomer.imaging.images import common_frame
from protomer.maps.finishing import map_summary, measure_maps, require_mask_values, warn_of_resolution, with_map, write_maps
from protomer.maps.map_agreement import Agreement, agreement, mean_of, read_reference
from protomer.maps.rigid_motion import mirror_particles
from protomer.maps.volumes import MapRecord, Volume
from protomer.refinement.curvature import CurvedMaps, reconstruct_curved
from protomer.refinement.preparing import common_setup, surveyed
from protomer.refinement.setup import Setup
from protomer.report.build import Report
from protomer.report.curvature_pictures import add_curvature
from protomer.report.figures import fsc_caption, fsc_figure
from protomer.report.pictures import orientation_figure, slices_figure
from protomer.report.symmetry_pictures import operator_figure
from protomer.running.batches import Batch, make_batches, share_of_batches
from protomer.running.events import Events
from protomer.running.footprint import Work
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.operator_sets import OperatorSet, operators_of
from protomer.tables.half_sets import warn_of_small_halves
from protomer.tables.particles import Particles
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.half_plane import HalfPlane, largest_radius


def run(inputs: Inputs, settings: ReconstructSettings, job: JobRun) -> dict[str, Any]:
    """Load, insert, solve, measure, save."""
    particles = load(inputs, settings)
    warn_of_copies(particles, operators_of(inputs.symmetry, inputs.axes, settings), job.events)
    warn_of_small_halves(particles.half, job.events)
    mask, reference = load_mask(inputs, particles), load_reference(inputs, particles)
    setup, noise = surveyed(prepare(particles, settings, inputs, job))
    poses = known_poses(particles, setup.pixel_size_A)
    operators = operators_of(inputs.symmetry, inputs.axes, settings)
    group = operators.rotations, operators.translations_A
    curved = reconstruct_curved(setup, noise, poses, *group, settings.ewald_sign, job.events)
    return finish(curved, mask, reference, particles, inputs, settings, job) if job.team.is_first else {}


def load(inputs: Inputs, settings: ReconstructSettings) -> Particles:
    """Particles with poses, mirrored where asked. Raises InputError."""
    particles = read_particles(inputs.particles)
    if not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles with rotations and shifts", "refine them first")
    return mirror_particles(particles) if settings.flip_hand else particles


def warn_of_copies(particles: Particles, operators: OperatorSet, events: Events) -> None:
    """Warn where copies are copied once more."""
    if particles.is_expanded and len(operators) > 1:
        events.warn("expanded_twice", f"the particles are symmetry-expanded and are inserted under {operators.name} all the same: what the "
                    "map shows is the mean over both, which hides how copies differ; leave --symmetry out to see it")


def load_mask(inputs: Inputs, particles: Particles) -> Volume | None:
    """The mask, if one was given. Raises InputError, before any work, where it does not fit the map that there will be."""
    if inputs.mask is None:
        return None
    mask, (box, pixel_A) = read_any_volume(inputs.mask), common_frame(particles)
    require_mask_values(mask, inputs.mask.name)
    if mask.box != box or abs(mask.voxel_size_A / pixel_A - 1) > 1e-3:
        raise InputError(
            f"the mask {inputs.mask} has {mask.box} voxels of {mask.voxel_size_A:.4g} Å",
            f"the box and pixel size of the images: {box} of {pixel_A:.4g} Å",
            "make one of that box with `protomer mask`, or leave --mask out: one is then made by rule",
        )
    return Volume(mask.data, pixel_A)


def load_reference(inputs: Inputs, particles: Particles) -> Volume | None:
    """The map to compare with, if one was given. Raises InputError, before any work, where it does not fit the map that there will be."""
    return None if inputs.reference is None else read_reference(inputs.reference, *common_frame(particles))


def prepare(particles: Particles, settings: ReconstructSettings, inputs: Inputs, job: JobRun) -> Setup:
    """Batches of both halves and this rank's share of them."""
    batches, (box, _) = make_batches(particles, 1, job.seed), common_frame(particles)
    work = work_of(settings, batches, share_of_batches(len(batches), job.team.rank, job.team.size), box, job.threads)
    setup = common_setup(particles, batches, work, work.reconstruction_bytes, job)
    return replace(setup, operators=operators_of(inputs.symmetry, inputs.axes, settings).rotations)


def known_poses(particles: Particles, pixel_size_A: float) -> PoseTable:
    """The particles' own poses as a table of one mode each."""
    number = len(particles)
    return PoseTable(
        particles.rotation[:, None],
        particles.shift_A[:, None] / pixel_size_A,
        np.ones((number, 1)),
        np.zeros(number),
        np.zeros((number, 15)),
        np.zeros(number),
    )


def finish(
    curved: CurvedMaps,
    mask: Volume | None,
    reference: Volume | None,
    particles: Particles,
    inputs: Inputs,
    settings: ReconstructSettings,
    job: JobRun,
) -> dict[str, Any]:
    """Measure and write."""
    name = "" if inputs.mask is None else inputs.mask.name
    pixel_A = common_frame(particles)[1]
    maps = curved.half_maps.map(lambda data: Volume(data, pixel_A)), Volume(curved.together, pixel_A)
    record = measure_maps(*maps, mask, name, inputs.symmetry, settings.b_factor, job)
    assert record.fsc is not None
    if settings.filter_resolution is not None:
        record = with_map(record, butterworth(maps[1], settings.filter_resolution, settings.filter_order))
    assert record.fsc is not None
    warn_of_resolution(record.fsc, record.fsc_mask, job, np.inf)
    write_maps(record, job)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    symmetry = operators_of(inputs.symmetry, inputs.axes, settings).name
    compared = None if reference is None else agreement(mean_of(record.half_maps), reference)
    write_report(record, particles, symmetry, compared, curved, job)
    return {**map_summary(particles, record), "operators": symmetry, "agreement": None if compared is None else compared.summary(),
            "ewald_sphere": curved.summary()}


def butterworth(volume: Volume, resolution_A: float, order: int) -> Volume:
    """A map under 1 / sqrt(1 + (s / cut-off)^(2 order))."""
    ratio = np.arange(volume.box // 2 + 1) * resolution_A / (volume.box * volume.voxel_size_A)
    return Volume(apply_shell_filter(volume.data, 1.0 / np.sqrt(1.0 + ratio ** (2 * order))), volume.voxel_size_A)


def write_report(
    record: MapRecord, particles: Particles, symmetry: str, compared: Agreement | None, curved: CurvedMaps, job: JobRun
) -> None:
    """report.html."""
    fsc = record.fsc
    assert fsc is not None
    report = Report(
        "Reconstruction", job.events.warnings, {"particles": len(particles), "symmetry": symmetry, "FSC mask": fsc.mask_name}
    )
    report.headline("resolution", fsc.describe("corrected").split(" (")[0], "corrected FSC at 0.143")
    report.section("Resolution")
    report.figure(fsc_figure(fsc), fsc_caption(fsc))
    add_curvature(report, curved)
    if compared is not None:
        report.headline("agreement with the reference", f"{compared.lowest:.4f}", f"lowest of all shells, at {compared.lowest_at_A:.2f} Å")
        report.section("Agreement", "Both maps before any filter, without a mask. This is no resolution: both come from the same images.")
        report.figure(operator_figure({"this map": compared.curve}, compared.extent_A, None, "the reference"),
                      "Fourier shell correlation of this map with the reference.")
    report.section("Map")
    report.figure(slices_figure(record.map, record.fsc_mask), "Central slices of the map, with contours of the FSC mask.")
    report.figure(orientation_figure(particles.rotation), "Viewing directions.")
    with job.output.writing("report.html") as path:
        path.write_text(report.html(), encoding="utf-8")


def work_of(settings: ReconstructSettings, batches: list[Batch], numbers: range, box: int, threads: int) -> Work:
    """What decides the memory of the rank with these batches."""
    own = [batches[n] for n in numbers]
    return Work(sum(b.pictures for b in own), box, 2, len({b.key for b in own}), settings.half_precision, threads)


def plan(inputs: Inputs, settings: ReconstructSettings, ranks: int, threads: int) -> Plan:
    """Memory of the rank that needs most; time from the coefficients inserted, at measured rates."""
    particles = read_particles(inputs.particles)
    box, _ = common_frame(particles)
    coefficients = len(particles) * len(HalfPlane(box, largest_radius(box)))
    batches = make_batches(particles, 1, settings.seed)
    works = [work_of(settings, batches, share_of_batches(len(batches), rank, ranks), box, threads) for rank in range(ranks)]
    order = len(operators_of(inputs.symmetry, inputs.axes, settings))
    passes = {"none": 1, "auto": 5}.get(settings.ewald_sign, 2)  # a curved image is two slices
    kept = 2 * 3 * 4 * box**3 if settings.ewald_sign == "auto" else 0
    return Plan(
        kept + max(work.image_bytes + work.reconstruction_bytes for work in works),
        40 * box**3,
        10 + passes * coefficients * (1e-7 + 3e-8 * order) / (ranks * threads),
        scratch_bytes=max(work.image_bytes for work in works),
        device_bytes=max(work.device_bytes for work in works),
    )
