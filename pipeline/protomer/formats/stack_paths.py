"""From the stack names in a particle table to files: where they were looked for is always said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.formats.mrc import StackReader
from protomer.tables.particles import Stack

PARENTS_TRIED = 4


@dataclass(frozen=True)
class StackSearch:
    """Where to look for stacks. table: the STAR or .cs file. project_folder: overrides the search. required: False allows absence."""

    table: Path
    project_folder: Path | None = None
    required: bool = True

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders that relative names may be relative to, in the order in which they are tried."""
        if self.project_folder is not None:
            return (self.project_folder,)
        here = self.table.absolute().parent
        return tuple(dict.fromkeys([here, *list(here.parents)[:PARENTS_TRIED], Path.cwd()]))

    def find(self, name: str) -> Path | None:
        """The file that a name of the table means, or None."""
        candidates = [Path(name)] if os.path.isabs(name) else [folder / name for folder in self.folders]
        return next((Path(os.path.normpath(path)) for path in candidates if os.path.isfile(path)), None)


def open_stacks(names: Sequence[str], search: StackSearch) -> tuple[Stack, ...]:
    """Find, measure and digest the stacks of these names (each once, in their order).

    Raises InputError, naming what was tried, where a stack does not exist; without `search.required` such a stack is kept by name with box
    and number 0 and no digest.
    """
    found = [search.find(name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing and search.required:
        tried = ", ".join(str(folder) for folder in search.folders)
        raise InputError(f"{len(missing)} of {len(names)} stacks in {search.table} do not exist, first {missing[0]!r}; tried {tried}",
                         "stacks at their absolute paths, or relative to the project folder or to the table",
                         "start the import in the project folder, or give the folder with --set project_folder=PATH")
    return tuple(Stack(name, 0, 0, 0, 0, "") if path is None else _describe(path) for name, path in zip(names, found, strict=True))


def _describe(path: Path) -> Stack:
    with StackReader(path) as reader:
        return Stack(str(path), reader.number, reader.box, reader.size_bytes, reader.mtime_ns, reader.digest())


def require_inside(stacks: tuple[Stack, ...], stack: np.ndarray, stack_index: np.ndarray, table: Path) -> None:
    """Raise InputError where rows point before or past the images of their stack (absent stacks do not count)."""
    number = np.array([s.number if s.box else np.iinfo(np.int64).max for s in stacks], np.int64)
    outside = np.flatnonzero((stack_index < 0) | (stack_index >= number[stack])) if len(stack) else np.zeros(0, int)
    if len(outside):
        row = int(outside[0])
        where = stacks[stack[row]]
        raise InputError(f"{len(outside)} rows of {table} point outside their stack; row {row + 1} wants image {int(stack_index[row]) + 1} "
                         f"of {where.path}, which holds {where.number}", "image numbers between 1 and the number of images in the stack",
                         "check that table and stack belong together, and that the stack was copied whole")


def common_box(stacks: tuple[Stack, ...], used: np.ndarray, announced: int, group: str) -> int:
    """The box (pixels) of the stacks `used` (indices) by one optics group; `announced` (0: unknown) where no stack was read.

    Raises InputError where they differ from one another or from what the table announces.
    """
    boxes = sorted({stacks[i].box for i in used if stacks[i].box})
    if not boxes:
        return announced
    if len(boxes) > 1 or (announced and boxes[0] != announced):
        raise InputError(f"optics group {group}: image sizes {', '.join(str(b) for b in boxes)} px in the stacks"
                         + (f", {announced} px in the table" if announced else ""), "one image size per optics group, the same in both",
                         "extract the particles again in one box, or put them into optics groups of their own")
    return boxes[0]
