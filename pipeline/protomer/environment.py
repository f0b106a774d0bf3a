"""What must be set in a process's environment before NumPy and Numba are imported: thread counts and the cache of compiled kernels."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

_THREAD_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def prepare_environment(threads: int) -> None:
    """Set thread counts, Numba's threading layer (omp: safe where workqueue aborts on concurrent threads) and its cache folder."""
    for name in _THREAD_NAMES:
        os.environ[name] = str(threads)
    os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait would burn the cores that other processes need
    use_kernel_cache()


def use_kernel_cache() -> None:
    """Point Numba's cache at a folder named by the kernels' sources.

    Numba does not notice when a function that a cached function calls has changed, so each state of the sources has a folder of its own.
    A folder that cannot be written is replaced by a temporary one, removed at exit: compiled code is not shared through a common /tmp.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or caches / "protomer" / "numba")
    digest = kernel_digest()
    folder = base if base.name == digest else base / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="protomer-numba-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def kernel_digest() -> str:
    """16 hexadecimal digits that change with any source that holds compiled code and with the version of Python."""
    import protomer_kernels
    digest = hashlib.sha256(sys.version.encode())
    sources = sorted(Path(str(protomer_kernels.__file__)).parent.rglob("*.py"))
    sources += [path for path in sorted(Path(__file__).parent.rglob("*.py")) if b"numba" in path.read_bytes()]
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]
