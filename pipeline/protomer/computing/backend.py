"""The one place that decides between CPU and CUDA."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from protomer.errors import InputError, NotYetError, SettingsError
from protomer.running.devices import visible_devices

if TYPE_CHECKING:
    from protomer.computing.arithmetic import Arithmetic
    from protomer.computing.mode_arithmetic import ModeArithmetic
    from protomer.running.events import Events
    from protomer.running.footprint import OnDevice

BACKENDS = ("auto", "cpu", "cuda")
LEAST_DRIVER = (12, 0)  # the CUDA version that a driver must speak


def resolve_backend(asked: str, on_cuda: bool) -> tuple[str, str]:
    """The backend that a run uses, and why in words; on_cuda: whether the job has work that can be done there.

    Nothing falls back in silence: raises SettingsError, NotYetError for a job that computes on CPUs only, and InputError where there is
    no device that can be used.
    """
    if asked not in BACKENDS:
        raise SettingsError(f"--backend {asked}", "one of " + ", ".join(BACKENDS), "choose auto or cpu")
    if asked == "cuda" and not on_cuda:
        raise NotYetError("--backend cuda for this job, which computes on the CPU only,")
    if asked == "cuda":
        missing = what_cuda_lacks()
        if missing:
            raise InputError(f"--backend cuda: {missing}", "a CUDA device with its driver, and Protomer's packages for it",
                             "start the job on a machine with a GPU, with pip install 'protomer[gpu]'; or give --backend cpu")
        return "cuda", "as asked"
    if asked == "cpu":
        return "cpu", "as asked"
    if not on_cuda:
        return "cpu", "auto: this job computes on the CPU only"
    seen = ", ".join(visible_devices(os.environ))
    return "cpu", f"auto: the CPU; --backend cuda takes {'the GPU ' + seen if seen else 'a GPU, and none is seen here'}"


def what_cuda_lacks() -> str | None:
    """Why CUDA cannot be used on this machine, in words; None where it can (Numba's simulator counts)."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return None
    try:
        from numba import cuda
        from numba.cuda.cudadrv.driver import driver
    except ImportError as problem:
        return f"Numba has no CUDA ({problem})"
    if not cuda.is_available():
        return "no CUDA device is at hand, or its driver cannot be loaded"
    version = tuple(driver.get_version())
    if version < LEAST_DRIVER:
        return f"the driver speaks CUDA {version[0]}.{version[1]}, and {LEAST_DRIVER[0]}.{LEAST_DRIVER[1]} is the oldest that will do"
    try:
        import cupy  # noqa: F401
    except ImportError as problem:
        return f"CuPy cannot be loaded ({problem})"
    return None


def arithmetic_of(backend: str, threads: int, work: OnDevice, events: Events) -> Arithmetic:
    """What computes on arrays in a run on a resolved backend; says so where a device has room for fewer batches at once than it could do.

    Raises InputError where it has no room for one.
    """
    if backend == "cuda":
        from protomer.computing.cuda_arithmetic import CudaArithmetic
        from protomer.computing.cuda_memory import MOST_BATCHES

        on_device = CudaArithmetic(work.device_bytes, work.device_batch_bytes, threads)
        if on_device.batches < MOST_BATCHES:
            events.event("few_batches_at_once", text=f"the CUDA device has memory for {on_device.batches} batches at once, beside what "
                             f"else the run needs: slower than with {MOST_BATCHES}; the result is the same")
        return on_device
    from protomer.computing.arithmetic import Arithmetic

    return Arithmetic(threads)


def mode_arithmetic_of(arithmetic: Arithmetic) -> ModeArithmetic:
    """What computes with linear modes where this arithmetic computes."""
    if arithmetic.backend == "cuda":
        from protomer.computing.cuda_arithmetic import CudaArithmetic
        from protomer.computing.cuda_mode_arithmetic import CudaModeArithmetic

        assert isinstance(arithmetic, CudaArithmetic)
        return CudaModeArithmetic(arithmetic)
    from protomer.computing.mode_arithmetic import ModeArithmetic

    return ModeArithmetic(arithmetic)


#: classes of what CUDA, cuBLAS and CuPy's memory raise, by name: where there is no CUDA they cannot be imported
FROM_CUDA = {"CudaAPIError", "CudaDriverError", "CUDAError", "CUDARuntimeError", "CUDADriverError", "CUBLASError", "CuFFTError",
             "OutOfMemoryError"}


def is_from_cuda(error: BaseException) -> bool:
    """Whether an error comes from CUDA itself (a device that fell off, or ran out of memory), and not from this program."""
    return any(kind.__name__ in FROM_CUDA for kind in type(error).__mro__)
