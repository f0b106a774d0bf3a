"""Whether the MPI library in use takes memory of CUDA devices, so that sums over ranks need not go through the host."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from protomer.errors import SettingsError

SWITCH = "PROTOMER_DEVICE_MPI"  # on or off: believed, whatever the library says of itself
_MAPS = Path("/proc/self/maps")
_CUDA = 0  # MPIX_GPU_SUPPORT_CUDA of MPICH and Cray MPICH


def takes_device_arrays(environment: Mapping[str, str], libraries: Callable[[], list[Any]] | None = None) -> bool:
    """Whether this process's MPI says that it takes a device's memory; False where it does not say.

    Asked by MPIX_Query_cuda_support (Open MPI, MPICH) and MPIX_GPU_query_support (MPICH 4, Cray MPICH). Raises SettingsError where
    $PROTOMER_DEVICE_MPI is neither on, off nor unset.
    """
    told = environment.get(SWITCH, "")
    if told not in ("", "on", "off"):
        raise SettingsError(f"{SWITCH}={told}", "on or off", f"unset {SWITCH}, so that the MPI library itself is asked")
    return told == "on" if told else any(_says_so(library) for library in (libraries or loaded_libraries)())


def loaded_libraries() -> list[Any]:
    """The MPI libraries that this process has loaded, as mpi4py's import does."""
    fields = [line.split(maxsplit=5) for line in _MAPS.read_text(errors="replace").splitlines()] if _MAPS.exists() else []
    files = {Path(of_one[5]) for of_one in fields if len(of_one) == 6}
    return [ctypes.CDLL(str(file)) for file in sorted(files) if file.name.startswith("libmpi") and ".so" in file.name and file.exists()]


def _says_so(library: Any) -> bool:
    if hasattr(library, "MPIX_Query_cuda_support"):
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):
        answer = ctypes.c_int(0)
        return library.MPIX_GPU_query_support(_CUDA, ctypes.byref(answer)) == 0 and bool(answer.value)
    return False
