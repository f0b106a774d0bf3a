"""particles.h5 (see hdf5_particles.py) and volume.h5: Protomer's own records, in HDF5.

Every dataset carries `units` and `description` attributes, so that the files explain themselves in any HDF5 viewer. Nothing is ever
pickled: texts are UTF-8, provenance is JSON. Files are written whole, flushed and renamed into place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protomer.errors import InputError
from protomer.formats import mrc
from protomer.formats.hdf5_files import as_json, damaged, new_hdf5_file, opened, put, read_json, values_of
from protomer.formats.hdf5_particles import read_particles, write_particles
from protomer.maps.fsc_curves import FscSet
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.output import writing_atomically

__all__ = ["read_any_volume", "read_map_record", "read_particles", "write_map_record", "write_particles", "write_single_volume"]

VERSION = 1  # of volume.h5
_VOLUMES = {"half_a": "unfiltered map of half-set 0", "half_b": "unfiltered map of half-set 1", "map": "filtered map",
            "sharpened": "sharpened map", "refinement_mask": "mask that the refinement used",
            "fsc_mask": "mask under which the FSC was measured"}


def write_map_record(path: str | os.PathLike[str], record: MapRecord) -> None:
    """Write volume.h5 atomically; the same record gives the same bytes. Raises StorageError where the disk refuses."""
    volumes = {"half_a": record.half_maps.a, "half_b": record.half_maps.b, "map": record.map, "sharpened": record.sharpened,
               "refinement_mask": record.refinement_mask, "fsc_mask": record.fsc_mask}
    with writing_atomically(Path(path)) as temporary, new_hdf5_file(temporary) as file:
        file.attrs.update(format="protomer volume", version=VERSION, symmetry=record.symmetry)
        for name, volume in volumes.items():
            if volume is not None:
                dataset = put(file, name, volume.data, "mask weight" if "mask" in name else "grey", _VOLUMES[name] + ", [z, y, x]")
                dataset.attrs["voxel_size_A"] = volume.voxel_size_A
        if record.fsc is not None:
            _write_fsc(file.create_group("fsc"), record.fsc)
        put(file, "provenance", as_json(record.provenance), "JSON", "where this map comes from")


def write_single_volume(path: str | os.PathLike[str], volume: Volume, symmetry: str, provenance: Mapping[str, Any]) -> None:
    """Write a volume.h5 of one map without half maps, as of a map that all images made together; atomically."""
    with writing_atomically(Path(path)) as temporary, new_hdf5_file(temporary) as file:
        file.attrs.update(format="protomer volume", version=VERSION, symmetry=symmetry)
        dataset = put(file, "map", volume.data, "grey", "map of all images together; there are no half maps, [z, y, x]")
        dataset.attrs["voxel_size_A"] = volume.voxel_size_A
        put(file, "provenance", as_json(provenance), "JSON", "where this map comes from")


def read_map_record(path: str | os.PathLike[str]) -> MapRecord:
    """Read volume.h5. Raises InputError for another kind of file or a damaged one, and where it has no half maps."""
    with opened(path, "protomer volume") as file:
        if "map" in file and "half_a" not in file:
            raise InputError(f"{path} holds one map and no half maps", "a volume with half maps, as refine, classify and reconstruct write",
                             f"refine it first, `protomer refine --volume {path}`, or give the map.mrc beside it where one map will do")
        volumes = {name: Volume(values_of(path, file[name]), float(file[name].attrs["voxel_size_A"])) for name in _VOLUMES if name in file}
        unfit = [name for name, volume in volumes.items() if not np.isfinite(volume.data).all()]
        if unfit:
            raise damaged(path, f"{unfit[0]} holds voxels that are NaN or infinite")
        fsc = _read_fsc(path, file["fsc"]) if "fsc" in file else None
        return MapRecord(Halves(volumes["half_a"], volumes["half_b"]), volumes["map"], volumes.get("sharpened"),
                         volumes.get("refinement_mask"), volumes.get("fsc_mask"), fsc, str(file.attrs["symmetry"]), read_json(path, file))


def _write_fsc(group: h5py.Group, fsc: FscSet) -> None:
    """The curves as datasets, the scalars as attributes; what is None is left out."""
    for entry in fields(fsc):
        value = getattr(fsc, entry.name)
        if isinstance(value, np.ndarray):
            unit = {"shell": "shell", "resolution_A": "angstrom"}.get(entry.name, "")
            put(group, entry.name, value, unit, f"Fourier shell correlation: {entry.name}")
        elif value is not None:
            group.attrs[entry.name] = value


def _read_fsc(path: str | os.PathLike[str], group: h5py.Group) -> FscSet:
    values: dict[str, Any] = {entry.name: None for entry in fields(FscSet)}
    values.update({name: values_of(path, dataset) for name, dataset in group.items() if name in values})
    values.update({name: value.item() if isinstance(value, np.generic) else value for name, value in group.attrs.items() if name in values})
    return FscSet(**values)


def read_any_volume(path: str | os.PathLike[str], voxel_size_A: float | None = None) -> Volume:
    """The map of an .mrc or .map file (see `mrc.read_volume`), or the filtered map of a volume.h5."""
    if Path(path).suffix.lower() in (".h5", ".hdf5"):
        return _read_map(path)
    return mrc.read_volume(path, voxel_size_A)


def _read_map(path: str | os.PathLike[str]) -> Volume:
    """The filtered map of a volume.h5, which may have no half maps."""
    with opened(path, "protomer volume") as file:
        volume = Volume(values_of(path, file["map"]), float(file["map"].attrs["voxel_size_A"]))
        if not np.isfinite(volume.data).all():
            raise damaged(path, "map holds voxels that are NaN or infinite")
        return volume
