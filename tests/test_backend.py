"""Where a run computes is said, and never changed in silence."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda

from protomer.computing import cuda_memory
from protomer.computing.arithmetic import CPU
from protomer.computing.backend import resolve_backend
from protomer.computing.cuda_arithmetic import CudaArithmetic
from protomer.computing.device_arrays import simulated_library
from protomer.errors import InputError, NotYetError, SettingsError
from protomer.imaging.packed import Packed, as_pairs_of_halves
from protomer_kernels.half_plane import HalfPlane


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


def test_auto_says_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    for devices, told in (("", "a GPU, and none is seen here"), ("0,3", "the GPU 0, 3")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        assert resolve_backend("auto", True) == ("cpu", f"auto: the CPU; --backend cuda takes {told}")
    assert resolve_backend("auto", False)[1].endswith("on the CPU only")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy in place of CuPy, on a device with 1000 bytes."""
    monkeypatch.setattr(cuda_memory, "served_library", simulated_library)
    monkeypatch.setattr(cuda_memory, "aside", nullcontext)
    monkeypatch.setattr(cuda_memory, "free_bytes", lambda: 1000)


def test_a_device_with_too_little_memory_is_refused_before_the_start(small: None) -> None:
    with pytest.raises(InputError, match=r"has 0\.00 GB of memory free"):
        CudaArithmetic(10**9)
    with pytest.raises(InputError, match=r"1\.00 GB for this run"):
        CudaArithmetic(500, 9 * 10**8 - 500)


def test_fewer_batches_are_there_at_once_where_memory_is_short(small: None) -> None:
    assert CudaArithmetic(100, 1).batches == cuda_memory.MOST_BATCHES  # of 800 bytes, half for batches
    several = [CudaArithmetic(100, size) for size in (60, 100, 300, 800)]
    assert [(one.at_once, one.side_by_side) for one in several] == [(3, 2), (2, 2), (1, 1), (1, 1)]


def test_crops_stay_on_the_device_as_far_as_there_is_room_and_give_way_to_those_of_a_later_store(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arithmetic, brought = CudaArithmetic(100), []
    monkeypatch.setattr(arithmetic, "here", lambda array: brought.append(len(brought)) or array.copy())
    crops = [np.full((2, 25), n, np.complex64) for n in range(3)]  # 400 bytes each
    for number in (0, 1, 2, 0, 1, 2):
        np.testing.assert_array_equal(arithmetic.crops([Packed(crops[number], None, 7, number)]), crops[number])
    assert len(brought) == 4  # the third finds no room
    for _ in range(2):
        np.testing.assert_array_equal(arithmetic.crops([Packed(crops[2], None, 8, 0)]), crops[2])
    assert len(brought) == 5


def test_crops_of_several_batches_come_unpacked_and_in_the_order_of_their_rows(small: None) -> None:
    crops = np.arange(12, dtype=np.float32).view(np.complex64).reshape(3, 2)
    packed = [Packed(as_pairs_of_halves(crops), None, 0, 0), Packed(crops, np.array([2, 0, 2]), 0, 1)]
    for arithmetic in (CudaArithmetic(100), CPU):
        np.testing.assert_array_equal(arithmetic.on_host(arithmetic.crops(packed)), np.concatenate([crops, crops[[2, 0, 2]]]))


def test_images_transformed_by_the_device_are_those_of_the_cpu(small: None) -> None:
    images, plane = np.random.default_rng(0).standard_normal((3, 24, 24)).astype(np.float32), HalfPlane(20, 9)
    np.testing.assert_allclose(CudaArithmetic(100).transform(images, plane), CPU.transform(images, plane), atol=1e-6)


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.cuda.cudadrv import driver

    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(driver, "driver", SimpleNamespace(get_version=lambda: (11, 4)))
    with pytest.raises(InputError, match=r"the driver speaks CUDA 11\.4, and 12\.0 is the oldest that will do"):
        resolve_backend("cuda", True)
