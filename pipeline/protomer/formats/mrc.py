"""MRC2014 files: volumes and image stacks (Cheng et al. 2015, J. Struct. Biol. 192, 146).

Modes 0 (8 bits), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16) in either byte order. Files without the `MAP ` identifier, or with
a wrong machine stamp, are read with a warning. No number in a header is trusted: it is held against the size of the file before any
memory is asked for.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mrcfile import utils as mrc_utils
from mrcfile.dtypes import HEADER_DTYPE

from protomer.errors import InputError
from protomer.maps.volumes import Volume
from protomer.running.output import writing_atomically

HEADER_BYTES = 1024
ByteOrder = Literal["<", ">"]
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_STAMP = 1146047817  # "IMOD" at word 39: then bit 1 of word 40 says whether the bytes of mode 0 are signed
_ANISOTROPY = 1e-3
LARGEST_HALF_FLOAT = 65504.0


@dataclass(frozen=True)
class Header:
    """What a header says, already held against the file: `shape` is (sections, rows, columns) as stored."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    data_offset: int
    voxel_size_A: tuple[float, float, float]  # x, y, z; 0 where the header does not say
    axes: tuple[int, int, int]  # which of x (1), y (2), z (3) the columns, rows and sections are
    file_bytes: int
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y, z of the first voxel, as programs that show maps take it

    @property
    def section_bytes(self) -> int:
        """Bytes of one section (one image of a stack)."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def expected_bytes(self) -> int:
        """Size that a whole file with this header has."""
        return self.data_offset + self.shape[0] * self.section_bytes

    @property
    def whole_sections(self) -> int:
        """Sections that lie wholly inside the file."""
        return min(self.shape[0], max(0, self.file_bytes - self.data_offset) // self.section_bytes)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of an MRC file.

    Raises InputError where the file is missing, too short, of another kind or of a mode that is not read. Warns (UserWarning) where the
    identifier or machine stamp is missing or wrong.
    """
    try:
        with open(path, "rb") as handle:
            raw = handle.read(HEADER_BYTES)
            size = os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a readable MRC file",
                         "check the path and its permissions") from error
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{path} has {size} bytes", f"an MRC file, which begins with a header of {HEADER_BYTES} bytes",
                         "copy the file again; it is truncated or not an MRC file")
    order = _byte_order(path, raw, size)
    words = _words(raw, order)
    mode, shape = int(words["mode"]), (int(words["nz"]), int(words["ny"]), int(words["nx"]))
    dtype = np.dtype(MODES[mode]).newbyteorder(order)
    if mode == 0 and _bytes_are_unsigned(raw, order):
        dtype = np.dtype("u1")
    sampling = (int(words["mx"]), int(words["my"]), int(words["mz"]))
    cell = (float(words["cella"]["x"]), float(words["cella"]["y"]), float(words["cella"]["z"]))
    voxel = tuple(c / m if m > 0 and np.isfinite(c) and c > 0 else 0.0 for c, m in zip(cell, sampling, strict=True))
    axes = (int(words["mapc"]), int(words["mapr"]), int(words["maps"]))
    axes = axes if sorted(axes) == [1, 2, 3] else (1, 2, 3)
    return Header(shape, dtype, HEADER_BYTES + max(0, int(words["nsymbt"])), (voxel[0], voxel[1], voxel[2]), axes, size,
                  _origin(words, axes, voxel))


def _origin(words: np.ndarray, axes: tuple[int, int, int], voxel_A: tuple[float, ...]) -> tuple[float, float, float]:
    """The header's origin, or where that is zero its start (columns, rows, sections) times the voxel size."""
    origin = [float(words["origin"][name]) for name in "xyz"]
    if not any(origin) or not np.isfinite(origin).all():
        starts = dict(zip(axes, (int(words[name]) for name in ("nxstart", "nystart", "nzstart")), strict=True))
        origin = [starts[axis] * voxel_A[axis - 1] for axis in (1, 2, 3)]
    return origin[0], origin[1], origin[2]


def _words(raw: bytes, order: ByteOrder) -> np.ndarray:
    return np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]


