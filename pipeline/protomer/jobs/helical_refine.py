"""helical-refine: the loop of refine with a helical lattice, imposed on references and refined from maps without it (Egelman 2000; He and
Scheres 2017)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.engine.confidence import Confidence
from protomer.engine.filaments import filament_grid
from protomer.engine.rehearsal import rehearse
from protomer.engine.schedule import GRID_RADII
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.helical.asked import filaments_of, lattice_of, ranges, require_filaments, require_possible
from protomer.helical.lattice import MOST_FIRST_SHELL, Lattice, Winding
from protomer.helical.outcome import Found, central_mask, helix_settings, warn_of_lattice
from protomer.helical.report import write_report
from protomer.helical.start import first_lattice, first_reference, radius_of, start_volume
from protomer.helical.start_lattice import StartLattice, warn_of_starts
from protomer.helical.starts import are_tried, starts_of, with_starts
from protomer.helical.trials import CHECKPOINT, prepare_trial, try_all
from protomer.imaging.images import common_frame
from protomer.jobs.refine import load_particles, prepare
from protomer.maps.finishing import map_summary, measure_maps, warn_of_resolution, write_maps
from protomer.maps.volumes import Halves, Volume
from protomer.refinement.checkpoint import resume, until_settled
from protomer.refinement.outcome import posed, warn_of_empty, warn_of_lost
from protomer.refinement.plan import Grid
from protomer.refinement.plan import plan as plan_of_refine
from protomer.refinement.preparing import surveyed
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup, State, at_scales
from protomer.refinement.start import begin
from protomer.running.events import Events
from protomer.running.job_run import Inputs, JobRun, Plan
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import Particles


def run(inputs: Inputs, settings: HelicalRefineSettings, job: JobRun) -> dict[str, Any]:
    """Load, iterate until settled, reconstruct with and without the lattice, measure, save."""
    particles = load_particles(inputs, settings, job)
    require_filaments(particles)
    box, pixel_A = common_frame(particles)
    lattice, start = lattice_of(settings, box * pixel_A, job.events), start_volume(inputs, box, pixel_A)
    winding = winding_of(inputs, settings, lattice, box * pixel_A, radius_of(settings, start))
    prepared = prepare(particles, settings, job, inputs, grid_of(particles, settings, winding, lattice, start is not None))
    setup = replace(prepared, winding=winding, filaments=filaments_of(particles, settings))
    setup, noise = surveyed(setup)
    tried = try_start_lattices(setup, settings, lattice, start, job) if are_tried(settings, start is not None) else None
    state = resume(setup, job)
    if state is None:
        told = first_lattice(start, lattice, winding, settings, job.events) if tried is None else tried.lattice
        reference = first_reference(setup, start, told, settings) if tried is None else tried.reference(setup, settings)
        state = begin(setup, reference, noise, settings, told)
    state = until_settled(setup, state, settings.extra_passes, job)
    setup = at_scales(setup, state)
    confidence = rehearse(setup, state) if settings.rehearse else None
    plain = reconstruct_halves(setup, state.model.noise, state.counted_poses, setup.operators)
    summary = finish(setup, state, plain, confidence, (inputs, settings, lattice, tried), job)
    job.checkpoint.beside(CHECKPOINT).remove()
    return summary


def try_start_lattices(
    setup: Setup, settings: HelicalRefineSettings, lattice: Lattice, start: Volume | None, job: JobRun
) -> StartLattice:
    """The best of several lattices about the given one, each tried on a few images."""
    trial = prepare_trial(setup, settings, lattice, start)
    found = StartLattice.of(trial, try_all(trial, job))
    job.events.event("start_lattice", twist_deg=round(found.lattice.twist_deg, 4), rise_A=round(found.lattice.rise_A, 4),
                     log_odds=round(found.ends[0].score, 4), tried=len(found.starts))
    assert setup.winding is not None
    warn_of_starts(found, {"twist": setup.winding.twist_deg, "rise": setup.winding.rise_A}, job.events)
    return found


def winding_of(inputs: Inputs, settings: HelicalRefineSettings, lattice: Lattice, width_A: float, radius_A: float) -> Winding:
    """How the lattice is imposed and refined. Raises SettingsError."""
    group = OperatorSet.of_group(inputs.symmetry, inputs.axes)
    require_possible(settings, group, width_A)
    cyclic = int(np.sum(group.rotations[:, 2, 2] > 0))
    return Winding(*ranges(settings, lattice, width_A), settings.central_fraction, radius_A, settings.inner_diameter / 2,
                   settings.refine_lattice, cyclic)


def grid_of(particles: Particles, settings: HelicalRefineSettings, winding: Winding, lattice: Lattice, has_volume: bool) -> Grid:
    """Rotations and radius of the densest search, which depends on the lattice: where many are tried, of any of them."""
    box, pixel_A = common_frame(particles)
    shell = MOST_FIRST_SHELL if are_tried(settings, has_volume) else winding.first_shell(lattice, box * pixel_A)
    radius = max(GRID_RADII[-1], shell)
    return len(filament_grid(1.0 / radius, filaments_of(particles, settings).tilt_extent_rad)), radius


def finish(
    setup: Setup,
    state: State,
    plain: tuple[Halves[np.ndarray], np.ndarray],
    confidence: Confidence | None,
    asked: tuple[Inputs, HelicalRefineSettings, Lattice, StartLattice | None],
    job: JobRun,
) -> dict[str, Any]:
    """Impose the lattice on the final maps, measure them in the central part, write everything (rank 0), and say how it went.

    plain: half maps, and the map of both, without the lattice. asked: with the lattice given, and what trying others found."""
    inputs, settings, first, tried = asked
    particles = posed(setup, state, confidence, job)
    if not job.team.is_first:
        return {}
    assert setup.winding is not None and state.lattice is not None
    pixel_A = setup.pixel_size_A
    half_maps = plain[0].map(lambda data: Volume(setup.wound(data, state.lattice), pixel_A))
    both = Volume(setup.wound(plain[1], state.lattice), pixel_A)
    record = measure_maps(half_maps, both, *central_mask(setup), inputs.symmetry, None, job, setup.non_uniform)
    assert record.fsc is not None
    found = Found.of(setup.winding, plain[0].map(lambda data: Volume(data, pixel_A)), record.fsc, state, first)
    joined_A = record.fsc.box * record.fsc.voxel_size_A / setup.join_shell if setup.join_shell else 0.0
    start_A = settings.initial_low_pass if tried is None else tried.shared_A
    warn_of_resolution(record.fsc, record.fsc_mask, job, min(start_A, joined_A or np.inf))
    warn_of_lattice(found, setup, state, job.events)
    write_maps(record, job)
    with job.output.writing("particles.h5") as path:
        write_particles(path, particles)
    job.output.write_text("helix.yaml", helix_settings(found, setup))
    empty = warn_of_empty(state.poses.presence, job.events)
    warn_of_lost(confidence, job.events)
    write_report(record, particles, (found, tried), (setup, state), confidence, (start_A, joined_A), job)
    return {**map_summary(particles, record), "iterations": len(state.history), "images_likelier_noise": empty,
            "pose_confidence": None if confidence is None else confidence.summary(), "joined_below_A": round(joined_A, 4),
            "start_lattices": None if tried is None else tried.summary(), **found.summary(setup)}


def plan(inputs: Inputs, settings: HelicalRefineSettings, ranks: int, threads: int) -> Plan:
    """As for refine, with what is asked checked, and how many subunits each image counts for."""
    particles: Particles = read_particles(inputs.particles)
    require_filaments(particles)
    box, pixel_A = common_frame(particles)
    box, pixel_A = settings.box or box, pixel_A * box / (settings.box or box)
    width_A = box * pixel_A
    lattice = lattice_of(settings, width_A, Events(None))
    start = start_volume(inputs, box, pixel_A)
    winding = winding_of(inputs, settings, lattice, width_A, radius_of(settings, start))
    said = plan_of_refine(inputs, settings, ranks, threads, grid_of(particles, settings, winding, lattice, start is not None))
    if are_tried(settings, start is not None):
        said = with_starts(said, settings, starts_of(settings, winding, lattice, width_A), len(particles), ranks * threads)
    units = winding.units_per_image(lattice, width_A)
    filaments = len(set(zip(particles.micrograph.tolist(), particles.filament.tolist(), strict=True)))
    return replace(said, notes=(f"{len(particles)} segments of {filaments} filaments, each of about {units} asymmetric units in the "
                                f"central {settings.central_fraction:g} of the box; references in a cylinder of "
                                f"{2 * winding.radius_A:.4g} Å",
                                *said.notes))
