"""What a refinement found, told: each iteration, the particles with their poses, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from protomer.engine.confidence import Confidence
from protomer.engine.pose_table import PoseTable
from protomer.refinement.setup import Setup, State
from protomer.running.events import Events
from protomer.running.job_run import JobRun
from protomer.tables.particles import Particles

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
