"""A folder of prepared images on a node's own disk, shared by ranks and jobs, kept below a size.

An entry is named by a digest of all that went into it, so that whoever finds it there may use it. What may meet, and how it is settled:

- Two that prepare the same entry: the second waits for the first, and reads what it made (a lock file for each 64th of the names).
- Room: an entry's room is taken before it is prepared. Where there is none, entries that were used longest ago go, but none that a
  living process uses: each process has a file that it keeps locked and in which it lists what it uses. The kernel drops such locks with
  the process, however it ends, and what it had listed is then free to go.
- A full disk, or a folder full of what others use: the caller is told, once, and prepares those images each time that it needs them.
- Half-written entries appear under no name that is looked for; each entry ends with a checksum, which every process reads once.

All locks are flock(2): of one machine. The folder belongs on its own disk, not on one that several machines share. Who may write to it can
change what others compute: share it with people you trust.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from protomer.errors import StorageError
from protomer.running.output import PARTIAL, refused_by_disk

SPARE = 0.9  # of what is free that may be filled
ENTRY, USER, LOCK, MAKING = ".npy", ".user-", ".lock", ".making-"
STRIPES = 64
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
HEADER_BYTES, CHECKSUM_BYTES = 256, 4  # room for what surrounds the numbers

Warn = Callable[[str, str], None]


class ImageCache:
    """One process's use of a cache folder. limit_bytes: what all entries together may take; None: as much as the disk has room for."""

    def __init__(self, folder: Path, limit_bytes: int | None, warn: Warn, is_temporary: bool = False) -> None:
        """Open or make the folder. is_temporary: it goes when the last process that uses it leaves. Raises OSError where it cannot be used;
        a disk that is too full for that is warned of, and nothing is kept."""
        self.folder, self._limit, self._warn, self._is_temporary = folder, limit_bytes, warn, is_temporary
        self._used: set[str] = set()
        self._whole: set[str] = set()
        self.refused = 0
        self._user, self._handle = folder / f"{USER}{os.getpid()}-{secrets.token_hex(4)}", -1
        try:
            with self._entered():
                self._handle = os.open(self._user, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                fcntl.flock(self._handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._refuse(os.strerror(error.errno or 0))

    def close(self) -> None:
        """Leave: what this process used may go from now on, and the whole folder where it was temporary and nobody is left."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError), self._entered():
            self._user.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1
            if self._is_temporary and not self._living():
                shutil.rmtree(self.folder, ignore_errors=True)

    def fetch(self, name: str, number_of_bytes: int, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The entry of that name, read from disk as it is needed; made, and kept, where it is not there. None where there is no room for
        it: the caller prepares what it needs. number_of_bytes: what `make` will give."""
        if self._handle < 0:
            self.refused += 1
            return None
        found = self._open(name)
        if found is not None:
            return found
        with self._held(f"{MAKING}{int(name[:8], 16) % STRIPES:02d}"):
            found = self._open(name)
            return found if found is not None else self._made(name, number_of_bytes, make)

    def _open(self, name: str) -> np.ndarray | None:
        """An entry that is there and whole, marked as used now."""
        path = self.folder / f"{name}{ENTRY}"
        with self._entered():
            if not path.exists():
                return None
            self._note_use(name)
        with contextlib.suppress(OSError):
            os.utime(path)
        try:
            found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            if name in self._whole or _checksum_of(path, found) == zlib.crc32(found.data):
                self._whole.add(name)
                return found
        except (OSError, ValueError, EOFError):
            pass
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _note_use(self, name: str) -> None:
        if name not in self._used:
            self._used.add(name)
            with contextlib.suppress(OSError):  # a disk without room for this line: the entry may go while it is used, which harms nobody
                os.write(self._handle, f"{name}\n".encode())

    def _made(self, name: str, number_of_bytes: int, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """Prepare an entry in room that was taken for it; None where there is none."""
        temporary = self.folder / f"{PARTIAL}{self._user.name}-{name}"
        size = number_of_bytes + HEADER_BYTES + CHECKSUM_BYTES
        try:
            with self._entered():
                if not self._make_room(size):
                    self._refuse("other images that running jobs use fill it up to its limit")
                    return None
                self._note_use(name)
                _take(temporary, size)
            array = make()
            _write(temporary, array)
            os.replace(temporary, self.folder / f"{name}{ENTRY}")
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, StorageError) or not (isinstance(error, OSError) and refused_by_disk(error)):
                raise
            self._refuse(os.strerror(error.errno or 0))
            return None
        self._whole.add(name)
        return self._open(name)

    def _refuse(self, why: str) -> None:
        """Count an entry that is not kept, and say so the first time."""
        self.refused += 1
        self._warn("image_cache_full", f"the cache of prepared images {self.folder} takes no more ({why}): images that are not in it are "
                                       "read and prepared anew each time, which is slower; give --cache DIR on a disk with more room, or "
                                       "raise PROTOMER_CACHE_GB where it is set")

    def _make_room(self, size: int) -> bool:
        """Whether an entry of that size fits, once those have gone that were used longest ago and that nobody living uses."""
        entries = sorted(((status.st_mtime_ns, status.st_size, path) for path in self.folder.iterdir()
                          if path.name.endswith(ENTRY) or path.name.startswith(PARTIAL)
                          for status in _status(path)), key=lambda entry: entry[:2])
        users = self._living()
        taken = sum(entry[1] for entry in entries)
        most = SPARE * (taken + shutil.disk_usage(self.folder).free)
        most = min(most, self._limit) if self._limit is not None else most
        in_use = {name for _, names in users.items() for name in names} | self._used
        for _, entry_size, path in entries:
            if taken + size <= most:
                break
            is_dead = path.name.startswith(PARTIAL) and not any(user in path.name for user in (*users, self._user.name))
            if is_dead or (path.name.endswith(ENTRY) and path.name.removesuffix(ENTRY) not in in_use):
                with contextlib.suppress(OSError):
                    path.unlink()
                    taken -= entry_size
        return taken + size <= most

    def _living(self) -> dict[str, list[str]]:
        """The files of other living processes, and the names of the entries that each uses; those of dead ones are removed."""
        living: dict[str, list[str]] = {}
        for path in self.folder.glob(f"{USER}*"):
            if path == self._user:
                continue
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                except (BlockingIOError, PermissionError):
                    living[path.name] = path.read_text(encoding="utf-8", errors="replace").split()
                finally:
                    os.close(handle)
        return living

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        """Alone in the folder, which is made where it is not there: it may have gone with the last who used it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700 if self._is_temporary else 0o777)
            with self._held(LOCK) as is_there:
                if is_there:
                    yield
                    return

    @contextlib.contextmanager
    def _held(self, name: str) -> Iterator[bool]:
        """A lock file, held; whether it is still the one of that name."""
        path = self.folder / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user's: its lock can be taken all the same
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            now = list(_status(path))
            yield bool(now) and now[0].st_ino == os.fstat(handle).st_ino
        finally:
            os.close(handle)


def _status(path: Path) -> Iterator[os.stat_result]:
    """The status of a file, if it is still there."""
    with contextlib.suppress(OSError):
        yield path.stat()


def _take(path: Path, size: int) -> None:
    """Make a file that has its room on disk already. Raises OSError where there is none."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.posix_fallocate(handle, 0, size)
    finally:
        os.close(handle)


def _write(path: Path, array: np.ndarray) -> None:
    """The array as a .npy file, and its checksum after it."""
    with path.open("r+b") as file:
        np.save(file, array, allow_pickle=False)
        file.write(zlib.crc32(array.data).to_bytes(CHECKSUM_BYTES, "little"))
        file.truncate()


def _checksum_of(path: Path, array: np.ndarray) -> int | None:
    """The checksum behind the array of a .npy file; None where the file does not end with one."""
    with path.open("rb") as file:
        file.seek(-CHECKSUM_BYTES, os.SEEK_END)
        at, raw = file.tell(), file.read()
    offset = getattr(array, "offset", 0)
    return int.from_bytes(raw, "little") if at == offset + array.nbytes else None
