"""Where prepared images are kept: in memory where they fit, else in a folder on the node's own disk, from which they stream."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from protomer.errors import InputError
from protomer.running.events import Events

SPARE = 0.9  # of what is free that may be filled, in memory and on disk
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory_bytes() -> int:
    """Memory that the job's processes here may still take: what the machine has free, or less where the batch system allows less."""
    free = []
    if (allowed := os.environ.get("SLURM_MEM_PER_NODE", "")).isdigit() and int(allowed):
        free.append(int(allowed) * 2**20)
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(1024 * int(line.split()[1]))
    for limit, used in _CGROUP_FILES:
        if (most := _text(limit).strip()).isdigit() and (now := _text(used).strip()).isdigit():
            free.append(max(0, int(most) - int(now)))
    return min(free, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def image_folder(given: Path | None, image_bytes: int, other_bytes: int, ranks_here: int, events: Events) -> Path | None:
    """The folder for this rank's prepared images; None: they stay in memory.

    given: the user's choice, which is followed. image_bytes, other_bytes: bytes of one rank; ranks_here: ranks on
    this machine. A folder that is chosen here is removed when the process ends. Raises InputError where neither memory nor disk suffices.
    """
    if given is not None:
        return given
    memory = available_memory_bytes() * SPARE / ranks_here
    if image_bytes + other_bytes <= memory:
        return None
    base = Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())
    free = shutil.disk_usage(base).free * SPARE / ranks_here
    if image_bytes > free:
        raise InputError(
            f"the prepared images of one rank take {image_bytes / 1e9:.1f} GB; {memory / 1e9:.1f} GB of memory are free for it and "
            f"{free / 1e9:.1f} GB in {base}",
            "room for them in memory or on the node's own disk",
            "give --cache DIR with a large local disk, set half_precision, use more nodes, or import with a larger bin",
        )
    folder = Path(tempfile.mkdtemp(prefix="protomer-images-", dir=base))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    events.event("image_cache", folder=str(folder), image_GB=round(image_bytes / 1e9, 2), free_memory_GB=round(memory / 1e9, 2))
    return folder
