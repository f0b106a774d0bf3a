"""New HDF5 files, so that a disk that refuses a write is an error of Python's and nothing worse."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import h5py


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
