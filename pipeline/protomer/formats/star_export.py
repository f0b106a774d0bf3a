"""Particles to a RELION STAR file: 3.1 with an optics table, or one table as 3.0 where that is what was imported.

A text that still says what our column says is written as it was; all else is written anew. Pixel sizes are those of the stacks on disk,
not of the binned images that the program works with.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from protomer.formats import star_columns as tags
from protomer.formats.stack_names import keeps_name, new_names
from protomer.formats.star_text import Columns, as_column, write_blocks
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import DEFAULTS, Particles

CLOSE = 1e-9  # relative: what a division and a multiplication by a box leave of a pixel size
_USUAL = OpticsGroup("", 0.0, 0.0, 0.0, 1.0, 0)


def write_star_particles(path: str | os.PathLike[str], particles: Particles, project_folder: Path | None = None) -> None:
    """Write a particle table atomically; new stack names are absolute, or relative to `project_folder` where that is given.

    Raises StorageError where the disk refuses.
    """
    pixel_sizes = np.array([stack_pixel_size_A(particles, i) for i in range(len(particles.optics_groups))])
    foreign: Columns = {name: column for name, column in particles.extra.items() if is_star_tag(name, column)}
    is_old = "rlnOpticsGroup" not in foreign and "rlnVoltage" in foreign
    table = dict(foreign)
    table["rlnImageName"] = _image_names(Path(path), particles, foreign.get("rlnImageName"), project_folder)
    _put_numbers(table, particles)
    _put_micrographs(table, particles)
    _put_poses(table, particles, pixel_sizes, is_old)
    if particles.is_expanded:
        table[tags.SOURCE] = as_column([str(uid) for uid in particles.image_uid.tolist()])
    if is_old:
        _put_optics_per_particle(table, particles, pixel_sizes)
        write_blocks(path, {"": table})
    else:
        ids = _optics_ids(particles.optics_groups)
        table["rlnOpticsGroup"] = _kept(table.get("rlnOpticsGroup"), as_column([str(i) for i in ids])[particles.optics])
        write_blocks(path, {"optics": _optics_table(particles, ids, pixel_sizes), "particles": table})


def is_star_tag(name: str, column: np.ndarray) -> bool:
    """Whether a foreign column came from a STAR file (texts, and no cryoSPARC field name)."""
    return column.dtype.kind == "S" and column.ndim == 1 and "/" not in name and name != "uid"


def stack_pixel_size_A(particles: Particles, group: int) -> float:
    """Å per pixel of the stacks of an optics group as they lie on disk."""
    optics = particles.optics_groups[group]
    used = particles.stack[particles.optics == group]
    box = particles.stacks[int(used[0])].box if len(used) else 0
    return optics.pixel_size_A * optics.box / box if box else optics.pixel_size_A


def _kept(old: np.ndarray | None, new: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Old texts where `keep` (default: where they equal the new ones as integers), new texts elsewhere."""
    if old is None:
        return new
    if keep is None:
        keep = old.astype(np.int64) == new.astype(np.int64)
    return np.where(keep, old, new)


def _image_names(path: Path, particles: Particles, old: np.ndarray | None, project_folder: Path | None) -> np.ndarray:
    """N@stack of every row; the imported text where it still means that image."""
    names = new_names(particles, project_folder)
    pairs = zip(particles.stack_index.tolist(), particles.stack.tolist(), strict=True)
    new = np.array([b"%06d@%s" % (index + 1, names[stack]) for index, stack in pairs], "S")
    if old is None or len(old) == 0:
        return new
    split = [value.decode("utf-8", "surrogateescape").rpartition("@") for value in old.tolist()]
    same_index = np.array([int(number or 1) for number, _, _ in split]) == particles.stack_index + 1
    return np.where(same_index & keeps_name(particles, [name for _, _, name in split], path, project_folder), old, new)


def _put_numbers(table: Columns, particles: Particles) -> None:
    for number in tags.NUMBERS:
        ours, default = number.of(particles.columns), DEFAULTS.get(number.column, 0)
        if number.tag not in table and (tags.same(ours, default).all() or (number.column == "coordinate_px" and np.isnan(ours).all())):
            continue
        new = tags.number_texts(number.theirs(ours.astype(np.float64)), number.is_integer)
        old = table.get(number.tag)
        table[number.tag] = new if old is None else np.where(tags.same(number.ours(old.astype(np.float64)), ours), old, new)


def _put_micrographs(table: Columns, particles: Particles) -> None:
    new = as_column([str(name) for name in particles.micrograph.tolist()])
    if "rlnMicrographName" in table or any(particles.micrograph):
        table["rlnMicrographName"] = new


