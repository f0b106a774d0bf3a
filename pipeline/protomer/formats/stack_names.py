"""What an exported table calls the stacks: the imported name where it still leads to the stack, else a path that does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protomer.formats.stack_paths import StackSearch
from protomer.tables.image_uids import still_original
from protomer.tables.particles import Particles


def new_names(particles: Particles, project_folder: Path | None) -> list[bytes]:
    """A name for every stack: its absolute path, or relative to `project_folder` where that is given."""
    paths = [s.path if project_folder is None or not s.digest else os.path.relpath(s.path, project_folder) for s in particles.stacks]
    return [path.encode("utf-8", "surrogateescape") for path in paths]


def keeps_name(particles: Particles, imported: Sequence[str], table: Path, project_folder: Path | None) -> np.ndarray:
    """bool (n,): rows whose imported stack name still means their stack when read from the file `table`.

    That is so where the row shows the image it was imported with and the name leads there from `table` (or from `project_folder`), or where
    the stack was never looked at.
    """
    search = StackSearch(table, None if project_folder is None else project_folder.absolute())
    known: dict[tuple[str, int], bool] = {}
    for key in set(zip(imported, particles.stack.tolist(), strict=True)):
        name, stack = key[0], particles.stacks[key[1]]
        found = search.find(name) if stack.digest else None
        known[key] = found is not None and _same_file(found, stack.path) if stack.digest else name == stack.path
    means = np.array([known[key] for key in zip(imported, particles.stack.tolist(), strict=True)], bool)
    return np.asarray(means & still_original(particles.stacks, particles.stack, particles.stack_index, particles.image_uid))


def _same_file(a: Path, b: str) -> bool:
    return os.path.normpath(a) == os.path.normpath(b) or (os.path.exists(b) and os.path.samefile(a, b))
