"""Writing files so that a reader never sees half of one: a temporary file in the same folder, fsync, atomic rename."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protomer.errors import StorageError

PARTIAL = ".partial-"
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO)


@contextmanager
def writing_atomically(path: Path) -> Iterator[Path]:
    """A temporary path to write to (same folder, same ending); it takes the place of `path` when the block ends without an error.

    Raises StorageError where the disk refuses (full, no permission); whatever the error, the temporary file is removed.
    """
    temporary = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if refused_by_disk(error):
            raise StorageError(storage_message(path, error)) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refused_by_disk(error: BaseException) -> bool:
    """Whether an error means that the storage refused a write; HDF5 gives the system's words in place of its number."""
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return True
    return isinstance(error, (OSError, RuntimeError)) and any(os.strerror(number) in str(error) for number in _REFUSALS)


def storage_message(path: Path, error: BaseException) -> str:
    """What was refused, how much room is left there, and what to do."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    meant = path.with_name(path.name.removeprefix(PARTIAL).partition("-")[2]) if path.name.startswith(PARTIAL) else path
    return (f"cannot write {meant}: {reason}\n  expected: a writable folder with room; {folder} has {free / 1e9:.3f} GB free\n"
            f"  what to do: free some space or choose a folder with room (--output, --cache), then give the same command with --resume")


def reserve_space(path: Path) -> None:
    """Give an existing file all its blocks on disk, before it is written through memory: there a full disk would kill the process.

    Raises OSError where there is no room.
    """
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half written in a folder and its subfolders."""
    for leftover in folder.rglob(f"{PARTIAL}*"):
        leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class OutputFolder:
    """The folder of one run. Only rank 0 writes; every finished file is told to `wrote`."""

    def __init__(self, folder: Path, is_writer: bool = True, wrote: Callable[[str], None] = lambda name: None) -> None:
        self.folder, self.is_writer, self._wrote = folder, is_writer, wrote

    def path(self, name: str) -> Path:
        """Where the output of that name lies, such as 'particles.h5' or 'class_1/volume.h5'."""
        return self.folder / name

    def within(self, name: str) -> OutputFolder:
        """A folder in this one; what is written there is told under its name."""
        return OutputFolder(self.path(name), self.is_writer, lambda inner: self._wrote(f"{name}/{inner}"))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary path for the output `name`, which appears, complete, when the block ends. Raises StorageError."""
        if not self.is_writer:
            raise RuntimeError(f"{name}: only rank 0 writes outputs")
        with writing_atomically(self.path(name)) as temporary:
            yield temporary
        self._wrote(name)

    def write_text(self, name: str, text: str) -> None:
        """Write a whole text file (UTF-8)."""
        with self.writing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")
