"""CTFs refined within a refinement: once poses have settled, against the half maps that they give; poses then settle again.

Poses first, since a CTF can only be told from images whose poses are known. What was found is kept beside the checkpoint, so that a run
that was stopped does not look for it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protomer.ctf_refinement.loop import Found, refine_ctf
from protomer.ctf_refinement.report import group_rows, summary_of
from protomer.ctf_refinement.start import engine_of, has_shells, images_of, warn_of_few, weighted
from protomer.declarations.ctf_refine import CtfRefineSettings
from protomer.declarations.refine import RefineSettings
from protomer.maps.resolution import measure_fsc
from protomer.maps.volumes import Volume
from protomer.refinement.checkpoint import save, until_settled
from protomer.refinement.outcome import with_poses
from protomer.refinement.reconstruction import reconstruct_halves
from protomer.refinement.setup import Setup, State, at_scales
from protomer.running.checkpoints import Checkpoint
from protomer.running.job_run import JobRun
from protomer.tables.particles import OpticsGroup, Particles

CHECKPOINT = "checkpoint_ctf.h5"
COARSEST_A = 6.0  # beyond which the CTF hardly depends on what is refined
ROUNDS = 2
COLUMNS = ("defocus_u_A", "defocus_v_A", "defocus_angle_rad")


@dataclass(frozen=True)
class CtfFound:
    """What was found, after so many iterations: columns of the particles (COLUMNS), optics groups, a shift (n, 2) in pixels that all images
    of a group share, and what summary and report say of it."""

    iterations: int
    columns: dict[str, np.ndarray]
    optics_groups: tuple[OpticsGroup, ...]
    moved_px: np.ndarray
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
        shifted = replace(state.poses, shift_px=state.poses.shift_px + self.moved_px[:, None])
        again = replace(state, band=replace(state.band, is_settled=False, stalled=0, best_resolved=0), poses=shifted)
        save(again, job)
        return again


def is_asked(settings: RefineSettings) -> bool:
    """Whether any CTF is to be refined."""
    return settings.defocus_refine or settings.aberration_refine


def settled_with_ctf(setup: Setup, state: State, settings: RefineSettings, job: JobRun) -> tuple[Setup, State, CtfFound | None]:
    """Poses until they settle, CTFs, and poses until they settle again. None, with a warning, where the maps are too coarse for CTFs."""
    kept = job.checkpoint.beside(CHECKPOINT)
    found = loaded(kept, setup.particles)
    if found is None:
        state = until_settled(setup, state, 0, job)
        found = search(setup, state, settings, job)
        if found is None:
            return setup, until_settled(setup, state, settings.extra_passes, job), None
        keep(kept, found)
    setup = found.applied(setup)
    state = until_settled(setup, found.reopened(state, job), settings.extra_passes, job)
    return setup, state, found


def search(setup: Setup, state: State, settings: RefineSettings, job: JobRun) -> CtfFound | None:
    """Refine CTFs against the half maps of the poses as they are."""
    scaled, pixel_A = at_scales(setup, state), setup.pixel_size_A
    halves, _ = reconstruct_halves(scaled, state.model.noise, state.counted_poses, setup.operators)
    half_maps = halves.map(lambda data: Volume(data, pixel_A))
    fsc, wanted = measure_fsc(half_maps, None, ""), ctf_settings(settings)
    finest_A = fsc.resolution_A_at("corrected")
    if not (finest_A <= COARSEST_A and has_shells(fsc.box * pixel_A, wanted.min_resolution, finest_A)):
        job.events.warn("ctf_kept", f"the half maps agree to {finest_A:.1f} Å only, where the CTF hardly depends on what is refined: "
                        f"defocus and aberrations are kept as they were; from {COARSEST_A:g} Å on they are refined")
        return None
    particles = with_poses(scaled.particles, state.poses, pixel_A, {})
    images = images_of(particles)
    warn_of_few(particles, images, wanted, job)
    engine = engine_of(weighted(particles, half_maps, None, fsc, wanted), wanted, setup.store, setup.batches, setup.numbers, job)
    return told(particles, refine_ctf(engine, particles, wanted, images), state, pixel_A, wanted, finest_A)


def ctf_settings(settings: RefineSettings) -> CtfRefineSettings:
    """What ctf-refine is asked."""
    aberrations = settings.aberration_refine
    return CtfRefineSettings(defocus=settings.defocus_refine, beam_tilt=aberrations, trefoil=aberrations, rounds=ROUNDS)


def told(before: Particles, found: Found, state: State, pixel_A: float, settings: CtfRefineSettings, finest_A: float) -> CtfFound:
    """What is kept of it."""
    after = found.particles
    return CtfFound(len(state.history), {name: after.columns[name] for name in COLUMNS}, after.optics_groups,
                    (after.shift_A - before.shift_A) / pixel_A, summary_of(before, found, finest_A, settings),
                    [list(row) for row in group_rows(before, found)])


def keep(checkpoint: Checkpoint, found: CtfFound) -> None:
    """Write it beside the checkpoint."""
    groups = [[group.beam_tilt_rad, group.odd_zernike] for group in found.optics_groups]
    words = json.dumps({"groups": groups, "summary": found.summary, "rows": found.rows})
    checkpoint.save({**found.columns, "moved_px": found.moved_px, "iterations": found.iterations, "words": words})


def loaded(checkpoint: Checkpoint, particles: Particles) -> CtfFound | None:
    """What was kept, if there is any."""
    saved = checkpoint.load()
    if saved is None:
        return None
    words = json.loads(saved["words"])
    groups = tuple(replace(group, beam_tilt_rad=(tilt[0], tilt[1]), odd_zernike=tuple(odd))
                   for group, (tilt, odd) in zip(particles.optics_groups, words["groups"], strict=True))
    return CtfFound(int(saved["iterations"]), {name: saved[name] for name in COLUMNS}, groups, saved["moved_px"], words["summary"],
                    words["rows"])
