"""cryoSPARC .cs files as tables of fields: the NumPy structured array and the compressed stream that newer versions write.

The stream: the six bytes 95 43 53 44 41 54; a little-endian uint32 and that many bytes of JSON with `length`, `dtype` (name, type and
shape of each field), `compression` and `compressed_fields`; then, unless the length is 0, for each field in that order a uint32 and that
many bytes, an LZ4 block where the field is listed as compressed; then, to the end, NUL-terminated texts. Fields of type `|O` hold uint64
offsets into those texts. (Established on files that cryosparc-tools 5.0.3 wrote.) Nothing is unpickled, and no length is believed before
it is held against the size of the file.
"""

from __future__ import annotations

import json
import os
import struct
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from protomer.errors import InputError
from protomer.running.output import writing_atomically

NUMPY_MAGIC = b"\x93NUMPY"
STREAM_MAGIC = b"\x95CSDAT"
_LARGEST_HEADER = 1 << 20
_LZ4_LARGEST_RATIO = 255

#: field name -> (n, ...) array; texts are bytes
Fields = dict[str, np.ndarray]


def read_fields(path: str | os.PathLike[str]) -> Fields:
    """All fields of a .cs file. Raises InputError where it is none, is damaged, or holds Python objects."""
    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            magic = handle.read(len(NUMPY_MAGIC))
            if magic == NUMPY_MAGIC:
                return _read_numpy(handle, size)
            if magic == STREAM_MAGIC:
                return _read_stream(handle, size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a readable .cs file",
                         "check the path and its permissions") from error
    except (ValueError, TypeError, KeyError, struct.error, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {error}", "a whole .cs file without Python objects",
                         "copy or export the file again") from error
    raise InputError(f"{path} begins with {magic!r}", "a .cs file (a NumPy array or a CSDAT stream)",
                     "give the .cs file of a cryoSPARC job")


def write_fields(path: str | os.PathLike[str], fields: Mapping[str, np.ndarray]) -> None:
    """Write fields as a NumPy structured array, which every version of cryoSPARC reads, atomically. Raises StorageError."""
    n = len(next(iter(fields.values())))
    table = np.zeros(n, [(name, column.dtype, column.shape[1:]) for name, column in fields.items()])
    for name, column in fields.items():
        table[name] = column
    with writing_atomically(Path(path)) as temporary, open(temporary, "wb") as handle:
        np.lib.format.write_array(handle, table, version=(1, 0) if len(str(table.dtype.descr)) < 60000 else (2, 0), allow_pickle=False)


def join(main: Fields, passthrough: Fields, path: Path, passthrough_path: Path) -> Fields:
    """The fields of `main`, and those that only `passthrough` has, matched by uid. Raises InputError where a uid is missing or repeats."""
    for where, fields in ((path, main), (passthrough_path, passthrough)):
        if "uid" not in fields or len(np.unique(fields["uid"])) < len(fields["uid"]):
            raise InputError(f"{where}: {'repeated uids' if 'uid' in fields else 'no field uid'}", "a field uid, each value once",
                             "export the particles from cryoSPARC again")
    order = np.argsort(passthrough["uid"])
    position = np.searchsorted(passthrough["uid"], main["uid"], sorter=order)
    rows = order[np.minimum(position, len(order) - 1)] if len(order) else np.zeros(len(main["uid"]), int)
    lost = int((passthrough["uid"][rows] != main["uid"]).sum()) if len(order) else len(main["uid"])
    if lost:
        raise InputError(f"{lost} of {len(main['uid'])} particles of {path} are not in {passthrough_path}",
                         "the passthrough file of the same job",
                         "give the pair of files that one cryoSPARC job wrote")
    return {**main, **{name: column[rows] for name, column in passthrough.items() if name not in main}}


def _read_numpy(handle: BinaryIO, size: int) -> Fields:
    handle.seek(0)
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(handle, max_header_size=_LARGEST_HEADER)
    except (SyntaxError, tokenize.TokenError, MemoryError) as error:  # MemoryError: what Python's parser says of too deep a nest
        raise ValueError(f"its header is no description of an array ({error})") from error
    if dtype.hasobject or dtype.names is None or len(shape) != 1:
        raise ValueError(f"an array of shape {shape} and type {str(dtype)[:80]}; expected one row of fields per particle, no objects")
    if shape[0] * dtype.itemsize > size - handle.tell():
        raise ValueError(f"{shape[0]} rows of {dtype.itemsize} bytes announced, {size - handle.tell()} bytes there")
    table = np.fromfile(handle, dtype, shape[0])
    return {name: np.ascontiguousarray(table[name]) for name in dtype.names}


def _read_stream(handle: BinaryIO, size: int) -> Fields:
    header = json.loads(_take(handle, size))
    n, compressed = int(header["length"]), set(header["compressed_fields"])
    if header["compression"] not in (None, "lz4") or n < 0:
        raise ValueError(f"length {n}, compression {header['compression']!r}; expected lz4 or none")
    raw: Fields = {}
    texts: list[str] = []
    for name, kind, *rest in header["dtype"]:
        shape = (n, *(tuple(int(s) for s in rest[0]) if rest else ()))
        if kind == "|O":
            texts.append(name)
        dtype = np.dtype(np.uint64 if kind == "|O" else kind)
        raw[name] = _column(_take(handle, size) if n else b"", dtype, shape, name in compressed)
    heap = handle.read()
    return {name: _texts(column, heap) if name in texts else column for name, column in raw.items()}


def _take(handle: BinaryIO, size: int) -> bytes:
    """The next length-prefixed piece, not longer than what is left of the file."""
    (length,) = struct.unpack("<I", handle.read(4))
    if length > size - handle.tell():
        raise ValueError(f"{length} bytes announced, {size - handle.tell()} left")
    return handle.read(length)


def _column(stored: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], is_compressed: bool) -> np.ndarray:
    if dtype.hasobject or dtype.kind not in "iufbS":
        raise ValueError(f"a field of type {dtype}")
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if is_compressed and stored:
        import lz4.block

        if expected > len(stored) * _LZ4_LARGEST_RATIO:
            raise ValueError(f"{expected} bytes announced in {len(stored)} compressed ones")
        stored = lz4.block.decompress(stored, uncompressed_size=expected)
    if len(stored) != expected:
        raise ValueError(f"a field of {len(stored)} bytes instead of {expected}")
    return np.frombuffer(stored, dtype).reshape(shape)


def _texts(offsets: np.ndarray, heap: bytes) -> np.ndarray:
    """Texts (bytes) at offsets into the heap; each distinct one is looked up once."""
    distinct, inverse = np.unique(offsets, return_inverse=True)
    if len(distinct) and int(distinct[-1]) >= max(len(heap), 1):
        raise ValueError(f"a text at {int(distinct[-1])} of {len(heap)} bytes")
    found = [heap[int(o):heap.find(b"\0", int(o)) if heap.find(b"\0", int(o)) >= 0 else len(heap)] for o in distinct]
    return np.array(found, "S")[inverse.reshape(offsets.shape)] if found else np.zeros(offsets.shape, "S1")
