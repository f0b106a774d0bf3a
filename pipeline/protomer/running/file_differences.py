"""Where two outputs of one run differ, in words: columns of a table, voxels of a map, lines of a text. A path into the folder that was
written to counts as the same in both, since the folders differ, and so do the times at which files were written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protomer.errors import InputError
from protomer.formats.mrc import read_header

_TEXT = (".yaml", ".csv", ".star", ".json", ".html", ".txt", ".bild")
MOST_LINES = 6


def differing(one: Path, other: Path) -> list[str]:
    """What differs between a file and the one of its name in another folder; [] where nothing but the folders' names does."""
    first, second = one.read_bytes(), other.read_bytes()
    if first == second:
        return []
    roots = _roots(one, other)
    if one.suffix in (".h5", ".hdf5"):
        return _shortened(list(_hdf5(one, other, roots)))
    if one.suffix in (".mrc", ".mrcs", ".map"):
        return _mrc(one, other)
    if one.suffix in _TEXT:
        return _text(first.decode("utf-8", "replace"), second.decode("utf-8", "replace"), roots)
    return [f"{len(first)} bytes there, {len(second)} now" if len(first) != len(second) else "other bytes"]


def _roots(one: Path, other: Path) -> tuple[str, str]:
    """The folders that differ: what is left of two paths when the part they share at their end is taken off."""
    a, b = list(one.absolute().parts), list(other.absolute().parts)
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a.pop()
        b.pop()
    return str(Path(*a)), str(Path(*b))


def _alike(one: str, other: str, roots: tuple[str, str]) -> bool:
    return one == other or one.replace(roots[0], "\0") == other.replace(roots[1], "\0")


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]


def _text(one: str, other: str, roots: tuple[str, str]) -> list[str]:
    if _alike(one, other, roots):
        return []
    lines, others = one.splitlines(), other.splitlines()
    different = [at for at, (a, b) in enumerate(zip(lines, others, strict=False), 1) if not _alike(a, b, roots)]
    if not different:
        return [f"{len(lines)} lines there, {len(others)} now"]
    at = different[0]
    return [f"{len(different)} lines differ, the first of them line {at}: {_cut(lines[at - 1])} there, {_cut(others[at - 1])} now"]


def _cut(line: str) -> str:
    text = re.sub(r"\s+", " ", line.strip())
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _mrc(one: Path, other: Path) -> list[str]:
    try:
        headers = [read_header(path) for path in (one, other)]
    except InputError as error:
        return [error.found]
    if headers[0].shape != headers[1].shape or headers[0].dtype != headers[1].dtype:
        return [f"{headers[0].shape} of {headers[0].dtype} there, {headers[1].shape} of {headers[1].dtype} now"]
    data = [np.fromfile(path, header.dtype, offset=header.data_offset) for path, header in zip((one, other), headers, strict=True)]
    if len(data[0]) != len(data[1]):
        return [f"{len(data[0])} voxels there, {len(data[1])} now"]
    return list(_values("voxels", data[0], data[1])) or ["the header alone"]


def _hdf5(one: Path, other: Path, roots: tuple[str, str]) -> Iterator[str]:
    with h5py.File(one, "r") as first, h5py.File(other, "r") as second:
        yield from _attributes("", first.attrs, second.attrs, roots)
        yield from _group("", first, second, roots)


def _group(name: str, one: h5py.Group, other: h5py.Group, roots: tuple[str, str]) -> Iterator[str]:
    for key in sorted({*one, *other}):
        path = f"{name}/{key}".lstrip("/")
        if key not in one or key not in other:
            yield f"{path}: {'only now' if key in other else 'only there'}"
            continue
        yield from _attributes(path, one[key].attrs, other[key].attrs, roots)
        if isinstance(one[key], h5py.Group) and isinstance(other[key], h5py.Group):
            yield from _group(path, one[key], other[key], roots)
        elif isinstance(one[key], h5py.Dataset) and isinstance(other[key], h5py.Dataset):
            yield from _dataset(path, one[key], other[key], roots)


def _attributes(path: str, one: h5py.AttributeManager, other: h5py.AttributeManager, roots: tuple[str, str]) -> Iterator[str]:
    for key in sorted({*one, *other}):
        a, b = (str(attributes[key]) if key in attributes else None for attributes in (one, other))
        if a is None or b is None or not _alike(a, b, roots):
            yield f"{path}@{key}: {'missing' if a is None else _cut(a)} there, {'missing' if b is None else _cut(b)} now"


def _dataset(path: str, one: h5py.Dataset, other: h5py.Dataset, roots: tuple[str, str]) -> Iterator[str]:
    if path.endswith("mtime_ns"):
        return  # of image stacks, which may have been written by this run: the clock, no result
    if one.shape != other.shape or one.dtype != other.dtype:
        yield f"{path}: {one.shape} of {one.dtype} there, {other.shape} of {other.dtype} now"
    elif h5py.check_string_dtype(one.dtype):
        a, b = (np.ravel(data.asstr()[()]) for data in (one, other))
        number = sum(not _alike(str(x), str(y), roots) for x, y in zip(a, b, strict=True))
        if number:
            yield f"{path}: {number} of {len(a)} texts differ"
    else:
        yield from _values(path, np.ravel(one[()]), np.ravel(other[()]))


def _values(path: str, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> Iterator[str]:
    """How many of the values (n,) differ in their bits, and by how much at most."""
    if one.tobytes() == other.tobytes():
        return
    different = ~((one == other) | ((one != one) & (other != other)))
    number = int(different.sum())
    if not number:
        yield f"{path}: the signs of zeros, or the bits of NaNs"
        return
    by = ""
    if np.issubdtype(one.dtype, np.number):
        wide = np.complex128 if np.iscomplexobj(one) else np.float64
        largest = np.nanmax(np.abs(one[different].astype(wide) - other[different].astype(wide)))
        by = f", by up to {float(largest):.3g} where the largest is {float(np.nanmax(np.abs(one.astype(wide)))):.3g}"
    yield f"{path}: {number} of {len(one)} values differ{by}"
