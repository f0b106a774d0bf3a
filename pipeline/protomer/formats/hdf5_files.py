"""HDF5 files as Protomer writes and reads them: every dataset says its units, and no damaged or foreign file is believed.

A disk that refuses a write is an error of Python's and nothing worse.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protomer.errors import InputError

VERSION = 2  # the newest that is read
_TEXTS_AT_ONCE = 1024
TEXT = h5py.string_dtype("utf-8")


class _Patient:
    """A new file whose writes never fail towards the library: the first refusal is kept, and nothing is written after it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.refusal: OSError | None = None
        self.read, self.seek, self.tell, self.flush = file.read, file.seek, file.tell, file.flush

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from the file; zeros where it has nothing, as after a refusal."""
        view = memoryview(buffer).cast("B")
        found = self._file.readinto(view) or 0
        view[found:] = bytes(len(view) - found)
        return len(view)

    def write(self, data: memoryview) -> int:
        """Write all of the data, or keep the refusal."""
        left = memoryview(data).cast("B")
        while len(left) and self.refusal is None:
            try:
                left = left[self._file.write(left):]
            except OSError as error:
                self.refusal = error
        return len(data)

    def truncate(self, size: int) -> int:
        """Cut or lengthen the file, or keep the refusal."""
        try:
            self._file.truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
        return size


@contextmanager
def new_hdf5_file(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file to write to, closed when the block ends. Raises OSError, then, where the disk refused a write.

    The library itself does not survive a refused write: it fails to close the file, tries again at exit, and brings the process down.
    """
    with open(path, "w+b", buffering=0) as raw:
        assert isinstance(raw, io.FileIO)
        patient = _Patient(raw)
        with h5py.File(patient, "w") as file:
            yield file
        if patient.refusal is not None:
            raise patient.refusal


@contextmanager
def opened(path: str | os.PathLike[str], kind: str) -> Iterator[h5py.File]:
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
                raise damaged(path, "it holds links to elsewhere")
            yield file
    except InputError as error:
        raise error.within(path) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise damaged(path, str(error)) from error


def put(group: h5py.Group, name: str, data: np.ndarray | str, units: str, description: str) -> h5py.Dataset:
    """One dataset with its attributes; object and unicode arrays become UTF-8 texts, bytes stay bytes."""
    if isinstance(data, str) or data.dtype.kind in "OU":
        if not isinstance(data, str) and not all(isinstance(v, str) for v in data.ravel()):
            raise TypeError(f"column {name}: an object column holds texts only")
        dataset = group.create_dataset(name, data=data, dtype=TEXT)
    else:
        dataset = group.create_dataset(name, data=data)
    dataset.attrs.update(units=units, description=description)
    return dataset


def get(path: str | os.PathLike[str], file: h5py.File, name: str) -> np.ndarray:
    """All values of a dataset. Raises InputError where it is not there or damaged."""
    if name not in file:
        raise damaged(path, f"{name} is not in it")
    return values_of(path, file[name])


def values_of(path: str | os.PathLike[str], dataset: h5py.Dataset) -> np.ndarray:
    """All values; a dataset whose storage does not hold what its shape claims is refused before memory is asked for."""
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise damaged(path, f"{dataset.name} is no dataset with its own values")
    stored = dataset.id.get_storage_size()
    if not dataset.size * dataset.dtype.itemsize <= stored <= os.path.getsize(path):
        raise damaged(path, f"{dataset.name} claims shape {dataset.shape} and stores {stored} bytes")
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.kind == "O":
        return _texts(path, dataset)
    if dataset.dtype.kind not in "iufbS":
        raise damaged(path, f"{dataset.name} holds values of the type {dataset.dtype}")
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
            raise damaged(path, f"{dataset.name} claims more text than the file holds")
    return found


def require_dtype(path: str | os.PathLike[str], name: str, column: np.ndarray, dtype: str) -> np.ndarray:
    """The column, if it has that type. Raises InputError."""
    if column.dtype != np.dtype(dtype):
        raise damaged(path, f"column {name} is {column.dtype}, not {dtype}")
    return column


def as_json(value: Mapping[str, Any]) -> str:
    """A mapping as text, the same mapping always as the same text."""
    return json.dumps(dict(value), sort_keys=True)


def damaged(path: str | os.PathLike[str], what: str) -> InputError:
    """The error for a file that is not as Protomer writes it."""
    return InputError(f"{path}: {what}", "a whole Protomer HDF5 file", "make the file again: it is damaged or foreign")


def read_json(path: str | os.PathLike[str], file: h5py.File) -> dict[str, Any]:
    """The mapping in `provenance`."""
    value = json.loads(str(get(path, file, "provenance")[()]))
    if not isinstance(value, dict):
        raise damaged(path, "provenance is no mapping")
    return value


def stacks_named(path: str | os.PathLike[str]) -> list[Path]:
    """The image stacks that an HDF5 file says its particles lie in; none where it holds no particles or cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            return [Path(str(name)) for name in file["stacks/path"].asstr()[:]] if "stacks/path" in file else []
    except (OSError, RuntimeError, TypeError):
        return []
