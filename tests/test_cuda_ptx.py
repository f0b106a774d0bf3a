"""The CUDA drivers compile for a device that is not at hand, without double precision, local memory or spilled registers."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from numba import cuda, types

import protomer_kernels.cuda as drivers
from protomer_kernels.cuda import ctf, grid_scores, insertion, newton, noise, normal_equations, shells, slices

FLOATS = [types.Array(types.float32, n, "C") for n in range(5)]
INT64 = [types.Array(types.int64, n, "C") for n in range(5)]
INT32, SHIFTS = types.Array(types.int32, 1, "C"), types.Array(types.int16, 2, "C")
BATCH, CLIMBABLE = types.Tuple((FLOATS[3], FLOATS[2])), types.Tuple((FLOATS[3], FLOATS[2], FLOATS[3]))
STARTS = types.Tuple((INT64[1], FLOATS[3], FLOATS[2]))
POSES = types.Tuple((INT64[1], FLOATS[3], FLOATS[2], FLOATS[1]))
CURVED_POSES = types.Tuple((*POSES.types, FLOATS[2]))
BOUNDS = types.Tuple((FLOATS[2], FLOATS[1]))
HALF_PLANE = types.Tuple((FLOATS[1], FLOATS[1], types.int64))
SIGNATURES = {
    slices.slices_kernel: (FLOATS[4], FLOATS[3], FLOATS[1], FLOATS[1], FLOATS[3]),
    normal_equations.normal_equations_kernel: (FLOATS[4], STARTS, CLIMBABLE, HALF_PLANE, FLOATS[2]),
    newton.climb_kernel: (FLOATS[4], STARTS, CLIMBABLE, HALF_PLANE, types.int64, BOUNDS, FLOATS[2]),
    insertion.insertion_kernel: (CURVED_POSES, BATCH, HALF_PLANE, types.float32, INT64[4]),
    noise.residual_power_kernel: (FLOATS[3], FLOATS[2], BATCH, HALF_PLANE, types.Tuple((INT32, INT32)), FLOATS[3]),
    ctf.ctf_kernel: (types.Tuple((INT64[2], FLOATS[2])), INT64[1], INT64[1], types.Tuple((FLOATS[2], INT64[1])), FLOATS[2]),
    shells.shell_sums_kernel: (FLOATS[2], INT32, INT32, INT32, FLOATS[2]),
    grid_scores.best_shift_kernel: (FLOATS[2], FLOATS[2], types.int64, types.int64, FLOATS[2], SHIFTS),
    grid_scores.best_rotations_kernel: (FLOATS[2], SHIFTS, INT64[2], SHIFTS),
}
KERNELS = {kernel.__name__: kernel for kernel in SIGNATURES}


@pytest.fixture(params=KERNELS)
def ptx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The PTX of a driver for compute capability 9.0. Numba asks the device for its capability even so: it is told."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (pip install 'protomer[gpu]')")
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as problem:
        pytest.skip(f"numba-cuda finds no NVVM: {problem}")
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    kernel = KERNELS[request.param]
    return cuda.compile_ptx(kernel.py_func, SIGNATURES[kernel], cc=(9, 0))[0]


def test_every_kernel_of_the_package_is_compiled_here() -> None:
    modules = [importlib.import_module(f"protomer_kernels.cuda.{module.name}") for module in pkgutil.iter_modules(drivers.__path__)]
    found = {name for module in modules for name, value in vars(module).items() if name.endswith("_kernel") and callable(value)}
    assert found == set(KERNELS) and len(modules) == len({kernel.__module__ for kernel in SIGNATURES})


def test_cuda_drivers_compile_without_double_precision_or_local_memory(ptx: str) -> None:
    assert ".target sm_90" in ptx and re.search(r"ld\.global\.(v\d\.)?f32", ptx)
    assert ".f64" not in ptx and ".local" not in ptx


def test_cuda_drivers_keep_their_registers(ptx: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*/bin/ptxas"))
    ptxas = shutil.which("ptxas") or (str(wheels[-1]) if wheels else None)
    if ptxas is None:
        pytest.skip("ptxas is not installed (pip install nvidia-cuda-nvcc)")
    (tmp_path / "kernel.ptx").write_text(ptx)
    command = [ptxas, "-arch=sm_90", "-v", "-o", str(tmp_path / "kernel.cubin"), str(tmp_path / "kernel.ptx")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.findall(r"Used (\d+) registers", report)[0])
    stored, loaded = (int(number) for number in re.findall(r"(\d+) bytes spill (?:stores|loads)", report))
    name = re.findall(r"\d([a-z_]+_kernel)B", ptx)[0]
    with capsys.disabled():
        print(f"\n{name}: {registers} registers, {stored} bytes of spill stores, {loaded} of loads")
    assert stored == loaded == 0 and registers <= 128
