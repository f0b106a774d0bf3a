"""What a refinement found, told: each iteration, the particles with their poses, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.engine.confidence import Confidence
from protomer.engine.maximisation import solid_sphere
from protomer.engine.pose_table import PoseTable
from protomer.maps.resolution import FscSet
from protomer.maps.volumes import Halves, Volume
from protomer.refinement.setup import MASK_FRACTION, Setup, State
from protomer.running.events import Events
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import sphere_mask

MUCH_CUT, CUT_SIGMAS = 0.008, 4.0  # share of the density outside the references' sphere, and over its error, from which it is told
COARSEST_SHELL = 4  # below which a map has no edge to speak of
MANY_EMPTY = 0.05
MANY_LOST = 0.3


def report_iteration(state: State, setup: Setup, job: JobRun, told_as: str) -> None:
    """One line in the log."""
    last = state.history[-1]
    width_A = setup.store.plane.box * setup.pixel_size_A
    job.events.event(
        told_as,
        number=last["iteration"],
        resolution_A=round(width_A / max(last["resolved_shell"], 1), 3),
        alignment_A=round(width_A / last["alignment_radius"], 3),
        median_turn_deg=round(last["median_turn_deg"], 4),
        mean_top_weight=round(last["mean_top_weight"], 4),
        searched=last["searched"],
        **({} if state.lattice is None else {"twist_deg": round(state.lattice.twist_deg, 4), "rise_A": round(state.lattice.rise_A, 4)}),
    )


def warn_of_empty(presence: np.ndarray, events: Events) -> int:
    """How many images are likelier noise alone than the particle at any pose; a warning where they are many."""
    empty = int(np.sum(presence < 0.5))
    if empty > MANY_EMPTY * len(presence):
        events.warn(
            "empty_images",
            f"{empty} of {len(presence)} images ({100 * empty / len(presence):.0f} %) are likelier noise alone than the particle at any "
            "pose: junk, or too noisy to tell (class_posterior below 0.5 in particles.h5)",
        )
    return empty


def warn_of_lost(confidence: Confidence | None, events: Events) -> None:
    """A warning where many of the images whose poses were known were not found at them."""
    if confidence is not None and confidence.lost > MANY_LOST:
        events.warn(
            "poses_lost",
            f"of {confidence.images} images made from the refined map, {100 * confidence.lost:.0f} % were found more than 10° from their "
            "pose: as many of the real ones may be, and the map holds them (pose_posterior in particles.h5)",
        )


def share_cut(half_maps: Halves[Volume], shell: int) -> tuple[float, float]:
    """How much of the power that half maps share up to a shell lies outside the sphere in which references are held, and its error:

    1 - sum m^2 a b / sum a b in the sphere inscribed in the box, m being the references' sphere. Noise adds nothing in the mean.
    """
    a, b = (low_pass(half.data, shell, 2.0) for half in (half_maps.a, half_maps.b))
    box = len(a)
    both = a * b * sphere_mask(box, 0.5 * box - 1, 0.0)
    outside = both * (1.0 - solid_sphere(box, MASK_FRACTION) ** 2)
    total = float(both.sum(dtype=np.float64))
    return float(outside.sum(dtype=np.float64)) / total, float(np.sqrt((outside.astype(np.float64) ** 2).sum())) / abs(total)


def warn_of_cut(half_maps: Halves[Volume], fsc: FscSet, events: Events) -> None:
    """A warning where the particle is too large for the sphere in which references are held (engine/frame.py says what that does)."""
    shell = int(fsc.shell_at("spherical", 0.5))
    if shell < COARSEST_SHELL:
        return
    share, error = share_cut(half_maps, shell)
    if share > max(MUCH_CUT, CUT_SIGMAS * error):
        events.warn(
            "particle_cut",
            f"{100 * share:.1f} % of the density that the half maps share lies outside the sphere in which references are held, whose "
            f"radius is {MASK_FRACTION:g} of the box: poses are found without it, and it pushes the map a little away from where the "
            "start volume lay in each iteration; extract the particles in a box of 1.5 times their longest diameter",
        )


def posed(setup: Setup, state: State, confidence: Confidence | None, job: JobRun) -> Particles:
    """The particles with the poses found, and how far these may be believed."""
    weight = state.poses.weight[:, 0]
    factor = np.ones(len(weight)) if confidence is None else confidence.covariance_factor(weight)
    stated = replace(state.poses, covariance=state.poses.covariance * factor[:, None])
    posed = with_poses(setup.particles, stated, setup.pixel_size_A, job.provenance)
    return posed.with_columns(
        pose_posterior=weight if confidence is None else confidence.posterior(weight),
        class_posterior=state.poses.presence,
    )


def with_poses(particles: Particles, poses: PoseTable, pixel_A: float, provenance: Mapping[str, Any]) -> Particles:
    """The particles with the heaviest mode of their poses: pixel_A is of the pixels in which these have shifts."""
    unit = np.array([1.0, 1.0, 1.0, pixel_A, pixel_A])
    scale = np.array([unit[p] * unit[q] for p in range(5) for q in range(p + 1)])
    posed = particles.with_columns(
        rotation=poses.rotation[:, 0],
        shift_A=poses.shift_px[:, 0] * pixel_A,
        log_likelihood=poses.log_likelihood,
        pose_covariance=poses.covariance * scale,
        pose_posterior=poses.weight[:, 0],
    )
    return replace(posed, has_poses=True, provenance=dict(provenance))