def _byte_order(path: str | os.PathLike[str], raw: bytes, size: int) -> ByteOrder:
    """The byte order in which the header makes sense: the machine stamp's if it does, else the other with a warning."""
    words = _words(raw, "<")
    if bytes(words["map"])[:3] != b"MAP":
        warnings.warn(f"{path}: the MAP identifier is missing from the header; read as MRC all the same", stacklevel=4)
    try:
        stamped = mrc_utils.byte_order_from_machine_stamp(words["machst"])
    except ValueError:
        stamped = ""
    orders: tuple[ByteOrder, ByteOrder] = (">", "<") if stamped == ">" else ("<", ">")
    bytes_of = {order: _announced_bytes(_words(raw, order)) for order in orders}
    possible = [order for order in orders if bytes_of[order] > 0]
    if not possible:
        raise InputError(f"{path}: mode {words['mode']}, {words['nx']} x {words['ny']} x {words['nz']}",
                         "an MRC file of mode 0, 1, 2, 6 or 12 with positive sizes",
                         "convert the file with the program that wrote it (complex and 4-bit modes are not read)")
    chosen = ([order for order in possible if bytes_of[order] <= size] or possible)[0]
    if stamped != chosen:
        warnings.warn(f"{path}: the machine stamp is {'wrong' if stamped else 'unknown'}; the byte order was taken from the sizes",
                      stacklevel=4)
    return chosen


def _announced_bytes(words: np.ndarray) -> int:
    """Bytes of the data that the header announces; 0 where it makes no sense."""
    sizes = [int(words[name]) for name in ("nx", "ny", "nz")]
    mode = int(words["mode"])
    return sizes[0] * sizes[1] * sizes[2] * np.dtype(MODES[mode]).itemsize if mode in MODES and min(sizes) > 0 else 0


def _bytes_are_unsigned(raw: bytes, order: ByteOrder) -> bool:
    """Whether IMOD says that mode 0 holds unsigned bytes (its older default); MRC2014 says signed."""
    stamp, flags = np.frombuffer(raw, np.dtype("i4").newbyteorder(order), 2, 152)
    return bool(stamp == _IMOD_STAMP and not flags & 1)


def read_volume(path: str | os.PathLike[str], voxel_size_A: float | None = None) -> Volume:
    """Read a cubic map as float32 [z, y, x] whatever its mode, byte order and axis order; `voxel_size_A` overrides the header's.

    The header's origin and start are not used here: the centre is at box//2. Raises InputError for a truncated, non-cubic or non-finite
    map, and where neither header nor caller gives a voxel size.
    """
    header = read_header(path)
    if header.file_bytes < header.expected_bytes:
        raise InputError(f"{path} has {header.file_bytes} bytes",
                         f"{header.expected_bytes} bytes, from its header ({header.shape}, {header.dtype})",
                         "copy the file again: it is truncated")
    if len(set(header.shape)) != 1:
        raise InputError(f"{path} is {' x '.join(str(n) for n in header.shape[::-1])}", "a cubic map",
                         "pad it to a cube around its centre first")
    size = voxel_size_A if voxel_size_A is not None else _voxel_size(path, header)
    data = np.fromfile(path, header.dtype, int(np.prod(header.shape)), offset=header.data_offset).reshape(header.shape)
    order = [header.axes[2 - i] for i in range(3)]  # stored axis 0 is sections (maps), 1 rows (mapr), 2 columns (mapc)
    data = np.ascontiguousarray(data.transpose([order.index(axis) for axis in (3, 2, 1)]), np.float32)
    if not np.isfinite(data).all():
        raise InputError(f"{path} holds {int((~np.isfinite(data)).sum())} voxels that are NaN or infinite", "finite values",
                         "make the map again; a mask division or a failed refinement may have left them")
    return Volume(data, float(size))


def _voxel_size(path: str | os.PathLike[str], header: Header) -> float:
    """The header's voxel size, which must be there; a warning where the three axes differ."""
    if min(header.voxel_size_A) <= 0:
        raise InputError(f"{path} says no voxel size (its cell is zero)", "a voxel size in the header",
                         f"write it into the header, such as 3.5 Å: protomer volume --volume {path} --set voxel_size=3.5A --set scale=1 "
                         "--output with_header")
    if max(header.voxel_size_A) - min(header.voxel_size_A) > _ANISOTROPY * header.voxel_size_A[0]:
        warnings.warn(f"{path}: the voxel sizes {header.voxel_size_A} differ between axes; the first is used", stacklevel=3)
    return header.voxel_size_A[0]


