"""particles.h5: a table, what stands beside it, and for symmetry copies what an image has in common once.

Version 1: `particles/NAME` for every column of COLUMNS, one row per particle. Version 2, for tables of copies: columns that all copies of
an image share stand in `images/NAME`, one row per image (foreign ones in `images_extra`), and `particles/image_row` says which image a row
is of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import h5py
import numpy as np

from protomer.formats.hdf5_files import as_json, damaged, get, new_hdf5_file, opened, put, read_json, require_dtype, values_of
from protomer.running.output import writing_atomically
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import COLUMNS, Particles, Stack, empty_columns
from protomer.tables.shared_columns import SharedColumns, column_form

ADDED_LATER = ("pose_posterior",)  # columns that the first files of version 1 lack
_IMAGE_ROW = ("", "row of the tables of images that each row belongs to")
_STACK_UNITS = {"path": "", "number": "images", "box": "pixel", "size_bytes": "byte", "mtime_ns": "nanosecond", "digest": "SHA-256"}
_OPTICS: dict[str, tuple[str, str]] = {
    "name": ("", "name of the optics group"),
    "voltage_V": ("volt", "acceleration voltage"),
    "spherical_aberration_A": ("angstrom", "spherical aberration"),
    "amplitude_contrast": ("", "amplitude contrast, between 0 and 1"),
    "pixel_size_A": ("angstrom", "pixel size of the prepared images"),
    "box": ("pixel", "box of the prepared images"),
    "beam_tilt_rad": ("radian", "beam tilt x, y"),
    "odd_zernike": ("radian", "odd Zernike coefficients of the phase error, NaN past the end"),
    "even_zernike": ("radian", "even Zernike coefficients of the phase error, NaN past the end"),
    "magnification": ("", "anisotropic magnification matrix, row by row"),
}


def write_particles(path: str | os.PathLike[str], particles: Particles) -> None:
    """Write particles.h5 atomically; the same table gives the same bytes. Raises StorageError where the disk refuses."""
    columns, extra = particles.columns, particles.extra
    with writing_atomically(Path(path)) as temporary, new_hdf5_file(temporary) as file:
        own, shared = (columns.own, columns.shared) if isinstance(columns, SharedColumns) else (columns, {})
        table = file.create_group("particles")
        for name in (name for name in COLUMNS if name in own):
            put(table, name, own[name], *COLUMNS[name][2:])
        if isinstance(columns, SharedColumns):
            put(table, "image_row", columns.image_row.astype(np.int32), *_IMAGE_ROW)
            _write_images(file, shared, extra.shared if isinstance(extra, SharedColumns) else {})
        _write_extra(file, "extra", extra.own if isinstance(extra, SharedColumns) else extra)
        _write_beside(file, particles, 2 if isinstance(columns, SharedColumns) else 1)


def write_copies(path: str | os.PathLike[str], images: Particles, operators: OperatorSet, own: Sequence[str],
                 blocks: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write the table of all copies of `images` atomically and piece by piece: row i g + c is copy c of image i, g of each.

    The columns named in `own` come in blocks of rows, in order; all others, and foreign ones, are the images' and stored once for each.
    Raises StorageError where the disk refuses, ValueError where the blocks have not as many rows as there are copies.
    """
    number = len(images) * len(operators)
    with writing_atomically(Path(path)) as temporary, new_hdf5_file(temporary) as file:
        table = file.create_group("particles")
        targets = {name: _empty(table, name, number) for name in COLUMNS if name in own}
        image_row = table.create_dataset("image_row", (number,), np.int32)
        image_row.attrs.update(units=_IMAGE_ROW[0], description=_IMAGE_ROW[1])
        done = 0
        for block in blocks:
            rows = slice(done, done + len(block[own[0]]))
            for name, target in targets.items():
                target[rows] = block[name]
            image_row[rows] = np.arange(rows.start, rows.stop) // len(operators)
            done = rows.stop
        if done != number:
            raise ValueError(f"{done} rows for {number} copies")
        _write_images(file, {name: images.columns[name] for name in COLUMNS if name not in own}, images.extra)
        _write_extra(file, "extra", {})
        _write_beside(file, replace(images, operators=operators), 2)


