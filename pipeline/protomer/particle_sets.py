"""Particle tables of several runs put together into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from protomer.errors import InputError
from protomer.particles import COLUMNS, OpticsGroup, Particles, Stack


def joined(sets: Sequence[Particles]) -> Particles:
    """All rows, in order. Stacks and optics groups that are the same are kept once; foreign columns where every set has them.

    Raises InputError where the same image is in two sets, where some have poses and some have none, or where symmetry copies differ.
    """
    require_joinable(sets)
    stacks: list[Stack] = []
    groups: list[OpticsGroup] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for each in sets:
        moved = {"stack": _places(each.stacks, stacks)[each.stack], "optics": _places(each.optics_groups, groups)[each.optics]}
        for name in COLUMNS:
            columns[name].append(moved.get(name, each.columns[name]))
    table = {name: np.concatenate(parts).astype(COLUMNS[name][0]) for name, parts in columns.items()}
    common = set.intersection(*(set(each.extra) for each in sets))
    extra = {name: np.concatenate([each.extra[name] for each in sets]) for name in sets[0].extra if name in common}
    return replace(sets[0], columns=table, optics_groups=tuple(groups), stacks=tuple(stacks), extra=extra)


def require_joinable(sets: Sequence[Particles]) -> None:
    """Raise InputError where tables cannot be one."""
    if len({each.has_poses for each in sets}) > 1:
        raise InputError("some of the particles have poses and some have none", "poses in all or in none", "refine those without first")
    first = sets[0].operators
    for each in sets[1:]:
        same = len(each.operators) == len(first) and np.allclose(each.operators.rotations, first.rotations, atol=1e-6) and np.allclose(
            each.operators.translations_A, first.translations_A, atol=1e-3)
        if not same:
            raise InputError("the particles are copies made by different operators", "one symmetry, about the same axes",
                             "join the particles before they are expanded")
    uids = [np.unique(each.by_image("image_uid")[0]) for each in sets]
    twice = sum(map(len, uids)) - len(np.unique(np.concatenate(uids)))
    if twice:
        raise InputError(f"{twice} images are in more than one set of particles", "each image in one set",
                         "leave them in one set only: an image that counts twice makes noise look like signal")


def _places(items: Sequence[Stack] | Sequence[OpticsGroup], known: list) -> np.ndarray:
    """The index of each item in the list of all that are known, which grows by those that are new."""
    for item in items:
        if item not in known:
            known.append(item)
    return np.array([known.index(item) for item in items] or [0])
