"""A bare stack with a table of its CTF (CSV), to Particles."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from protomer.errors import InputError
from protomer.formats.mrc import StackReader
from protomer.tables.image_uids import image_uids
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns

#: column of the CSV -> (our column or "", factor)
_ROW_NUMBERS = {"defocus_u_A": ("defocus_u_A", 1.0), "defocus_v_A": ("defocus_v_A", 1.0),
                "defocus_angle_deg": ("defocus_angle_rad", np.pi / 180), "phase_shift_deg": ("phase_shift_rad", np.pi / 180)}
_OPTICS = {"voltage_kV": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
CSV_COLUMNS = ("image", *_ROW_NUMBERS, *_OPTICS, "micrograph")


def read_stack_particles(path: str | os.PathLike[str], ctf: str | os.PathLike[str] | None, pixel_size_A: float | None = None) -> Particles:
    """Read a stack, one row per image, or one per line of `ctf` (a CSV with a header line; columns CSV_COLUMNS, `image` counts from 1).

    Raises InputError where columns are missing or unknown, a line names an image that is not there, or no pixel size is known.
    """
    with StackReader(path) as reader:
        stack = Stack(str(Path(path).absolute()), reader.number, reader.box, reader.size_bytes, reader.mtime_ns, reader.digest())
        pixel = pixel_size_A if pixel_size_A is not None else reader.pixel_size_A
        if ctf is None and reader.number_whole < reader.number:
            raise InputError(f"{path} announces {reader.number} images and holds {reader.number_whole} whole ones", "a whole stack",
                             "copy the stack again: it is truncated")
    if not pixel > 0:
        raise InputError(f"{path} says no pixel size", "a pixel size above 0 Å", "give it with --set pixel_size=1.31A")
    lines = _lines(Path(ctf), stack.number) if ctf is not None else [{} for _ in range(stack.number)]
    columns = empty_columns(len(lines))
    image = np.array([_number(ctf, i, line, "image", i + 1) for i, line in enumerate(lines)], np.float64)
    outside = np.flatnonzero(~((image >= 1) & (image <= stack.number) & (image == np.rint(image))))
    if len(outside):
        raise InputError(f"line {outside[0] + 2} of {ctf} names image {image[outside[0]]:g}; {path} holds {stack.number}",
                         "image numbers between 1 and the number of images", "check that table and stack belong together")
    columns["stack_index"][:] = image - 1
    for name, (ours, factor) in _ROW_NUMBERS.items():
        columns[ours][:] = [factor * _number(ctf, i, line, name, 0.0) for i, line in enumerate(lines)]
    columns["micrograph"][:] = [line.get("micrograph") or "" for line in lines]
    optics = [tuple(_number(ctf, i, line, name, default) for name, default in _OPTICS.items()) for i, line in enumerate(lines)]
    distinct = sorted(set(optics))
    columns["optics"][:] = [distinct.index(o) for o in optics]
    columns["image_uid"][:] = image_uids((stack,), columns["stack"], columns["stack_index"])
    groups = tuple(OpticsGroup(f"opticsGroup{i + 1}", kv * 1e3, mm * 1e7, amplitude, float(pixel), stack.box)
                   for i, (kv, mm, amplitude) in enumerate(distinct))
    return Particles(columns, groups, (stack,), False, provenance={"source": os.path.abspath(path)})


def _lines(path: Path, images: int) -> list[dict[str, str]]:
    """The lines of the CSV as texts by column name."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            names, lines = [name.strip() for name in reader.fieldnames or ()], []
            reader.fieldnames = names
            lines = [{k: (v or "").strip() for k, v in line.items() if k is not None} for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}", "a CSV file", "check the path and the file") from error
    unknown = [name for name in names if name not in CSV_COLUMNS]
    if unknown or not {"defocus_u_A", "defocus_v_A", "voltage_kV"} <= set(names):
        raise InputError(f"{path} has the columns {', '.join(names) or 'none'}",
                         f"columns among {', '.join(CSV_COLUMNS)}, at least the defoci and voltage_kV",
                         "name the columns in the first line, units as in the names")
    if "image" not in names and len(lines) != images:
        raise InputError(f"{path} has {len(lines)} lines for {images} images and no column `image`",
                         "one line per image, or a column `image`",
                         "add the column, counting from 1")
    return lines


def _number(path: str | os.PathLike[str] | None, row: int, line: dict[str, str], name: str, default: float) -> float:
    try:
        return float(line[name]) if name in line else float(default)
    except ValueError:
        raise InputError(f"line {row + 2} of {path}: {name} is {line[name]!r}", "a number", "correct the table") from None
