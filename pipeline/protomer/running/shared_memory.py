"""Shared memory that killed ranks left on a node, cleared before MPI starts.

mpich names the memory of a node's ranks after the job and step, and takes what it finds under that name. A job that was killed leaves it
there; the same job, requeued onto the same node, then waits for ever on what the dead ranks wrote.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER, NAMES = Path("/dev/shm"), "mpich_shm_*"
SETTLED_S = 10.0  # younger memory may belong to a job that is just starting


def clear_left_shared_memory(folder: Path = FOLDER, settled_s: float = SETTLED_S) -> list[Path]:
    """Remove this user's memory of mpich that no process has open any more; what was removed.

    For the first rank of a node, before it starts MPI: the others look for the memory only once the first has made it.
    """
    old = [path for path in folder.glob(NAMES) if _is_own_and_old(path, settled_s)]
    in_use = _mapped_files() if old else set()
    removed = [path for path in old if str(path) not in in_use]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def _is_own_and_old(path: Path, settled_s: float) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_uid == os.getuid() and time.time() - found.st_mtime > settled_s


def _mapped_files() -> set[str]:
    """Paths of mpich's memory that processes have mapped, of those that this user may look into: all of the user's own."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # ended meanwhile, or another user's
            continue
        found |= {line[line.index("/") :] for line in lines if "mpich_shm_" in line and "/" in line}
    return found
