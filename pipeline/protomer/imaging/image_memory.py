"""Where prepared images are kept: in memory where they fit, else in a folder on the node's own disk, from which they stream."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from protomer.errors import InputError, SettingsError
from protomer.imaging.image_cache import ImageCache
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


def image_folder(given: Path | None, image_bytes: int, other_bytes: int, ranks_here: int, events: Events) -> ImageCache | None:
    """Where this rank's prepared images are kept: in a cache on the node's own disk, or None: in memory.

    given: the user's folder (or $PROTOMER_CACHE), which is used and kept for later jobs. Else, where memory is too small, a folder under
    $SLURM_TMPDIR or $TMPDIR that all ranks and jobs of this user here share, and that goes with the last of them. $PROTOMER_CACHE_GB
    limits what all of a folder's images take. image_bytes, other_bytes: bytes of one rank; ranks_here: ranks on this machine. Raises
    InputError where neither memory nor disk suffices.
    """
    memory = available_memory_bytes() * SPARE / ranks_here
    if given is not None:
        return _opened(given, image_bytes, memory, events, is_temporary=False)
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
    return _opened(own_folder(base), image_bytes, memory, events, is_temporary=True)


def own_folder(base: Path) -> Path:
    """The folder in a common one that is this user's alone; another name, shared with no job, where somebody else holds the usual one."""
    usual = base / f"protomer-images-{os.getuid()}"
    try:
        status = usual.lstat()
    except FileNotFoundError:
        return usual
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return usual if is_own else Path(tempfile.mkdtemp(prefix="protomer-images-", dir=base))


def _opened(folder: Path, image_bytes: int, memory: float, events: Events, is_temporary: bool) -> ImageCache:
    """A cache, which this process leaves when it ends. Raises InputError where the folder cannot be used."""
    limit = cache_limit_bytes(os.environ)
    try:
        cache = ImageCache(folder, limit, events.warn, is_temporary)
    except OSError as error:
        raise InputError(f"the cache folder {folder} cannot be used ({error.strerror})", "a folder on this machine's own disk, where files "
                         "can be written and locked", "give another --cache, or none") from error
    atexit.register(cache.close)
    events.event("image_cache", folder=str(folder), image_GB=round(image_bytes / 1e9, 2), free_memory_GB=round(memory / 1e9, 2),
                 limit_GB=None if limit is None else limit / 1e9, kept=not is_temporary)
    return cache


def cache_limit_bytes(environment: Mapping[str, str]) -> int | None:
    """What $PROTOMER_CACHE_GB allows. Raises SettingsError where it is no number above 0."""
    given = environment.get("PROTOMER_CACHE_GB", "").strip()
    if not given:
        return None
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise SettingsError(f"PROTOMER_CACHE_GB={given}", "a number of gigabytes above 0", "mend it, or unset it")
    return int(value * 1e9)