def _empty(table: h5py.Group, name: str, number: int) -> h5py.Dataset:
    """A column of that many rows, to be filled."""
    dtype, shape, units, description = COLUMNS[name]
    dataset = table.create_dataset(name, (number, *shape), dtype)
    dataset.attrs.update(units=units, description=description)
    return dataset


def _write_images(file: h5py.File, columns: Mapping[str, np.ndarray], extra: Mapping[str, np.ndarray]) -> None:
    """What is stored once for each image."""
    images = file.create_group("images")
    for name in (name for name in COLUMNS if name in columns):
        put(images, name, columns[name], *COLUMNS[name][2:])
    _write_extra(file, "images_extra", extra)


def _write_extra(file: h5py.File, name: str, columns: Mapping[str, np.ndarray]) -> None:
    group = file.create_group(name, track_order=True)
    for foreign, column in columns.items():
        put(group, _encoded(foreign), column, "", "foreign column, kept for export").attrs["name"] = foreign


def _write_beside(file: h5py.File, particles: Particles, version: int) -> None:
    """What stands beside the table; the version is the lowest that has all that is in the file."""
    file.attrs.update(format="protomer particles", version=version, has_poses=particles.has_poses)
    _write_optics(file.create_group("optics"), particles.optics_groups)
    stacks = file.create_group("stacks")
    for name, unit in _STACK_UNITS.items():
        kind = object if name in ("path", "digest") else np.int64
        put(stacks, name, np.array([getattr(s, name) for s in particles.stacks], kind), unit, f"{name} of each stack file")
    operators = particles.operators
    rotations = put(file, "operators", operators.rotations, "", "rotation matrices of the symmetry copies, identity first")
    rotations.attrs["name"] = operators.name
    put(file, "operator_translations", operators.translations_A, "angstrom", "where each operator moves to after its rotation, x, y, z")
    put(file, "provenance", as_json(particles.provenance), "JSON", "where this table comes from")


def read_particles(path: str | os.PathLike[str]) -> Particles:
    """Read particles.h5. Raises InputError for another kind of file, a damaged one, or copies of an image in both half-sets."""
    with opened(path, "protomer particles") as file:
        stacks = {name: get(path, file, f"stacks/{name}") for name in _STACK_UNITS}
        listed = tuple(Stack(str(stacks["path"][i]), int(stacks["number"][i]), int(stacks["box"][i]), int(stacks["size_bytes"][i]),
                             int(stacks["mtime_ns"][i]), str(stacks["digest"][i])) for i in range(len(stacks["path"])))
        columns, extra = _read_columns(path, file)
        particles = Particles(columns, _read_optics(path, file["optics"]), listed, bool(file.attrs["has_poses"]),
                              _read_operators(path, file), extra, read_json(path, file))
        _require_sound(path, particles)
        return particles


def _read_columns(path: str | os.PathLike[str], file: h5py.File) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """The columns and the foreign ones, of either version."""
    extra = _read_extra(path, file, "extra")
    if "images" not in file:
        return _columns(path, file, "particles", list(COLUMNS)), extra
    image_row = require_dtype(path, "image_row", get(path, file, "particles/image_row"), "i4")
    own = _columns(path, file, "particles", [name for name in COLUMNS if name in file["particles"]])
    shared = _columns(path, file, "images", [name for name in COLUMNS if name not in own])
    images, by_image = len(next(iter(shared.values()), ())), _read_extra(path, file, "images_extra")
    uneven = [name for table, n in ((own, len(image_row)), (shared, images), (extra, len(image_row)), (by_image, images))
              for name, column in table.items() if column.shape[:1] != (n,)]
    if uneven:
        raise damaged(path, f"the column {uneven[0]!r} has another length")
    if len(image_row) and not (0 <= image_row.min() and image_row.max() < images):
        raise damaged(path, f"image_row holds {image_row.min()} to {image_row.max()}, and there are {images} images")
    return SharedColumns(own, shared, image_row), SharedColumns(extra, by_image, image_row)


