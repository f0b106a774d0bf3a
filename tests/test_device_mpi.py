"""Sums over ranks of what lies on devices: there, where the MPI library takes a device's memory, else on the host; the same sums."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protomer.errors import SettingsError
from protomer.running.device_mpi import SWITCH, loaded_libraries, takes_device_arrays
from refinement_runs import environment

MPIEXEC = Path(sys.executable).with_name("mpiexec")


class OpenMpi:
    """A library that answers as Open MPI does."""

    def __init__(self, answer: int) -> None:
        self.MPIX_Query_cuda_support = lambda: answer


class CrayMpi:
    """A library that answers as Cray's MPICH does: through a pointer, with a code of its own for failure."""

    def __init__(self, code: int, answer: int) -> None:
        self.code, self.answer = code, answer

    def MPIX_GPU_query_support(self, kind: int, answer: Any) -> int:
        assert kind == 0
        ctypes.cast(answer, ctypes.POINTER(ctypes.c_int))[0] = self.answer
        return self.code


@pytest.mark.parametrize(("library", "takes"), [(OpenMpi(1), True), (OpenMpi(0), False), (CrayMpi(0, 1), True), (CrayMpi(0, 0), False),
                                                (CrayMpi(1, 1), False), (object(), False)])
def test_the_mpi_library_is_asked_whether_it_takes_a_devices_memory(library: object, takes: bool) -> None:
    assert takes_device_arrays({}, lambda: [library]) is takes


def test_without_an_mpi_library_sums_go_through_the_host() -> None:
    assert takes_device_arrays({}, lambda: []) is False


def test_the_switch_is_believed_before_the_library_and_must_be_on_or_off() -> None:
    assert takes_device_arrays({SWITCH: "on"}, lambda: [OpenMpi(0)]) and not takes_device_arrays({SWITCH: "off"}, lambda: [OpenMpi(1)])
    with pytest.raises(SettingsError, match=f"{SWITCH}=yes"):
        takes_device_arrays({SWITCH: "yes"})


def test_the_library_that_mpi4py_loaded_is_found_and_answers() -> None:
    code = ("from mpi4py import MPI; from protomer.running.device_mpi import loaded_libraries, takes_device_arrays\n"
            "assert loaded_libraries(); assert takes_device_arrays({}) in (True, False)")
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)
    assert isinstance(loaded_libraries(), list)


SUMS = """
import numpy as np
from protomer.computing.cuda_arithmetic import CudaArithmetic
from protomer.engine.maximisation import add_up_ranks
from protomer.running.ranks import open_team
team, arithmetic = open_team(), CudaArithmetic()
assert team.size == 3
own = {}
if team.rank < 2:                                    # the last rank met no image
    own[0, 0] = arithmetic.empty_accumulator(3)
    own[0, 0][...] = 2**40 + team.rank
totals = add_up_ranks(own, [(0, 0), (1, 0)], 3, team, arithmetic)
stay = [isinstance(total, arithmetic.library.arrays.ndarray) for total in totals.values()]
assert stay == [team.takes_device_arrays] * 2, stay
first, second = (np.asarray(arithmetic.on_host(totals[half, 0])) for half in (0, 1))
assert first.dtype == np.int64 and np.all(first == 2**41 + 1) and first.shape == second.shape and not second.any()
if team.is_first:
    print("on the device" if all(stay) else "on the host")
"""


@pytest.mark.parametrize(("switch", "where"), [("on", "on the device"), ("off", "on the host")])
def test_accumulators_on_devices_add_up_over_ranks_where_mpi_takes_them(switch: str, where: str) -> None:
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed beside this Python")
    surroundings = environment() | {"NUMBA_ENABLE_CUDASIM": "1", SWITCH: switch}
    result = subprocess.run([str(MPIEXEC), "-n", "3", sys.executable, "-c", SUMS], env=surroundings, capture_output=True, text=True,
                            check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == where
