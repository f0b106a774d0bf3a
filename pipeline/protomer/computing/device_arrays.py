"""The arrays of a CUDA device: CuPy's; in Numba's simulator NumPy's own, held apart from the host's as a device's are.

A stand-in that took the host's arrays where a device's are due would hide what fails on a device: this one refuses them, as CuPy does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
from numba import config, cuda

from protomer.running.devices import SHARERS
from protomer_kernels.libraries import Library

_OF_THREAD = threading.local()


class SimulatedArray(np.ndarray):
    """An array of the device that the simulator imagines: it computes with its like and with numbers, and raises TypeError for others; only
    to be an index may an array of the host be given."""

    def get(self) -> np.ndarray:
        """A copy for the host."""
        return np.array(self.view(np.ndarray))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            options["out"] = out
        result = held(getattr(ufunc, method)(*bare(inputs), **bare(options)))
        return result if out is None else out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return held(function(*bare(args), **bare(kwargs)))

    def __getitem__(self, key: Any) -> Any:
        return held(super().__getitem__(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, bare(value))


def bare(item: Any) -> Any:
    """Simulated arrays, in tuples, lists and dictionaries of any depth, as NumPy's; raises TypeError for an array of the host."""
    if isinstance(item, SimulatedArray):
        return item.view(np.ndarray)
    if isinstance(item, np.ndarray):
        raise TypeError(f"an array of the host {item.shape} where one of the device is due")
    if isinstance(item, (tuple, list)):
        return type(item)(map(bare, item))
    return {key: bare(value) for key, value in item.items()} if isinstance(item, dict) else item


def held(item: Any) -> Any:
    """NumPy's arrays and numbers, in tuples and lists of any depth, as simulated arrays; all else as it is."""
    if isinstance(item, (np.ndarray, np.generic)):
        return np.asarray(item).view(SimulatedArray)
    return type(item)(map(held, item)) if isinstance(item, (tuple, list)) else item


class Functions:
    """The functions of a module, each changed in the same way; its other attributes as they are."""

    def __init__(self, module: Any, changed: Callable[[Any], Any]) -> None:
        self._module, self._changed = module, changed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return self._changed(found) if callable(found) and not isinstance(found, type) else found


class SimulatedArrays(Functions):
    """NumPy as the simulated device's own library."""

    ndarray = SimulatedArray

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """On the device: a copy, unless it lies there."""
        return array.astype(dtype or array.dtype, copy=False) if isinstance(array, SimulatedArray) else self.array(array, dtype)

    def array(self, array: Any, dtype: Any = None) -> Any:
        """A copy on the device."""
        return held(np.array(array, dtype))


def on_simulated(function: Any) -> Any:
    """A function that takes and gives simulated arrays."""
    return wraps(function)(lambda *args, **options: held(function(*bare(args), **bare(options))))


def without_workers(function: Any) -> Any:
    """A transform that is told of threads of the host and has none."""

    @wraps(function)
    def transform(*args: Any, workers: int = 1, **options: Any) -> Any:
        return function(*args, **options)

    return transform


def simulated_library() -> Library:
    """NumPy and SciPy for simulated arrays alone."""
    return Library(SimulatedArrays(np, on_simulated), Functions(scipy.fft, on_simulated), Functions(scipy.ndimage, on_simulated))


@lru_cache(maxsize=1)
def device_library() -> Library:
    """CuPy, or what stands in for it in Numba's simulator."""
    if config.ENABLE_CUDASIM:
        return simulated_library()
    os.environ.setdefault("CUPY_TF32", "1")  # read at the first product: products score grids, and add them up (cuda_arithmetic.py)
    import cupy
    import cupyx.scipy.fft
    import cupyx.scipy.ndimage

    return Library(cupy, Functions(cupyx.scipy.fft, without_workers), cupyx.scipy.ndimage)


def free_bytes() -> int:
    """The device's memory that nobody uses, at most this rank's part of a device that ranks share; in the simulator, as of one of 2 GB."""
    free, whole = (2**31, 2**31) if config.ENABLE_CUDASIM else device_library().arrays.cuda.runtime.memGetInfo()
    return min(int(free), int(whole) // int(os.environ.get(SHARERS, "1")))


def takes_threads() -> bool:
    """Whether several threads may launch kernels beside one another; the simulator runs one kernel at a time."""
    return not config.ENABLE_CUDASIM


@contextmanager
def aside() -> Iterator[None]:
    """What is asked of the device within goes on a stream of this thread's own, beside what others compute, and is done at the end."""
    if config.ENABLE_CUDASIM:
        yield
        return
    if not hasattr(_OF_THREAD, "stream"):
        _OF_THREAD.stream = device_library().arrays.cuda.Stream(non_blocking=True)
    with _OF_THREAD.stream:
        yield
        _OF_THREAD.stream.synchronize()


def finish() -> None:
    """Waits for all that was asked of the device on the stream that kernels are launched on."""
    if not config.ENABLE_CUDASIM:
        device_library().arrays.cuda.Stream.null.synchronize()


def seen_by_kernels(item: Any) -> Any:
    """A device's arrays, in tuples of any depth, as Numba's kernels take them, without a copy; all else as it is."""
    if isinstance(item, tuple):
        return tuple(map(seen_by_kernels, item))
    if isinstance(item, SimulatedArray):
        return item.view(np.ndarray)
    return cuda.as_cuda_array(item, sync=False) if hasattr(item, "__cuda_array_interface__") else item
