"""Where a run computes is said, and never changed in silence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda

from protomer import cuda_arithmetic
from protomer.backend import resolve_backend
from protomer.cuda_arithmetic import CudaArithmetic
from protomer.errors import InputError, NotYetError, SettingsError
from protomer_kernels.libraries import HOST


@pytest.mark.skipif(cuda.is_available(), reason="a CUDA device is at hand")
def test_cuda_without_a_device_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match="no CUDA device is at hand") as error:
        resolve_backend("cuda", True)
    assert "--backend cpu" in str(error.value)


def test_cuda_for_a_job_without_work_for_it_is_refused() -> None:
    with pytest.raises(NotYetError, match="computes on the CPU only"):
        resolve_backend("cuda", False)


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="--backend gpu"):
        resolve_backend("gpu", True)


def test_auto_says_what_it_chose() -> None:
    assert resolve_backend("auto", True) == ("cpu", "auto: the CPU, unless --backend cuda is given")
    assert resolve_backend("auto", False)[1].endswith("on the CPU only")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy in place of CuPy, on a device with 1000 bytes."""
    monkeypatch.setattr(cuda_arithmetic, "served_library", lambda: HOST)
    monkeypatch.setattr(cuda_arithmetic, "free_bytes", lambda: 1000)


def test_a_device_with_too_little_memory_is_refused_before_the_start(small: None) -> None:
    with pytest.raises(InputError, match=r"has 0\.00 GB of memory free"):
        CudaArithmetic(10**9)


def test_crops_stay_on_the_device_as_far_as_there_is_room_and_as_long_as_they_live(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic, brought = CudaArithmetic(100), []
    monkeypatch.setattr(arithmetic, "here", lambda array: brought.append(len(brought)) or array.copy())
    first, second, third = (np.full(100, n, np.float32) for n in range(3))  # 400 bytes each
    for array in (first, second, third, first, second, third):
        np.testing.assert_array_equal(arithmetic.kept_here(array), array)
    assert len(brought) == 4  # the third finds no room
    del first, array
    for _ in range(2):
        np.testing.assert_array_equal(arithmetic.kept_here(third), third)
    assert len(brought) == 5


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.cuda.cudadrv import driver

    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(driver, "driver", SimpleNamespace(get_version=lambda: (11, 4)))
    with pytest.raises(InputError, match=r"the driver speaks CUDA 11\.4, and 12\.0 is the oldest that will do"):
        resolve_backend("cuda", True)
