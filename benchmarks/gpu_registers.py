"""Registers, spilled bytes and double-precision instructions of every CUDA kernel, compiled for one architecture. No device is needed.

python benchmarks/gpu_registers.py [--architecture 90]

Needs a compiler for CUDA and its ptxas: pip install 'numba-cuda[cu13]' nvidia-cuda-nvcc. A kernel that spills or computes in double
precision is marked, and the program then ends with 1.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda
from numba.core.types import Array, Tuple, UniTuple, complex64, float32, int16, int32, int64
from numba.cuda import dispatcher

from protomer_kernels.cuda import ctf, grid_scores, insertion, newton, noise, normal_equations, slices, whitening

F1, F2, F3, F4 = (Array(float32, n, "C") for n in (1, 2, 3, 4))
I1, I2, SHORT2 = Array(int64, 1, "C"), Array(int64, 2, "C"), Array(int16, 2, "C")
PLANE, BATCH, STARTS, CLIMBED = Tuple((F1, F1, int64)), Tuple((F3, F2)), Tuple((I1, F3, F2)), Tuple((F3, F2, F3))
KERNELS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ctf": (ctf.ctf_kernel, (Tuple((I2, F2)), I1, I1, Tuple((F2, I1)), F2)),
    "whitening": (whitening.whitening_kernel, (Array(complex64, 2, "C"), F2, Tuple((F2, I1)), F3, F2)),
    "slices": (slices.slices_kernel, (F4, F3, F1, F1, F3)),
    "best shift": (grid_scores.best_shift_kernel, (F2, F2, int64, int64, F2, SHORT2)),
    "best rotations": (grid_scores.best_rotations_kernel, (F2, SHORT2, I2, SHORT2)),
    "climb": (newton.climb_kernel, (F4, STARTS, CLIMBED, PLANE, int64, Tuple((F2, F1)), F2)),
    "normal equations": (normal_equations.normal_equations_kernel, (F4, STARTS, CLIMBED, PLANE, F2)),
    "insertion": (insertion.insertion_kernel, (Tuple((I1, F3, F2, F1, F2)), BATCH, PLANE, float32, Array(int64, 4, "C"))),
    "residual power": (noise.residual_power_kernel, (F3, F2, BATCH, PLANE, UniTuple(Array(int32, 1, "C"), 2), F3)),
}


def compiler() -> str:
    """ptxas of the path, or of an installed package."""
    packages = Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/bin/ptxas")
    found = shutil.which("ptxas") or next(map(str, packages), None)
    if found is None:
        sys.exit("ptxas is not on the path: pip install nvidia-cuda-nvcc, or add the bin folder of a CUDA toolkit to PATH")
    return found


def resources(kernel: Any, types: tuple[Any, ...], architecture: int, ptxas: str) -> tuple[int, int, int]:
    """Registers of a thread, bytes that it spills, and double-precision instructions."""
    assembly, _ = cuda.compile_ptx(kernel.py_func, types, cc=divmod(architecture, 10))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(assembly)
        command = [ptxas, "-v", f"-arch=sm_{architecture}", "-o", "/dev/null", str(source)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill", said))
    double = [line for line in assembly.splitlines() if ".f64" in line and not line.strip().startswith((".reg", ".param"))]
    return int(re.findall(r"Used (\d+) registers", said)[-1]), spilled, len(double)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", type=int, default=90, help="compute capability times ten [90]")
    chosen, ptxas, flawed = parser.parse_args(), compiler(), False
    # device functions are compiled for the current device, of which only this is asked
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=divmod(chosen.architecture, 10))
    print(f"sm_{chosen.architecture}\n\n| kernel | registers | spilled bytes | double-precision instructions |\n|---|---|---|---|")
    for name, (kernel, types) in KERNELS.items():
        registers, spilled, double = resources(kernel, types, chosen.architecture, ptxas)
        flawed |= bool(spilled or double)
        print(f"| {name} | {registers} | {spilled} | {double} |", flush=True)
    sys.exit("a kernel spills, or computes in double precision" if flawed else 0)


if __name__ == "__main__":
    main()
