"""Particle tables of several runs put together into one, each image once and all with poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.tables.particle_join import join
from protomer.tables.particles import Particles


def joined(sets: Sequence[Particles]) -> Particles:
    """All rows, in order (particle_join.join); foreign columns where every set has them.

    Raises InputError where the same image is in two sets, where some have poses and some have none, and as join does.
    """
    require_joinable(sets)
    common = set.intersection(*(set(each.extra) for each in sets))
    alike = [replace(each, extra={name: values for name, values in each.extra.items() if name in common}) for each in sets]
    return join(alike, [Path(f"class_{number}") for number in range(1, len(sets) + 1)], "refuse").particles


def require_joinable(sets: Sequence[Particles]) -> None:
    """Raise InputError where tables of moved particles cannot be one."""
    if len({each.has_poses for each in sets}) > 1:
        raise InputError("some of the particles have poses and some have none", "poses in all or in none", "refine those without first")
    uids = [np.unique(each.by_image("image_uid")[0]) for each in sets]
    twice = sum(map(len, uids)) - len(np.unique(np.concatenate(uids)))
    if twice:
        raise InputError(f"{twice} images are in more than one set of particles", "each image in one set",
                         "leave them in one set only: an image that counts twice makes noise look like signal")