def _put_poses(table: Columns, particles: Particles, pixel_sizes: np.ndarray, is_old: bool) -> None:
    if not particles.has_poses:
        return
    angles = tags.angles_from_rotation(particles.rotation)
    keep = np.zeros(len(particles), bool)
    if all(tag in table for tag in tags.ANGLES):
        keep = tags.same_rows(tags.rotation_from_angles(_floats(table, tags.ANGLES)), particles.rotation)
    for i, tag in enumerate(tags.ANGLES):
        table[tag] = _kept(table.get(tag), tags.number_texts(angles[:, i]), keep)
    pixel = pixel_sizes[particles.optics, None]
    if tags.ORIGINS_A[0] in table:
        written = {tags.ORIGINS_A: np.ones_like(pixel)}
        keep = tags.same_rows(_floats(table, tags.ORIGINS_A), particles.shift_A)
        if tags.ORIGINS_PX[0] in table:
            written[tags.ORIGINS_PX] = pixel
    elif tags.ORIGINS_PX[0] in table:
        written = {tags.ORIGINS_PX: pixel}
        keep = tags.same_rows(_floats(table, tags.ORIGINS_PX) * pixel, particles.shift_A)
    elif not particles.shift_A.any() and all(tag in particles.extra for tag in tags.ANGLES):
        return  # a table that never had origins, all of them still zero
    else:
        written = {tags.ORIGINS_PX: pixel} if is_old else {tags.ORIGINS_A: np.ones_like(pixel)}
        keep = np.zeros(len(particles), bool)
    for names, unit in written.items():
        for i, tag in enumerate(names):
            table[tag] = _kept(table.get(tag), tags.number_texts(particles.shift_A[:, i] / unit[:, 0]), keep)


def _floats(table: Columns, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([table[tag].astype(np.float64) for tag in names], axis=1)


def _put_optics_per_particle(table: Columns, particles: Particles, pixel_sizes: np.ndarray) -> None:
    """Version 3.0: voltage and the like in every row; the pixel size as a detector pixel (µm) over a magnification."""
    for number in tags.OPTICS_NUMBERS:
        if number.tag in table:
            value = np.array([number.of(group) for group in particles.optics_groups])[particles.optics]
            table[number.tag] = _kept_close(table[number.tag], value)
    pixel = pixel_sizes[particles.optics]
    if "rlnImagePixelSize" in table:
        table["rlnImagePixelSize"] = _kept_close(table["rlnImagePixelSize"], pixel)
    magnification = table.setdefault("rlnMagnification", as_column(["10000.0"] * len(particles))).astype(np.float64)
    detector = table.get("rlnDetectorPixelSize", as_column(["0"] * len(particles)))
    table["rlnDetectorPixelSize"] = _kept_close(detector, pixel * magnification / 1e4)


def _kept_close(old: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Old texts where they say the value to nine digits (a pixel size goes through a division), new ones elsewhere."""
    return np.where(np.isclose(old.astype(np.float64), value, rtol=CLOSE, atol=0.0), old, tags.number_texts(value))


def _optics_ids(groups: tuple[OpticsGroup, ...]) -> list[int]:
    """The numbers that the groups had in their file, or 1, 2, ... where those are missing or repeat."""
    said = [str(group.extra.get("rlnOpticsGroup", "")) for group in groups]
    return [int(s) for s in said] if all(s.isdigit() for s in said) and len(set(said)) == len(said) else list(range(1, len(groups) + 1))


def _optics_table(particles: Particles, ids: list[int], pixel_sizes: np.ndarray) -> Columns:
    """The optics block, its columns in the order of the imported one, new ones at the end."""
    rows = [_optics_row(particles, i, ids[i], float(pixel_sizes[i])) for i in range(len(ids))]
    order = list(dict.fromkeys(tag for row in rows for tag in row))
    groups = particles.optics_groups
    return {tag: as_column([row.get(tag) or _unsaid(tag, group) for row, group in zip(rows, groups, strict=True)]) for tag in order}


def _unsaid(tag: str, group: OpticsGroup) -> str:
    """What a group says in a column that another group of its table has, and it has not."""
    number = next((entry for entry in tags.OPTICS_NUMBERS if entry.tag == tag), None)
    return f"{number.of(group):.6f}" if number is not None else "[]" if tag in tags.ZERNIKES else "0"


def _optics_row(particles: Particles, index: int, number: int, pixel_size_A: float) -> dict[str, str]:
    """One row of the optics block: the imported texts where they still hold, else new ones."""
    group = particles.optics_groups[index]
    row = {tag: str(text) for tag, text in group.extra.items() if "/" not in tag}
    is_new = "rlnImagePixelSize" not in row
    used = particles.stack[particles.optics == index]
    box = (particles.stacks[int(used[0])].box if len(used) else 0) or group.box
    _renew(row, "rlnOpticsGroup", number, str(number))
    row["rlnOpticsGroupName"] = group.name
    for entry in tags.OPTICS_NUMBERS:
        value = entry.of(group)
        is_usual = value == entry.of(_USUAL)
        if entry.tag in row or (is_new and entry.part is None) or (entry.part is not None and not is_usual):
            _renew(row, entry.tag, value, f"{value:.6f}")
    for tag, name in tags.ZERNIKES.items():
        coefficients = getattr(group, name)
        if coefficients != tags.split_zernike(row.get(tag, "[]")):
            row[tag] = "[" + ",".join(f"{c:.6g}" for c in coefficients) + "]"
    _renew(row, "rlnImagePixelSize", pixel_size_A, f"{pixel_size_A:.6f}")
    _renew(row, "rlnImageSize", box, str(box))
    row.setdefault("rlnImageDimensionality", "2")
    return row


def _renew(row: dict[str, str], tag: str, value: float, text: str) -> None:
    """Put the text unless the row already says the value."""
    if tag not in row or not np.isclose(float(row[tag]), value, rtol=CLOSE, atol=1e-15):
        row[tag] = text