class StackReader:
    """Random access to the images of one stack; safe to share between threads (every read names its place).

    `number` images of `box` pixels are announced, `number_whole` of them lie inside the file; `pixel_size_A` is 0.0 where the header is
    silent. Raises InputError where the file is no MRC stack of square images.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.header = read_header(path)
        self.number, rows, self.box = self.header.shape
        if rows != self.box:
            raise InputError(f"{path}: images of {self.box} x {rows} pixels", "square images", "re-extract the particles in a square box")
        self.number_whole = self.header.whole_sections
        self.pixel_size_A = self.header.voxel_size_A[0]
        self._handle = os.open(self.path, os.O_RDONLY)
        self._finaliser = weakref.finalize(self, os.close, self._handle)
        status = os.fstat(self._handle)
        self.size_bytes, self.mtime_ns = status.st_size, status.st_mtime_ns

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._finaliser()

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def digest(self) -> str:
        """SHA-256 of the whole file, in hexadecimal."""
        with open(self.path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()

    def read(self, indices: np.ndarray | list[int] | range) -> np.ndarray:
        """Images `indices` (from 0, any order) as (n, box, box) float32. Raises InputError past the end or where the file is truncated."""
        wanted = np.asarray(indices, np.int64)
        self._require_inside(wanted)
        stored = np.empty((len(wanted), self.box, self.box), self.header.dtype)
        starts = np.flatnonzero(np.diff(wanted, prepend=wanted[:1] - 2) != 1)  # runs of neighbours are read in one call
        runs = list(zip(starts, [*starts[1:], len(wanted)], strict=True))
        for first, last in runs:
            length = int(last - first) * self.header.section_bytes
            os.posix_fadvise(self._handle, self._offset(wanted[first]), length, os.POSIX_FADV_WILLNEED)
        for first, last in runs:
            self._fill(stored[first:last], self._offset(wanted[first]))
        return stored.astype(np.float32, copy=False)

    def _offset(self, index: int) -> int:
        return self.header.data_offset + int(index) * self.header.section_bytes

    def _fill(self, out: np.ndarray, offset: int) -> None:
        view, done = out.reshape(-1).view(np.uint8).data, 0
        while done < len(view):
            count = os.preadv(self._handle, [view[done:]], offset + done)
            if count == 0:
                raise InputError(f"{self.path} ended at byte {offset + done} while it was read", f"{self.header.expected_bytes} bytes",
                                 "the file changed under the program: import it again")
            done += count

    def _require_inside(self, wanted: np.ndarray) -> None:
        if len(wanted) == 0:
            return
        lowest, highest = int(wanted.min()), int(wanted.max())
        if lowest < 0 or highest >= self.number:
            raise InputError(f"image {(lowest if lowest < 0 else highest) + 1} of {self.path}", f"an image between 1 and {self.number}",
                             "check that the particle table belongs to this stack")
        if highest >= self.number_whole:
            raise InputError(f"{self.path} has {self.size_bytes} bytes and ends inside image {self.number_whole + 1}; "
                             f"image {highest + 1} is wanted",
                             f"{self.header.expected_bytes} bytes, from its header ({self.number} images)",
                             "copy the stack again, or leave these images out of the table")


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a map as mode 2, atomically; the same volume gives the same bytes. Raises StorageError where the disk refuses."""
    _write(path, volume.data, volume.voxel_size_A, is_stack=False)


def write_stack(path: str | os.PathLike[str], images: np.ndarray, pixel_size_A: float, half_precision: bool = False) -> None:
    """Write (n, box, box) images as mode 2, or mode 12 with `half_precision`, atomically.

    Raises InputError where values do not fit half precision, StorageError where the disk refuses.
    """
    largest = float(np.abs(images).max(initial=0.0))
    if half_precision and not largest <= LARGEST_HALF_FLOAT:
        raise InputError(f"grey values up to {largest:g}", f"at most {LARGEST_HALF_FLOAT:g} for a float16 stack",
                         "normalise the images, or write them in full precision")
    _write(path, np.asarray(images, np.float16 if half_precision else np.float32), pixel_size_A, is_stack=True)


def _write(path: str | os.PathLike[str], data: np.ndarray, pixel_size_A: float, is_stack: bool) -> None:
    import mrcfile

    with writing_atomically(Path(path)) as temporary, mrcfile.new(temporary, overwrite=True) as handle:
        handle.set_data(np.ascontiguousarray(data))
        if is_stack:
            handle.set_image_stack()
        else:
            handle.set_volume()
        handle.voxel_size = pixel_size_A
        handle.header.label[:] = b""  # the library's own label holds the time, which would change the bytes
        handle.header.label[0] = b"Protomer"
        handle.header.nlabl = 1
