"""The CUDA drivers compile for a device that is not at hand, without double precision, local memory or spilled registers."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import protomer_kernels.cuda as drivers
from cuda_compiling import SIGNATURES, assembly, ptxas, registers_and_spills, what_lacks

KERNELS = {kernel.__name__: kernel for kernel in SIGNATURES}


@pytest.fixture(scope="module", params=KERNELS)
def ptx(request: pytest.FixtureRequest) -> str:
    """The PTX of a driver for compute capability 9.0."""
    lacking = what_lacks()
    if lacking is not None:
        pytest.skip(lacking)
    return assembly(KERNELS[request.param], 90)


def test_every_kernel_of_the_package_is_compiled_here() -> None:
    modules = [importlib.import_module(f"protomer_kernels.cuda.{module.name}") for module in pkgutil.iter_modules(drivers.__path__)]
    found = {name for module in modules for name, value in vars(module).items() if name.endswith("_kernel") and callable(value)}
    assert found == set(KERNELS) and len(modules) == len({kernel.__module__ for kernel in SIGNATURES})


def test_cuda_drivers_compile_without_double_precision_or_local_memory(ptx: str) -> None:
    assert ".target sm_90" in ptx and re.search(r"ld\.global\.(v\d\.)?f32", ptx)
    assert ".f64" not in ptx and ".local" not in ptx


def test_cuda_drivers_keep_their_registers(ptx: str) -> None:
    assembler = ptxas()
    if assembler is None:
        pytest.skip("ptxas is not installed (pip install nvidia-cuda-nvcc)")
    registers, spilled = registers_and_spills(ptx, 90, assembler)
    assert spilled == 0 and registers <= 128
