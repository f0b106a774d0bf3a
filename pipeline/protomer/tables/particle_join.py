"""Particle tables joined to one: stacks, optics groups and columns united, rows of the same image and copy found.

Nothing changes its half-set. What cannot stand in one table is refused: images whose half differs, copies beside images, copies of other
operators, subtracted images beside whole ones, another file of the same name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.subtraction.table import BEFORE, is_subtracted
from protomer.tables.joined_columns import filled, joined_columns, joined_table, with_images_once
from protomer.tables.optics import OpticsGroup
from protomer.tables.particle_matching import is_of_copies, row_keys
from protomer.tables.particles import Particles, Stack
from protomer.tables.shared_columns import SharedColumns

SAME_OPERATOR = 1e-6  # of the entries of rotation matrices
SAME_MOVE_A = 1e-3


@dataclass(frozen=True)
class Joined:
    """dropped: rows that each set lost as duplicates. renamed: optics groups that got another name, as 'old in SET: new'. filled: columns
    that some set lacked, with what was put there."""

    particles: Particles
    dropped: tuple[int, ...]
    renamed: tuple[str, ...]
    filled: Mapping[str, str]


def join(tables: Sequence[Particles], names: Sequence[Path], duplicates: str) -> Joined:
    """The tables one after the other. names: how errors call them. Raises InputError where they cannot be joined."""
    require_of_one_kind(tables, names)
    require_same_operators(tables, names)
    require_same_halves(tables, names)
    kept = kept_rows(tables, names, duplicates)
    groups, group_maps, renamed = united_optics(tables, names)
    stacks, stack_maps = united_stacks(tables, names)
    parts = [table if rows.all() else table.take(np.flatnonzero(rows)) for table, rows in zip(tables, kept, strict=True)]
    extra, said = filled(parts)
    columns = [mapped(mapped(part.columns, "optics", group_map), "stack", stack_map)
               for part, group_map, stack_map in zip(parts, group_maps, stack_maps, strict=True)]
    united = joined_columns(columns)
    foreign = joined_table(extra, united.image_row if isinstance(united, SharedColumns) else None)
    united, foreign = with_images_once(united, foreign)
    particles = Particles(united, groups, stacks, all(table.has_poses for table in tables), tables[0].operators, foreign)
    return Joined(particles, tuple(int((~rows).sum()) for rows in kept), renamed, said)


def require_of_one_kind(tables: Sequence[Particles], names: Sequence[Path]) -> None:
    """Raise InputError where some tables are of copies, or of subtracted images, or have half-sets, and others not."""
    kinds = (
        ([is_of_copies(table) for table in tables], "is symmetry-expanded", "expand all of them under the same operators, or take "
         "the expansion back with `protomer symmetry-expand --undo`, then join"),
        ([is_subtracted(table) for table in tables], "has images from which something was subtracted", "subtract from all of them "
         "alike, or bring the whole images back with `protomer subtract --set revert=on`, then join"),
        ([BEFORE in table.extra for table in tables], "knows the way back from subtraction", "join the tables that subtract wrote"),
        ([bool((table.half >= 0).all()) for table in tables], "has a half-set for every row", "draw half-sets for the others as well: "
         "import them anew with half-sets"),
    )
    for has, what, remedy in kinds:
        if any(has) and not all(has):
            raise InputError(f"{names[has.index(True)]} {what}, and {names[has.index(False)]} is not so", "sets of one kind", remedy)


def require_same_operators(tables: Sequence[Particles], names: Sequence[Path]) -> None:
    """Raise InputError where copies were made with other operators: copy 3 of one set would not be copy 3 of another."""
    first = tables[0].operators
    for table, name in zip(tables[1:], names[1:], strict=True):
        other = table.operators
        if len(other) != len(first) or (np.abs(other.rotations - first.rotations).max() > SAME_OPERATOR
                                        or np.abs(other.translations_A - first.translations_A).max() > SAME_MOVE_A):
            raise InputError(f"{names[0]} was expanded under {first.name or 'unknown operators'} ({len(first)}), {name} under "
                             f"{other.name or 'unknown operators'} ({len(other)}), or about other axes",
                             "copies made with the same operators",
                             "take both back with `protomer symmetry-expand --undo`, join them, then expand them together")


def require_same_halves(tables: Sequence[Particles], names: Sequence[Path]) -> None:
    """Raise InputError where an image lies in one half-set in one table and in the other in another."""
    (key, half) = (np.concatenate(parts) for parts in zip(*(table.by_image("image_uid", "half") for table in tables), strict=True))
    owner = np.repeat(np.arange(len(tables)), [len(table.by_image("half")[0]) for table in tables])
    order = np.argsort(key, kind="stable")
    torn = np.flatnonzero((key[order][1:] == key[order][:-1]) & (half[order][1:] != half[order][:-1]))
    if len(torn):
        a, b = (names[owner[order[torn[0] + step]]] for step in (0, 1))
        raise InputError(f"{len(torn)} images are in one half-set in {a} and in the other in {b}", "every image in the same half-set "
                         "everywhere: otherwise each half's map has seen the other's images, and their FSC is no gold standard",
                         "join sets that come from one import (halves are drawn there once), or import all images together and refine from "
                         "the start; do not mend the halves by hand")


def kept_rows(tables: Sequence[Particles], names: Sequence[Path], duplicates: str) -> list[np.ndarray]:
    """bool (n,) for every table: one row of each image and copy. Raises InputError where there are more and they are refused."""
    key = np.concatenate(row_keys(tables, True))
    value = np.zeros(len(key))
    if duplicates == "best":
        value = np.nan_to_num(np.concatenate([table.log_likelihood for table in tables]), nan=-np.inf)
    order = np.lexsort((-value, key))  # stable: of equal values the first
    is_first = np.diff(key[order], prepend=-1) != 0
    kept = np.zeros(len(key), bool)
    kept[order[is_first]] = True
    lengths = [len(table) for table in tables]
    split = np.split(kept, np.cumsum(lengths)[:-1])
    repeated = int((~kept).sum())
    if repeated and duplicates == "refuse":
        worst = names[int(np.argmax([int((~part).sum()) for part in split]))]
        raise InputError(f"{repeated} rows repeat an image{' and copy' * is_of_copies(tables[0])} of another row, most of them in {worst}",
                         "every image once: a repeated one counts twice in the map",
                         "say which row is meant: --set duplicates=first keeps that of the set named first, duplicates=best that of the "
                         "highest log-likelihood; or take rows out with `protomer select --without`")
    if repeated and duplicates == "best" and len(np.unique(value[np.isin(key, key[~kept])])) == 1:
        raise InputError(f"duplicates = best, and the {repeated} repeated rows all have the same log-likelihood",
                         "log-likelihoods that a job found", "say --set duplicates=first")
    return split


def united_optics(tables: Sequence[Particles], names: Sequence[Path]) -> tuple[tuple[OpticsGroup, ...], list[np.ndarray], tuple[str, ...]]:
    """All groups, equal ones once and under names that differ; for every table where its groups are in them; what was renamed."""
    groups: list[OpticsGroup] = []
    place: dict[str, int] = {}  # of what a group is, all of it
    taken: set[str] = set()
    maps, renamed = [], []
    for table, name in zip(tables, names, strict=True):
        places = []
        for group in table.optics_groups:
            identity = repr(replace(group, extra=dict(sorted(group.extra.items()))))
            if identity not in place:
                place[identity] = len(groups)
                fresh = next(new for new in _names_like(group.name) if new not in taken)
                if fresh != group.name:
                    renamed.append(f"{group.name} of {name}: {fresh}")
                groups.append(replace(group, name=fresh))
                taken.add(fresh)
            places.append(place[identity])
        maps.append(np.array(places, np.int32))
    return tuple(groups), maps, tuple(renamed)


def _names_like(name: str) -> Iterator[str]:
    """name, name_2, name_3, ..."""
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def united_stacks(tables: Sequence[Particles], names: Sequence[Path]) -> tuple[tuple[Stack, ...], list[np.ndarray]]:
    """All stacks, each once, also those that no row points to: the way back from subtraction leads there. Raises InputError where two
    tables mean different files by one path."""
    stacks: dict[str, Stack] = {}
    place: dict[str, int] = {}
    maps = []
    for table, name in zip(tables, names, strict=True):
        for stack in table.stacks:
            known = stacks.setdefault(stack.path, stack)
            place.setdefault(stack.path, len(place))
            if (known.digest, known.size_bytes, known.number, known.box) != (stack.digest, stack.size_bytes, stack.number, stack.box):
                raise InputError(f"{stack.path} was another file when the particles of {name} were imported: {stack.number} images in "
                                 f"{stack.size_bytes} bytes, not {known.number} in {known.size_bytes}, or other content",
                                 "the same stack in all sets", "import all sets again from the stacks as they are now")
        maps.append(np.array([place[stack.path] for stack in table.stacks], np.int32))
    return tuple(stacks.values()), maps


def mapped(columns: Mapping[str, np.ndarray], name: str, places: np.ndarray) -> Mapping[str, np.ndarray]:
    """The columns, with the numbers in one of them replaced by places[number], where they stand."""
    if isinstance(columns, SharedColumns) and name in columns.shared:
        return SharedColumns(columns.own, {**columns.shared, name: places[columns.shared[name]]}, columns.image_row)
    new = {name: places[columns[name]]}
    return columns.replaced(new) if isinstance(columns, SharedColumns) else {**columns, **new}
