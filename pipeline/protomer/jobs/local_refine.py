"""local-refine: expectation-maximisation of one part of the particle, near given poses (the loop of refine, with a local E-step)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.local_refine import LocalRefineSettings
from protomer.engine.alignment import IDENTITY
from protomer.engine.local_alignment import Local
from protomer.engine.pose_table import at_heaviest_mode
from protomer.engine.rehearsal import rehearse
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.imaging.images import common_frame
from protomer.local.begin import begin, maps_of_halves, start_fits
from protomer.local.pose_changes import PoseChanges
from protomer.local.report import write_report
from protomer.local.rest import rest_of
from protomer.local.start import in_mask, local_of, mask_in_box, others, part_of, split_anew
from protomer.local.trust import Trust, rounded, warn_of_pull
from protomer.maps.finishing import map_summary, measure_maps, warn_of_resolution, write_maps
from protomer.maps.fsc_curves import FscSet
from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import MapRecord, Volume
from protomer.refinement.checkpoint import resume, until_settled
from protomer.refinement.loop import in_given_frame
from protomer.refinement.noise_control import control_shell, run_control
from protomer.refinement.outcome import posed
from protomer.refinement.plan import work_of
from protomer.refinement.preparing import common_setup, surveyed
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Masking, Setup, State, at_scales
from protomer.running.batches import folded_batches, share_of_batches
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.subtraction.table import is_subtracted
from protomer.symmetry.point_groups import operators
from protomer.tables.half_sets import require_two_halves, warn_of_small_halves
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius

ALIGNMENT_FSC = 0.5
SECONDS_PER_COEFFICIENT = 1e-6


def run(inputs: Inputs, settings: LocalRefineSettings, job: JobRun) -> dict[str, Any]:
    """Load, iterate until settled, reconstruct, measure, control, save."""
    particles = load_particles(inputs, settings, job)
    record, (box, pixel_A) = read_map_record(inputs.volume), common_frame(particles)
    mask = mask_in_box(read_volume(inputs.mask), inputs.mask.name, box, pixel_A, job.events)
    beside = {name: in_mask(record, mask, inputs.mask.name, job.seed) for name, record in others(inputs.beside or ()).items()}
    setup, noise = surveyed(prepare(particles, local_of(particles, settings, mask), mask, inputs, settings, job))
    if settings.resplit:
        record = maps_of_halves(setup, noise, record, mask)
    if (settings.rehearse or settings.subtract_on_the_fly) and setup.local is not None and not is_subtracted(particles):
        setup = replace(setup, local=replace(setup.local, rest=rest_of(record, mask, settings, setup.arithmetic, job.events)))
    start = begin(setup, part_of(record, mask, settings.initial_low_pass), noise, settings)
    state = resume(setup, job)
    if state is None:
        start_fits(setup, start, record)
    state = until_settled(setup, state or start, settings.extra_passes, job)
    return finish(setup, (start, state), (record, mask), beside, inputs, settings, job)


def load_particles(inputs: Inputs, settings: LocalRefineSettings, job: JobRun) -> Particles:
    """Particles with poses and halves. Raises InputError, SettingsError."""
    particles = read_particles(inputs.particles)
    if not particles.has_poses:
        raise InputError(f"the particles of {inputs.particles} have no poses", "particles of a refinement", "refine them first")
    require_two_halves(particles.half)
    is_symmetric = len(operators(inputs.symmetry, inputs.axes)) > 1
    if particles.is_expanded and is_symmetric:
        raise SettingsError(f"--symmetry {inputs.symmetry} for symmetry-expanded particles", "C1: the copies stand for the symmetry",
                            "leave --symmetry out, or give the particles before their expansion")
    if settings.relaxation != "none" and not is_symmetric:
        raise SettingsError(f"relaxation is {settings.relaxation} and the symmetry {inputs.symmetry}", "a group to relax",
                            "give --symmetry, such as C2, or leave relaxation none")
    if settings.relaxation != "none" and settings.subtract_on_the_fly:
        raise SettingsError("relaxation and subtract_on_the_fly are both set", "one of them: what is the rest differs from mate to mate",
                            "expand the particles (symmetry-expand): each copy has its own rest")
    if settings.dynamic_mask_near >= settings.dynamic_mask_far:
        raise SettingsError(f"dynamic_mask_near {settings.dynamic_mask_near:g} and dynamic_mask_far {settings.dynamic_mask_far:g}",
                            "near below far", "leave them at their defaults, or give both")
    if settings.subtract_on_the_fly and is_subtracted(particles):
        raise SettingsError("subtract_on_the_fly is on and the images are subtracted", "one subtraction", "leave subtract_on_the_fly off")
    if settings.particle_scale and not (settings.subtract_on_the_fly or is_subtracted(particles)):
        job.events.warn("scale_with_rest", "particle_scale compares images with the part alone: where the rest lies over it, scales rise "
                        "with the view; subtract the rest (subtract_on_the_fly), or leave particle_scale off")
    warn_of_small_halves(particles.half, job.events)
    return split_anew(particles, job.seed, job.events) if settings.resplit else particles


def prepare(particles: Particles, local: Local, mask: Volume, inputs: Inputs, settings: LocalRefineSettings, job: JobRun) -> Setup:
    """What stays the same during the run."""
    batches = folded_batches(particles, settings.cross_fit_folds, largest_radius(mask.box), job.seed)
    numbers = share_of_batches(len(batches), job.team.rank, job.team.size)
    work = replace(work_of(settings.half_precision, batches, numbers, mask.box, job.threads), has_rest=True)
    group, is_relaxed = operators(inputs.symmetry, inputs.axes), settings.relaxation != "none"
    return replace(
        common_setup(particles, batches, work, work.refinement_bytes, job),
        operators=IDENTITY if is_relaxed else group,
        mates=group if is_relaxed else IDENTITY,
        shift_extent_px=float(local.extent[1]),
        marginalise=settings.marginalise or is_relaxed,
        masking=Masking.of(settings, settings.initial_low_pass, mask.data),
        local=local,
        alignment_fsc=ALIGNMENT_FSC,
        particle_scale=settings.particle_scale,
        non_uniform=NonUniform.of(settings),
    )


def finish(
    setup: Setup,
    states: tuple[State, State],
    given: tuple[MapRecord, Volume],
    beside: Mapping[str, FscSet],
    inputs: Inputs,
    settings: LocalRefineSettings,
    job: JobRun,
) -> dict[str, Any]:
    """Reconstruct, measure the maps in the mask, ask whether they are to be believed, write everything (rank 0).

    states: first and last; given: the map and the mask; beside: FSC in the mask of other refinements.
    """
    (start, state), (before, mask), start_setup, setup = states, given, setup, at_scales(setup, states[1])
    confidence = rehearse(setup, state) if settings.rehearse else None
    state = in_given_frame(setup, state)
    counted = at_heaviest_mode(state.poses) if settings.relaxation == "maximise" else state.poses
    half_maps, together = reconstruct_halves(setup, state.model.noise, counted, setup.operators)
    volumes = half_maps.map(lambda data: Volume(data, setup.pixel_size_A)), Volume(together, setup.pixel_size_A)
    symmetry = "C1" if setup.is_relaxed else inputs.symmetry
    record = replace(measure_maps(*volumes, mask, inputs.mask.name, symmetry, None, job, setup.non_uniform), refinement_mask=mask)
    assert record.fsc is not None and setup.local is not None
    control = None
    if settings.noise_control and control_shell(record.fsc):
        control = run_control(start_setup, start, (record.fsc, mask), settings.extra_passes, settings.relaxation == "maximise", job)
    particles = replace(posed(setup, state, confidence, job), operators=setup.particles.operators)
    particles = particles.with_columns(class_posterior=setup.particles.class_posterior)  # near given poses nothing is told from noise
    changes = PoseChanges.between(setup.particles, particles, setup, confidence)
    if not job.team.is_first:
        return {}
    warn_of_resolution(record.fsc, mask, job, np.inf)
    fscs = record.fsc, in_mask(before, mask, inputs.mask.name, job.seed)
    trust = Trust.judge(changes, particles, fscs, mask, (settings.noise_control, control), job.events)
    pull = state.history[-1]["frame_move_A"], state.history[-1]["frame_turn_deg"]
    shows_rest = not (settings.subtract_on_the_fly or is_subtracted(setup.particles))
    warn_of_pull(*pull, record.fsc.resolution_A_at("corrected"), shows_rest, job.events)
    write_maps(record, job)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    write_report((before, record), particles, trust, beside, state.history, job)
    said = map_summary(particles, record)
    if trust.withheld:
        said["resolution_A"] = {**said["resolution_A"], "corrected": None}
    return {**said, "iterations": len(state.history), **changes.summary(), **trust.summary(),
            "pull_of_an_iteration": dict(zip(("move_A", "turn_deg"), (round(part, 4) for part in pull), strict=True)),
            "beside_A": {name: rounded(fsc.resolution_A_at("corrected")) for name, fsc in beside.items()}}


def plan(inputs: Inputs, settings: LocalRefineSettings, ranks: int, threads: int) -> Plan:
    """Memory of the rank that needs most; time from the number of images, at measured rates."""
    particles = read_particles(inputs.particles)
    box, _ = common_frame(particles)
    radius = largest_radius(box)
    batches = folded_batches(particles, settings.cross_fit_folds, radius, settings.seed)
    works = [work_of(settings.half_precision, batches, share_of_batches(len(batches), rank, ranks), box, threads) for rank in range(ranks)]
    works = [replace(work, has_rest=True) for work in works]
    most = max(works, key=lambda work: work.image_bytes + work.refinement_bytes)
    runs = 2 if settings.noise_control else 1
    return Plan(most.image_bytes + most.refinement_bytes, 40 * box**3 + 2000 * len(particles),
                15 + runs * len(particles) * len(HalfPlane(box, radius)) * SECONDS_PER_COEFFICIENT * 5 / (ranks * threads),
                scratch_bytes=most.image_bytes, device_bytes=most.device_bytes)
