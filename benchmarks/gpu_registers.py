"""Registers, spilled bytes and double-precision instructions of every CUDA kernel, compiled for one architecture. No device is needed.

python benchmarks/gpu_registers.py [--architecture 90]

Needs a compiler for CUDA and its assembler: pip install 'numba-cuda[cu13]' nvidia-cuda-nvcc.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from cuda_compiling import SIGNATURES, assembly, ptxas, registers_and_spills, what_lacks


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", type=int, default=90, help="compute capability times ten [90]")
    architecture, assembler, lacking = parser.parse_args().architecture, ptxas(), what_lacks()
    if lacking or assembler is None:
        print("Not compiled:", lacking or "ptxas is not on the path; pip install nvidia-cuda-nvcc, or add a CUDA toolkit to it")
        return
    print(f"sm_{architecture}\n\n| kernel | registers | spilled bytes | double-precision instructions |\n|---|---|---|---|")
    for kernel in SIGNATURES:
        ptx = assembly(kernel, architecture)
        double = sum(".f64" in line and not line.lstrip().startswith((".reg", ".param")) for line in ptx.splitlines())
        registers, spilled = registers_and_spills(ptx, architecture, assembler)
        print(f"| {kernel.__name__.removesuffix('_kernel')} | {registers} | {spilled} | {double} |", flush=True)


if __name__ == "__main__":
    main()
