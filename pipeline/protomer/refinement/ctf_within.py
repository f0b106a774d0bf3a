"""CTFs refined within a refinement, in turn with poses: once these have settled, CTFs against the half maps that they give; then poses
settle again, and so on until CTFs stand still.

Poses first, since a CTF can only be told from images whose poses are known. More than once, since maps that were made under wrong CTFs
lack the very detail that tells CTFs best: each time the maps reach further, and so do they. What was found is kept beside the checkpoint,
so that a run that was stopped does not look for it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.ctf_refinement.loop import Found, refine_ctf
from protomer.ctf_refinement.passes import Engine
from protomer.ctf_refinement.reference import has_shells, in_mask, prepared
from protomer.ctf_refinement.report import group_rows, phase_change, summary_of
from protomer.ctf_refinement.start import engine_of, images_of, warn_of_few
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.declarations.refine import RefineSettings
from protomer.imaging.images import common_frame
from protomer.maps.volumes import Volume
from protomer.refinement.checkpoint import save, until_settled
from protomer.refinement.outcome import with_poses
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup, State, at_scales
from protomer.running.checkpoints import Checkpoint
from protomer.running.job_run import JobRun
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles
from protomer_kernels.ctf import electron_wavelength_A

CHECKPOINT = "checkpoint_ctf.h5"
COARSEST_A = 6.0  # beyond which the CTF hardly depends on what is refined
ROUNDS = 2
MOST_SEARCHES = 5
STILL_RAD = 0.1  # at the resolution of the half maps, of which 0.5 % would be lost: CTFs that change by less stand still
COLUMNS = ("defocus_u_A", "defocus_v_A", "defocus_angle_rad")
DEFOCUS = ("change_A", "told_A", "error_A")


@dataclass(frozen=True)
class CtfFound:
    """What the last of so many searches found, after so many iterations, and whether it changed too little for poses to settle anew:
    columns of the particles (COLUMNS), optics groups, a shift (n, 2) in pixels that all images of a group share, what is known of defoci
    (DEFOCUS, as in Found), and what summary and report say of it."""

    searches: int
    is_still: bool
    iterations: int
    columns: dict[str, np.ndarray]
    optics_groups: tuple[OpticsGroup, ...]
    moved_px: np.ndarray
    defocus: dict[str, np.ndarray]
    summary: dict[str, Any]
    rows: list[list[Any]]

    def applied(self, setup: Setup) -> Setup:
        """The setup with these CTFs; images are read anew where their odd aberrations changed."""
        before = setup.particles
        particles = replace(before.with_columns(**self.columns), optics_groups=self.optics_groups)
        held = {} if self.optics_groups != before.optics_groups else setup.store._held
        return replace(setup, particles=particles, store=replace(setup.store, particles=particles, _held=held))

    def reopened(self, state: State, job: JobRun) -> State:
        """The state from which poses settle again; as it is where that has begun."""
        if not (state.band.is_settled and len(state.history) == self.iterations):
            return state
        again = replace(self.shifted(state), band=replace(state.band, is_settled=False, stalled=0, best_resolved=0))
        save(again, job)
        return again

    def shifted(self, state: State) -> State:
        """The state with the shift that images share."""
        return replace(state, poses=replace(state.poses, shift_px=state.poses.shift_px + self.moved_px[:, None]))


def is_asked(settings: RefineSettings) -> bool:
    """Whether any CTF is to be refined."""
    return settings.defocus_refine or settings.aberration_refine


def settled_with_ctf(setup: Setup, state: State, settings: RefineSettings, job: JobRun) -> tuple[Setup, State, CtfFound | None]:
    """Poses until they settle and CTFs, in turn. None, with a warning, where the maps are too coarse for CTFs."""
    kept = job.checkpoint.beside(CHECKPOINT)
    found, now = loaded(kept, setup.particles), setup
    while True:
        if found is not None:
            now = found.applied(now)
            if found.is_still:
                return now, until_settled(now, found.shifted(state), settings.extra_passes, job), found
            state = found.reopened(state, job)
        state = until_settled(now, state, 0, job)
        further = search(now, state, found, setup.particles, settings, job)
        if further is None:
            return now, until_settled(now, state, settings.extra_passes, job), found
        found = further
        keep(kept, found)


def search(
    setup: Setup, state: State, earlier: CtfFound | None, first: Particles, settings: RefineSettings, job: JobRun
) -> CtfFound | None:
    """Refine CTFs against the half maps of the poses as they are; first: the particles with CTFs as they were in the beginning. None where
    they cannot be, or were refined often enough."""
    if earlier is not None and earlier.searches >= MOST_SEARCHES:
        return None
    scaled, pixel_A = at_scales(setup, state), setup.pixel_size_A
    halves, _ = reconstruct_halves(scaled, state.model.noise, state.counted_poses, setup.operators)
    half_maps = halves.map(lambda data: Volume(data, pixel_A))
    (mask, fsc), wanted = in_mask(half_maps, None, ""), ctf_settings(settings)
    finest_A = fsc.resolution_A_at("corrected")
    if not (finest_A <= COARSEST_A and has_shells(fsc.box * pixel_A, wanted.min_resolution, finest_A)):
        if earlier is None:
            job.events.warn("ctf_kept", f"the half maps agree to {finest_A:.1f} Å only, where the CTF hardly depends on what is refined: "
                            f"defocus and aberrations are kept as they were; from {COARSEST_A:g} Å on they are refined")
        return None
    particles = with_poses(scaled.particles, state.poses, pixel_A, {})
    images, begin = images_of(particles), Found.nothing(particles)
    if earlier is None:
        warn_of_few(particles, images, wanted, job)
    else:
        change_A, told_A, error_A = (earlier.defocus[name] for name in DEFOCUS)
        begin = replace(begin, change_A=change_A, told_A=told_A, error_A=error_A)
    given = prepared(particles, half_maps, mask, fsc, wanted)
    engine = engine_of(given, wanted, setup.store, setup.batches, setup.numbers, job)
    found = refine_ctf(engine, begin, wanted, images)
    is_still = earlier is not None and turned_by(begin, found, engine, finest_A) < STILL_RAD
    shift_px, searches = (found.particles.shift_A - particles.shift_A) / pixel_A, 1 if earlier is None else earlier.searches + 1
    return CtfFound(searches, is_still, len(state.history), {name: found.particles.columns[name] for name in COLUMNS},
                    found.particles.optics_groups, shift_px, {name: getattr(found, name) for name in DEFOCUS},
                    summary_of(first, found, given.finest_A, wanted) | {"searches": searches},
                    [list(row) for row in group_rows(first, found)])


def ctf_settings(settings: RefineSettings) -> CtfRefineSettings:
    """What ctf-refine is asked."""
    aberrations = settings.aberration_refine
    return CtfRefineSettings(defocus=settings.defocus_refine, beam_tilt=aberrations, trefoil=aberrations, rounds=ROUNDS)


def turned_by(begin: Found, found: Found, engine: Engine, resolution_A: float) -> float:
    """Root mean square phase (rad) at a resolution by which a search changed the CTFs of all images, or of an optics group: the most."""
    before, after, plane = begin.particles, found.particles, engine.band.plane
    box, pixel_A = common_frame(after)
    wavelength_A = np.array([float(electron_wavelength_A(group.voltage_V)) for group in after.optics_groups])[after.optics]
    phase = np.pi * wavelength_A / resolution_A**2 * (found.change_A - begin.change_A)
    most = float(np.sqrt(np.mean(phase**2)))
    there = plane.shell == min(round(box * pixel_A / resolution_A), engine.band.radius)
    for old, new in zip(before.optics_groups, after.optics_groups, strict=True):
        turned = phase_change(old, new, replace(engine.band, length=len(plane)))[there]
        most = max(most, float(np.sqrt(np.mean(turned**2))))
    return most


def keep(checkpoint: Checkpoint, found: CtfFound) -> None:
    """Write it beside the checkpoint."""
    groups = [[group.beam_tilt_rad, group.odd_zernike] for group in found.optics_groups]
    words = json.dumps({"groups": groups, "summary": found.summary, "rows": found.rows})
    checkpoint.save({**found.columns, **found.defocus, "moved_px": found.moved_px, "iterations": found.iterations,
                     "searches": found.searches, "is_still": found.is_still, "words": words})


def loaded(checkpoint: Checkpoint, particles: Particles) -> CtfFound | None:
    """What was kept, if there is any."""
    saved = checkpoint.load()
    if saved is None:
        return None
    words = json.loads(saved["words"])
    groups = tuple(replace(group, beam_tilt_rad=(tilt[0], tilt[1]), odd_zernike=tuple(odd))
                   for group, (tilt, odd) in zip(particles.optics_groups, words["groups"], strict=True))
    columns, defocus = ({name: saved[name] for name in names} for names in (COLUMNS, DEFOCUS))
    return CtfFound(int(saved["searches"]), bool(saved["is_still"]), int(saved["iterations"]), columns, groups, saved["moved_px"], defocus,
                    words["summary"], words["rows"])
