"""The CUDA kernels compiled for a device that is not at hand, and what the assembler says of them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda, types

from protomer_kernels.cuda import (
    ctf,
    filament_scores,
    grid_scores,
    insertion,
    modes,
    newton,
    noise,
    normal_equations,
    shells,
    slices,
    whitening,
    winding,
)

FLOATS = [types.Array(types.float32, n, "C") for n in range(5)]
INT64 = [types.Array(types.int64, n, "C") for n in range(5)]
INT32, SHIFTS, CROPS = types.Array(types.int32, 1, "C"), types.Array(types.int16, 2, "C"), types.Array(types.complex64, 2, "C")
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
    grid_scores.best_shift_kernel: (FLOATS[2], FLOATS[2], types.int64, types.int64, FLOATS[2], SHIFTS),
    grid_scores.best_rotations_kernel: (FLOATS[2], SHIFTS, INT64[2], SHIFTS),
    whitening.whitening_kernel: (CROPS, FLOATS[2], types.Tuple((FLOATS[2], INT64[1])), FLOATS[3], FLOATS[2]),
    filament_scores.filament_scores_kernel: (FLOATS[2], SHIFTS, types.Tuple((INT64[1], types.int64)), FLOATS[2], FLOATS[2],
                                             types.UniTuple(types.float32, 3), FLOATS[2], SHIFTS),
    winding.winding_kernel: (FLOATS[3], types.Tuple((INT32, INT32, FLOATS[2])), types.float32, FLOATS[3]),
    modes.leave_modes_kernel: (FLOATS[3], FLOATS[4], types.Tuple((FLOATS[2], FLOATS[3])), types.Tuple((INT32, INT32)), FLOATS[3],
                               FLOATS[2]),
    modes.insert_modes_kernel: (types.Tuple((FLOATS[3], FLOATS[2])), types.Tuple((FLOATS[2], FLOATS[2])), BATCH, HALF_PLANE, types.float32,
                                INT64[4]),
    shells.shell_sums_kernel: (FLOATS[2], INT32, INT32, INT32, FLOATS[2]),
}


def what_lacks() -> str | None:
    """Why nothing can be compiled here, in words; None where it can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed (pip install 'protomer[gpu]')"
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as problem:
        return f"numba-cuda finds no NVVM: {problem}"
    return None


def assembly(kernel: Any, architecture: int) -> str:
    """PTX of a kernel for a compute capability times ten. Numba asks the device for its capability even so: it is told."""
    from numba.cuda import dispatcher

    given, capability = dispatcher.get_current_device, divmod(architecture, 10)
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        return str(cuda.compile_ptx(kernel.py_func, SIGNATURES[kernel], cc=capability)[0])
    finally:
        dispatcher.get_current_device = given


def ptxas() -> str | None:
    """The assembler of the path, or of an installed package."""
    packages = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*/bin/ptxas"))
    return shutil.which("ptxas") or (str(packages[-1]) if packages else None)


def registers_and_spills(ptx: str, architecture: int, assembler: str) -> tuple[int, int]:
    """Registers of a thread, and bytes that it stores and loads for want of more."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.ptx").write_text(ptx)
        command = [assembler, f"-arch=sm_{architecture}", "-v", "-o", f"{folder}/kernel.cubin", f"{folder}/kernel.ptx"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill (?:stores|loads)", report))
    return int(re.findall(r"Used (\d+) registers", report)[-1]), spilled
