"""One process at a time in a folder: a lock of the operating system on a small file that says who holds it.

The lock goes with its process, however that ends; the file may stay, and then says who was there last. Where the file system knows no
locks (some network ones) none is taken.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from protomer.errors import InputError

#: in the folder of a run, while a process works there; and in the folder of a chain
RUN_LOCK, CHAIN_LOCK = ".lock", ".protomer-run"
PATIENCE_S = 30.0  # a job that was requeued may start before its earlier self has ended
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. slurm_job: its number, where it is one."""

    process: int
    host: str
    since: str
    slurm_job: str = ""

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"), os.environ.get("SLURM_JOB_ID", ""))

    def describe(self) -> str:
        """In words."""
        return f"process {self.process} on {self.host}{f' (SLURM job {self.slurm_job})' if self.slurm_job else ''}, since {self.since}"

    def how_to_stop(self) -> str:
        """The command that stops it in order."""
        return f"`scancel {self.slurm_job}`" if self.slurm_job else f"`kill {self.process}` on {self.host}"


class Lock:
    """A lock that this process holds, until `release` or its end. `before`: who left its file behind, if anyone."""

    def __init__(self, path: Path, handle: int | None, before: Holder | None) -> None:
        self.path, self.before, self._handle = path, before, handle

    def keep_through_exec(self) -> None:
        """Hold the lock also in the program that replaces this process, and not in its children."""
        if self._handle is not None:
            os.set_inheritable(self._handle, True)

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def give_back(self) -> None:
        """Give the lock back as it was found: its file tells again of who left it behind."""
        if self.before is None or self._handle is None:
            self.release()
            return
        write_holder(self._handle, self.before)
        os.close(self._handle)
        self._handle = None


def take_lock(path: Path, patience_s: float = 0.0) -> Lock | Holder:
    """The lock of a file whose folder exists; or who holds it, where that is still so when the patience is over."""
    deadline = time.monotonic() + patience_s
    has_said = False
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return Lock(path, None, None)
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in _NO_LOCKS:
                return Lock(path, None, None)
            if time.monotonic() >= deadline:
                return read_holder(path) or Holder(0, "an unknown machine", "an unknown time")
            if not has_said:
                print(f"protomer: {path.parent} is in use; waiting up to {patience_s:.0f} s", file=sys.stderr)
            has_said = True
            time.sleep(0.2)
            continue
        if _is_still(path, handle):
            before = read_holder(path)
            write_holder(handle, Holder.here())
            return Lock(path, handle, before)
        os.close(handle)  # its last holder removed the file meanwhile


def holder_of(path: Path) -> Holder | None:
    """Who holds a lock at this moment; None where nobody does, or where there is no such file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else read_holder(path) or Holder(0, "an unknown machine", "an unknown time")
    finally:
        os.close(handle)
    return None


def read_holder(path: Path) -> Holder | None:
    """Who wrote a lock's file, or None where it cannot be read."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_holder(handle: int, holder: Holder) -> None:
    """Replace what a lock's open file says."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(holder)).encode(), 0)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


class FolderLock:
    """The folder of a run, held by its rank 0 while the run works there: `with FolderLock(folder, team.is_first) as lock`.

    The folder is made where there is none, and removed at the end where nothing is in it.
    """

    def __init__(self, folder: Path, is_holder: bool) -> None:
        self._folder, self._is_holder = folder, is_holder
        self._lock: Lock | None = None

    def take(self) -> None:
        """Take the lock (rank 0). Raises InputError where another process keeps it for longer than the patience."""
        if not self._is_holder or (self._folder.exists() and not self._folder.is_dir()):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # the first write will say what is wrong with the disk
        found = take_lock(self._folder / RUN_LOCK, PATIENCE_S)
        if isinstance(found, Holder):
            raise InputError(f"--output {self._folder} is in use: {found.describe()} works there", "one process at a time in a folder",
                             f"wait until it has ended and give the same command with --resume, or stop it first: {found.how_to_stop()}")
        self._lock = found

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._lock is None:
            return
        self._lock.release()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()
