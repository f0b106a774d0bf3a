"""Classes found in some of the images before all are looked at: maps at low resolution need few, and every iteration over them is short."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.classes.classification import Classes, Mixture
from protomer.engine.pose_table import PoseTable
from protomer.randomness import uniform
from protomer.tables.particles import Particles

LEAST_GAIN = 2.0  # times as many images as are asked for: with fewer, all of them at once are as quick


def first_images(particles: Particles, classes: int, per_class: int | None, seed: int) -> np.ndarray | None:
    """Rows of the images to begin with, drawn at random, as many of each half-set in its own proportion; None where all are few enough."""
    if per_class is None or len(particles) < LEAST_GAIN * classes * per_class:
        return None
    chance = uniform(seed, particles.image_uid, "first images")
    return np.flatnonzero(chance < classes * per_class / len(particles))


def handed_on(classes: Classes, found: Mixture) -> Mixture:
    """The first state of all images, with the maps, noise, class sizes and band that some of them gave."""
    setup, number = classes.setup, len(classes.setup.particles)
    nothing, band = PoseTable.empty(number), replace(found.band, stalled=0)
    states = tuple(
        replace(state, band=band, poses=nothing, agreed=np.zeros(number, np.int64), scale=setup.particles.scale) for state in found.states
    )
    posterior = np.full((number, classes.number), 1.0 / classes.number)
    return Mixture(states, posterior, found.prior, found.decoys, -1, found.history)
