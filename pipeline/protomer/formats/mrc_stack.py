"""Image stacks written piece by piece, digested as they are written, so that no byte is read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from mrcfile import utils as mrc_utils
from mrcfile.dtypes import HEADER_DTYPE

from protomer.errors import InputError
from protomer.formats.mrc import LARGEST_HALF_FLOAT
from protomer.running.output import writing_atomically
from protomer.tables.particles import Stack


class StackWriter:
    """A stack of `number` images of `box` pixels that is being written, in order; float32, or float16 (mode 12) with half_precision."""

    def __init__(self, file: BinaryIO, number: int, box: int, pixel_size_A: float, half_precision: bool) -> None:
        self._file, self._digest, self._left = file, hashlib.sha256(), number
        self._dtype = np.dtype("<f2" if half_precision else "<f4")
        self._put(stack_header(number, box, pixel_size_A, half_precision))

    def append(self, images: np.ndarray) -> None:
        """The next images (n, box, box). Raises InputError where values do not fit half precision."""
        if self._dtype.itemsize == 2 and not float(np.abs(images).max(initial=0.0)) <= LARGEST_HALF_FLOAT:
            raise InputError(f"grey values beyond {LARGEST_HALF_FLOAT:g}", "values that a float16 stack can hold",
                             "import with normalise on, or write float32 images")
        self._put(np.ascontiguousarray(images, self._dtype).reshape(-1).view(np.uint8).data)
        self._left -= len(images)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)

    def finish(self) -> str:
        """The SHA-256 of the whole file in hexadecimal. Raises ValueError where images are missing."""
        if self._left:
            raise ValueError(f"{self._left} images fewer than announced")
        return self._digest.hexdigest()


@contextmanager
def writing_stack(path: Path, number: int, box: int, pixel_size_A: float, half_precision: bool) -> Iterator[StackWriter]:
    """A writer of the stack `path`, which appears, whole, when the block ends. Raises StorageError where the disk refuses."""
    with writing_atomically(path) as temporary:
        with temporary.open("wb") as file:
            yield StackWriter(file, number, box, pixel_size_A, half_precision)


def stack_header(number: int, box: int, pixel_size_A: float, half_precision: bool) -> bytes:
    """The header of a stack whose grey values are not known yet, which MRC2014 says by a maximum below the minimum."""
    header = np.zeros(1, HEADER_DTYPE.newbyteorder("<"))[0]
    header["nx"], header["ny"], header["nz"] = box, box, number
    header["mode"] = 12 if half_precision else 2
    header["mx"], header["my"], header["mz"] = box, box, 1  # of a stack; the space group, 0, says that it is one
    for axis in "xyz":
        header["cella"][axis] = pixel_size_A * (1 if axis == "z" else box)
    for angle in ("alpha", "beta", "gamma"):
        header["cellb"][angle] = 90.0
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = 0.0, -1.0, -2.0, -1.0
    header["map"], header["machst"], header["nversion"] = b"MAP ", mrc_utils.machine_stamp_from_byte_order("<"), 20141
    header["nlabl"], header["label"][0] = 1, b"Protomer"
    return header.tobytes()


def described(path: Path, number: int, box: int, digest: str) -> Stack:
    """The entry of a stack that was just written, for a table of particles."""
    status = os.stat(path)
    return Stack(str(path.absolute()), number, box, status.st_size, status.st_mtime_ns, digest)