def _columns(path: str | os.PathLike[str], file: h5py.File, group: str, names: list[str]) -> dict[str, np.ndarray]:
    """Columns of a group by name; those of ADDED_LATER at their default where the file has none."""
    found = {name: require_dtype(path, name, get(path, file, f"{group}/{name}"), COLUMNS[name][0])
             for name in names if name not in ADDED_LATER or name in file[group]}
    number = len(next(iter(found.values()), ()))
    return found | {name: empty_columns(number, name)[name] for name in names if name not in found}


def _read_extra(path: str | os.PathLike[str], file: h5py.File, group: str) -> dict[str, np.ndarray]:
    return {str(dataset.attrs["name"]): values_of(path, dataset) for dataset in file[group].values()}


def _read_operators(path: str | os.PathLike[str], file: h5py.File) -> OperatorSet:
    """The operators; files of version 1 may have no translations and no name."""
    rotations = get(path, file, "operators")
    moves_A = get(path, file, "operator_translations") if "operator_translations" in file else np.zeros((len(rotations), 3))
    return OperatorSet(str(file["operators"].attrs.get("name", "")), rotations, moves_A)


def _require_sound(path: str | os.PathLike[str], particles: Particles) -> None:
    """Raise InputError where rows point to stacks or optics groups that are not there, or tables have other lengths or shapes."""
    for name, number in (("stack", len(particles.stacks)), ("optics", len(particles.optics_groups))):
        (column,) = particles.by_image(name)
        if len(column) and not (0 <= column.min() and column.max() < number):
            raise damaged(path, f"column {name} holds {column.min()} to {column.max()}, and there are {number}")
    forms = {name: column_form(particles.extra, name) for name in particles.extra}
    uneven = [name for name, form in forms.items() if form is None or form[1][:1] != (len(particles),)]
    if uneven:
        raise damaged(path, f"the column {uneven[0]!r} has another length")
    for group in particles.optics_groups:
        if not (0 < group.pixel_size_A < np.inf and group.box >= 0):
            raise damaged(path, f"optics group {group.name!r} has pixel size {group.pixel_size_A} and box {group.box}")


def _write_optics(group: h5py.Group, optics: tuple[OpticsGroup, ...]) -> None:
    for name, (unit, description) in _OPTICS.items():
        values = [getattr(g, name) for g in optics]
        if name == "name":
            column = np.array(values, object)
        elif name in ("odd_zernike", "even_zernike"):
            column = np.full((len(optics), max((len(v) for v in values), default=0)), np.nan)
            for row, value in zip(column, values, strict=True):
                row[:len(value)] = value
        else:
            column = np.array(values, np.int64 if name == "box" else np.float64)
        put(group, name, column, unit, description)
    put(group, "extra", np.array([json.dumps(dict(g.extra)) for g in optics], object), "JSON", "foreign columns of the optics table")


def _read_optics(path: str | os.PathLike[str], group: h5py.Group) -> tuple[OpticsGroup, ...]:
    table = {name: values_of(path, group[name]) for name in (*_OPTICS, "extra")}
    optics = []
    for i in range(len(table["name"])):
        tilt, magnification = table["beam_tilt_rad"][i].tolist(), table["magnification"][i].tolist()
        odd, even = (tuple(float(x) for x in table[name][i] if not np.isnan(x)) for name in ("odd_zernike", "even_zernike"))
        optics.append(OpticsGroup(
            name=str(table["name"][i]), voltage_V=float(table["voltage_V"][i]), amplitude_contrast=float(table["amplitude_contrast"][i]),
            spherical_aberration_A=float(table["spherical_aberration_A"][i]), pixel_size_A=float(table["pixel_size_A"][i]),
            box=int(table["box"][i]), beam_tilt_rad=(tilt[0], tilt[1]), odd_zernike=odd, even_zernike=even,
            magnification=(magnification[0], magnification[1], magnification[2], magnification[3]), extra=json.loads(table["extra"][i])))
    return tuple(optics)


def _encoded(name: str) -> str:
    """A foreign name as an HDF5 link name (`/` and a leading `.` mean something there)."""
    text = quote(name, safe=" #[]()")
    return "%2E" + text[1:] if text.startswith(".") else text or "%00"
