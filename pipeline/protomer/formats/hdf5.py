"""particles.h5 and volume.h5: Protomer's own records, in HDF5.

Every dataset carries `units` and `description` attributes, so that the files explain themselves in any HDF5 viewer. Nothing is ever
pickled: texts are UTF-8, provenance is JSON. Files are written whole, flushed and renamed into place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import h5py
import numpy as np

from protomer.errors import InputError
from protomer.formats import mrc
from protomer.formats.hdf5_files import new_hdf5_file
from protomer.output import writing_atomically
from protomer.particles import COLUMNS, OpticsGroup, Particles, Stack
from protomer.volumes import Halves, MapRecord, Volume

if TYPE_CHECKING:
    from protomer.resolution import FscSet

VERSION = 1
_TEXTS_AT_ONCE = 1024
_TEXT = h5py.string_dtype("utf-8")
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
_VOLUMES = {"half_a": "unfiltered map of half-set 0", "half_b": "unfiltered map of half-set 1", "map": "filtered map",
            "sharpened": "sharpened map", "refinement_mask": "mask that the refinement used",
            "fsc_mask": "mask under which the FSC was measured"}


def write_particles(path: str | os.PathLike[str], particles: Particles) -> None:
    """Write particles.h5 atomically; the same table gives the same bytes. Raises StorageError where the disk refuses."""
    with writing_atomically(Path(path)) as temporary, new_hdf5_file(temporary) as file:
        file.attrs.update(format="protomer particles", version=VERSION, has_poses=particles.has_poses)
        table = file.create_group("particles")
        for name, (_, _, unit, description) in COLUMNS.items():
            _put(table, name, particles.columns[name], unit, description)
        _write_optics(file.create_group("optics"), particles.optics_groups)
        stacks = file.create_group("stacks")
        for name, unit in _STACK_UNITS.items():
            kind = object if name in ("path", "digest") else np.int64
            _put(stacks, name, np.array([getattr(s, name) for s in particles.stacks], kind), unit, f"{name} of each stack file")
        _put(file, "operators", np.asarray(particles.operators, np.float64), "", "rotation matrices of the symmetry copies, identity first")
        extra = file.create_group("extra", track_order=True)
        for name, column in particles.extra.items():
            _put(extra, _encoded(name), column, "", "foreign column, kept for export").attrs["name"] = name
        _put(file, "provenance", _as_json(particles.provenance), "JSON", "where this table comes from")


def read_particles(path: str | os.PathLike[str]) -> Particles:
    """Read particles.h5. Raises InputError for another kind of file, a damaged one, or copies of an image in both half-sets."""
    with _opened(path, "protomer particles") as file:
        columns = {name: _require_dtype(path, name, _get(path, file, f"particles/{name}"), dtype) for name, (dtype, *_) in COLUMNS.items()
                   if name != "pose_posterior" or name in file["particles"]}
        columns.setdefault("pose_posterior", np.ones(len(columns["stack"])))  # absent from files of version 1
        stacks = {name: _get(path, file, f"stacks/{name}") for name in _STACK_UNITS}
        listed = tuple(Stack(str(stacks["path"][i]), int(stacks["number"][i]), int(stacks["box"][i]), int(stacks["size_bytes"][i]),
                             int(stacks["mtime_ns"][i]), str(stacks["digest"][i])) for i in range(len(stacks["path"])))
        extra = {str(dataset.attrs["name"]): _values(path, dataset) for dataset in file["extra"].values()}
        particles = Particles(columns, _read_optics(path, file["optics"]), listed, bool(file.attrs["has_poses"]),
                              _get(path, file, "operators"), extra, _read_json(path, file))
        _require_sound(path, particles)
        return particles


def _require_sound(path: str | os.PathLike[str], particles: Particles) -> None:
    """Raise InputError where rows point to stacks or optics groups that are not there, or tables have other lengths or shapes."""
    for name, number in (("stack", len(particles.stacks)), ("optics", len(particles.optics_groups))):
        column = particles.columns[name]
        if len(column) and not (0 <= column.min() and column.max() < number):
            raise _damaged(path, f"column {name} holds {column.min()} to {column.max()}, and there are {number}")
    uneven = [name for name, column in particles.extra.items() if column.shape[:1] != (len(particles),)]
    if uneven or particles.operators.shape[1:] != (3, 3) or not np.isfinite(particles.operators).all():
        raise _damaged(path, f"the column {uneven[0]!r} has another length" if uneven else "operators are no rotation matrices")
    for group in particles.optics_groups:
        if not (0 < group.pixel_size_A < np.inf and group.box >= 0):
            raise _damaged(path, f"optics group {group.name!r} has pixel size {group.pixel_size_A} and box {group.box}")


def _read_json(path: str | os.PathLike[str], file: h5py.File) -> dict[str, Any]:
    """The mapping in `provenance`."""
    value = json.loads(str(_get(path, file, "provenance")[()]))
    if not isinstance(value, dict):
        raise _damaged(path, "provenance is no mapping")
    return value


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
        _put(group, name, column, unit, description)
    _put(group, "extra", np.array([json.dumps(dict(g.extra)) for g in optics], object), "JSON", "foreign columns of the optics table")


def _read_optics(path: str | os.PathLike[str], group: h5py.Group) -> tuple[OpticsGroup, ...]:
    table = {name: _values(path, group[name]) for name in (*_OPTICS, "extra")}
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


def write_map_record(path: str | os.PathLike[str], record: MapRecord) -> None:
    """Write volume.h5 atomically; the same record gives the same bytes. Raises StorageError where the disk refuses."""
    volumes = {"half_a": record.half_maps.a, "half_b": record.half_maps.b, "map": record.map, "sharpened": record.sharpened,
               "refinement_mask": record.refinement_mask, "fsc_mask": record.fsc_mask}
    with writing_atomically(Path(path)) as temporary, new_hdf5_file(temporary) as file:
        file.attrs.update(format="protomer volume", version=VERSION, symmetry=record.symmetry)
        for name, volume in volumes.items():
            if volume is not None:
                dataset = _put(file, name, volume.data, "mask weight" if "mask" in name else "grey", _VOLUMES[name] + ", [z, y, x]")
                dataset.attrs["voxel_size_A"] = volume.voxel_size_A
        if record.fsc is not None:
            _write_fsc(file.create_group("fsc"), record.fsc)
        _put(file, "provenance", _as_json(record.provenance), "JSON", "where this map comes from")


def read_map_record(path: str | os.PathLike[str]) -> MapRecord:
    """Read volume.h5. Raises InputError for another kind of file or a damaged one."""
    with _opened(path, "protomer volume") as file:
        volumes = {name: Volume(_values(path, file[name]), float(file[name].attrs["voxel_size_A"])) for name in _VOLUMES if name in file}
        unfit = [name for name, volume in volumes.items() if not np.isfinite(volume.data).all()]
        if unfit:
            raise _damaged(path, f"{unfit[0]} holds voxels that are NaN or infinite")
        fsc = _read_fsc(path, file["fsc"]) if "fsc" in file else None
        return MapRecord(Halves(volumes["half_a"], volumes["half_b"]), volumes["map"], volumes.get("sharpened"),
                         volumes.get("refinement_mask"), volumes.get("fsc_mask"), fsc, str(file.attrs["symmetry"]), _read_json(path, file))


def _write_fsc(group: h5py.Group, fsc: FscSet) -> None:
    """The curves as datasets, the scalars as attributes; what is None is left out."""
    for entry in fields(fsc):
        value = getattr(fsc, entry.name)
        if isinstance(value, np.ndarray):
            unit = {"shell": "shell", "resolution_A": "angstrom"}.get(entry.name, "")
            _put(group, entry.name, value, unit, f"Fourier shell correlation: {entry.name}")
        elif value is not None:
            group.attrs[entry.name] = value


def _read_fsc(path: str | os.PathLike[str], group: h5py.Group) -> FscSet:
    from protomer.resolution import FscSet

    values: dict[str, Any] = {entry.name: None for entry in fields(FscSet)}
    values.update({name: _values(path, dataset) for name, dataset in group.items() if name in values})
    values.update({name: value.item() if isinstance(value, np.generic) else value for name, value in group.attrs.items() if name in values})
    return FscSet(**values)


def read_any_volume(path: str | os.PathLike[str], voxel_size_A: float | None = None) -> Volume:
    """The map of an .mrc or .map file (see `mrc.read_volume`), or the filtered map of a volume.h5."""
    if Path(path).suffix.lower() in (".h5", ".hdf5"):
        return read_map_record(path).map
    return mrc.read_volume(path, voxel_size_A)


@contextmanager
def _opened(path: str | os.PathLike[str], kind: str) -> Iterator[h5py.File]:
    """The file, open for reading, of the right kind, and with nothing in it that lies in another file.

    What the library or a conversion says of a damaged file while the block reads it becomes an InputError that names the file.
    """
    job = "protomer import" if kind == "protomer particles" else "protomer refine or reconstruct"
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file", f"a {kind} file", f"give the path of one, as {job} writes it")
    try:
        with h5py.File(path, "r") as file:
            found = str(file.attrs.get("format"))
            if found != kind:
                words = {"protomer particles": "particles", "protomer volume": "a volume"}
                raise InputError(f"{path} holds {words.get(found, 'something else')}", f"a file with {words[kind]}",
                                 f"give a file that {job} wrote")
            if int(file.attrs.get("version", 0)) > VERSION:
                raise InputError(f"{path} is {kind!r}, version {file.attrs.get('version')}", f"version {VERSION} or lower",
                                 "use the newer Protomer that wrote it")
            if file.id.links.visit(lambda _, info: True if info.type != h5py.h5l.TYPE_HARD else None, info=True):
                raise _damaged(path, "it holds links to elsewhere")
            yield file
    except InputError as error:
        raise error.within(path) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise _damaged(path, str(error)) from error


def _put(group: h5py.Group, name: str, data: np.ndarray | str, units: str, description: str) -> h5py.Dataset:
    """One dataset with its attributes; object and unicode arrays become UTF-8 texts, bytes stay bytes."""
    if isinstance(data, str) or data.dtype.kind in "OU":
        if not isinstance(data, str) and not all(isinstance(v, str) for v in data.ravel()):
            raise TypeError(f"column {name}: an object column holds texts only")
        dataset = group.create_dataset(name, data=data, dtype=_TEXT)
    else:
        dataset = group.create_dataset(name, data=data)
    dataset.attrs.update(units=units, description=description)
    return dataset


def _get(path: str | os.PathLike[str], file: h5py.File, name: str) -> np.ndarray:
    if name not in file:
        raise _damaged(path, f"{name} is not in it")
    return _values(path, file[name])


def _values(path: str | os.PathLike[str], dataset: h5py.Dataset) -> np.ndarray:
    """All values; a dataset whose storage does not hold what its shape claims is refused before memory is asked for."""
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise _damaged(path, f"{dataset.name} is no dataset with its own values")
    stored = dataset.id.get_storage_size()
    if not dataset.size * dataset.dtype.itemsize <= stored <= os.path.getsize(path):
        raise _damaged(path, f"{dataset.name} claims shape {dataset.shape} and stores {stored} bytes")
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.kind == "O":
        return _texts(path, dataset)
    if dataset.dtype.kind not in "iufbS":
        raise _damaged(path, f"{dataset.name} holds values of the type {dataset.dtype}")
    values = np.asarray(dataset[...])
    return values.astype(np.dtype(values.dtype.str)) if values.dtype.metadata else values  # plain bytes, without h5py's note on them


def _texts(path: str | os.PathLike[str], dataset: h5py.Dataset) -> np.ndarray:
    """All texts, some at a time: many elements may claim one long text, and together more than the file."""
    texts = dataset.asstr()
    if dataset.ndim != 1:
        return np.array(texts[()], object)
    found, room = np.empty(len(dataset), object), os.path.getsize(path)
    for first in range(0, len(found), _TEXTS_AT_ONCE):
        part = texts[first:first + _TEXTS_AT_ONCE]
        found[first:first + len(part)] = part
        room -= sum(map(len, part))
        if room < 0:
            raise _damaged(path, f"{dataset.name} claims more text than the file holds")
    return found


def _require_dtype(path: str | os.PathLike[str], name: str, column: np.ndarray, dtype: str) -> np.ndarray:
    if column.dtype != np.dtype(dtype):
        raise _damaged(path, f"column {name} is {column.dtype}, not {dtype}")
    return column


def _encoded(name: str) -> str:
    """A foreign name as an HDF5 link name (`/` and a leading `.` mean something there)."""
    text = quote(name, safe=" #[]()")
    return "%2E" + text[1:] if text.startswith(".") else text or "%00"


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)


def _damaged(path: str | os.PathLike[str], what: str) -> InputError:
    return InputError(f"{path}: {what}", "a whole Protomer HDF5 file", "make the file again: it is damaged or foreign")
