"""refine: expectation-maximisation of one structure, half-set by half-set (Scheres 2012)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.refine import RefineSettings
from protomer.engine.alignment import IDENTITY
from protomer.engine.confidence import Confidence
from protomer.engine.joining import join_shell
from protomer.engine.pose_table import at_heaviest_mode
from protomer.engine.rehearsal import rehearse
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.imaging.images import common_frame
from protomer.maps.finishing import map_summary, measure_maps, warn_of_resolution, write_maps
from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import Volume
from protomer.refinement.asked import asked_group, given_mask, in_box, require_possible
from protomer.refinement.checkpoint import resume, until_settled
from protomer.refinement.ctf_within import CHECKPOINT, CtfFound, is_asked, settled_with_ctf
from protomer.refinement.curvature import CurvedMaps, reconstruct_curved
from protomer.refinement.outcome import posed, warn_of_cut, warn_of_empty, warn_of_lost
from protomer.refinement.plan import Grid, plan, work_of
from protomer.refinement.preparing import common_setup, surveyed
from protomer.refinement.report import write_report
from protomer.refinement.setup import Masking, Setup, State, at_scales
from protomer.refinement.start import begin, is_asymmetric, load_start, resampled, start_axes
from protomer.running.batches import folded_batches, share_of_batches
from protomer.running.job_run import Inputs, JobRun
from protomer.symmetry.start_axes import gain, in_words
from protomer.tables.half_sets import warn_of_small_halves
from protomer.tables.particles import Particles
from protomer.tables.pose_change import compare_with_given
from protomer_kernels.half_plane import largest_radius

__all__ = ["plan", "run"]


def run(inputs: Inputs, settings: RefineSettings, job: JobRun) -> dict[str, Any]:
    """Load, iterate until settled, reconstruct, measure, save."""
    particles = load_particles(inputs, settings, job)
    setup, noise = surveyed(prepare(particles, settings, job, inputs))
    state = resume(setup, job) or begin(setup, load_start(inputs, settings, setup, job), noise, settings)
    setup, state, ctf = settle(setup, state, settings, job)
    setup = at_scales(setup, state)
    confidence = rehearse(setup, state) if settings.rehearse else None
    counted = at_heaviest_mode(state.counted_poses) if settings.relaxation == "maximise" else state.counted_poses
    curved = reconstruct_curved(setup, state.model.noise, counted, setup.operators, None, settings.ewald_sign, job.events)
    summary = finish(setup, state, (curved, ctf), confidence, inputs, settings, job)
    job.checkpoint.beside(CHECKPOINT).remove()
    return summary


def settle(setup: Setup, state: State, settings: RefineSettings, job: JobRun) -> tuple[Setup, State, CtfFound | None]:
    """Iterate until poses are settled, with CTFs refined on the way where that is asked for."""
    if is_asked(settings):
        return settled_with_ctf(setup, state, settings, job)
    return setup, until_settled(setup, state, settings.extra_passes, job), None


def load_particles(inputs: Inputs, settings: RefineSettings, job: JobRun) -> Particles:
    """The particles, in the wanted box. Raises InputError for expanded particles and half-sets that cannot be used."""
    particles = read_particles(inputs.particles)
    if particles.is_expanded:
        raise InputError(
            "these particles are symmetry-expanded",
            "one row for each image",
            "refine the parent, or use local refinement on the copies; a global search would let copies fall onto one another",
        )
    sizes = [int(np.sum(particles.half == half)) for half in (0, 1)]
    if min(sizes) == 0:
        raise InputError(
            f"the half-sets have {sizes[0]} and {sizes[1]} particles",
            "particles in both half-sets 0 and 1",
            "import the particles again, with redraw_halves where the file's own halves are all equal",
        )
    require_possible(particles, inputs, settings)
    warn_of_small_halves(particles.half, job.events)
    return in_box(particles, settings.box)


def prepare(particles: Particles, settings: RefineSettings, job: JobRun, inputs: Inputs, filaments: Grid | None = None) -> Setup:
    """What stays the same during the run. filaments: their grid, for the memory that it takes."""
    box, pixel_A = common_frame(particles)
    group, mates = groups_of(inputs, settings)
    radius = largest_radius(box)
    batches = folded_batches(particles, settings.cross_fit_folds, radius, job.seed)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    work = work_of(settings.half_precision, batches, numbers, box, job.threads, filaments)
    setup = common_setup(particles, batches, work, work.refinement_bytes, job)
    mask = given_mask(inputs, settings)
    given = None if mask is None else resampled(mask, box, pixel_A)
    return replace(
        setup,
        operators=group,
        mates=mates,
        join_shell=join_shell(box * pixel_A, radius, settings.join_halves_below, settings.initial_low_pass, job.events),
        shift_extent_px=box / 16 if settings.shift_search_extent is None else settings.shift_search_extent / pixel_A,
        marginalise=settings.marginalise or settings.relaxation != "none",
        masking=Masking.of(settings, settings.dynamic_mask_from, given),
        null_class=settings.null_class,
        particle_scale=settings.particle_scale,
        non_uniform=NonUniform.of(settings),
    )


def groups_of(inputs: Inputs, settings: RefineSettings) -> tuple[np.ndarray, np.ndarray]:
    """The operators that are imposed, and those of the group that is relaxed: one of the two is the identity. Raises SettingsError."""
    group = asked_group(inputs, settings)
    return (group, IDENTITY) if settings.relaxation == "none" else (IDENTITY, group)


def finish(
    setup: Setup,
    state: State,
    outcome: tuple[CurvedMaps, CtfFound | None],
    confidence: Confidence | None,
    inputs: Inputs,
    settings: RefineSettings,
    job: JobRun,
) -> dict[str, Any]:
    """Measure the maps, write everything (rank 0), and say how it went."""
    particles, (curved, ctf) = posed(setup, state, confidence, job), outcome
    if not job.team.is_first:
        return {}
    half_maps = curved.half_maps.map(lambda data: Volume(data, setup.pixel_size_A))
    together = Volume(curved.together, setup.pixel_size_A)
    symmetry = "C1" if setup.is_relaxed else inputs.symmetry
    record = measure_maps(half_maps, together, None, "", symmetry, None, job, setup.non_uniform)
    assert record.fsc is not None
    joined_A = record.fsc.box * record.fsc.voxel_size_A / setup.join_shell if setup.join_shell else 0.0
    warn_of_resolution(record.fsc, record.fsc_mask, job, min(settings.initial_low_pass, joined_A or np.inf))
    write_maps(record, job)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    empty = warn_of_empty(state.poses.presence, job.events)
    warn_of_lost(confidence, job.events)
    warn_of_cut(half_maps, record.fsc, job.events)
    change = compare_with_given(setup.particles, particles, setup.operators, job.events)
    axes = None if is_asymmetric(inputs) or not settings.align_to_symmetry else start_axes(inputs, settings)
    about_axes = "" if axes is None else in_words(axes, record)
    write_report(record, particles, state.history, confidence, (settings.initial_low_pass, joined_A), about_axes, outcome, job)
    return {
        **map_summary(particles, record),
        "iterations": len(state.history),
        "images_likelier_noise": empty,
        "pose_confidence": None if confidence is None else confidence.summary(),
        "symmetry_imposed": None if axes is None or setup.is_relaxed else gain(axes, record),
        "joined_below_A": round(joined_A, 4),
        "from_given_poses": change,
        "ewald_sphere": curved.summary(),
        "ctf": None if ctf is None else ctf.summary,
    }
