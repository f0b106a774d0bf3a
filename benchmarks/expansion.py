"""Seconds, memory and disk of symmetry expansion: 1,000,000 images under D7, with and without pose covariances.

python benchmarks/expansion.py [IMAGES]

The images are rows of a table as a refinement leaves it; no stack is read. Peak memory is the operating system's (wait4).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from protomer.formats.hdf5 import write_particles
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns

GROUP = "D7"


def table(number: int, with_covariances: bool) -> Particles:
    """Images with poses, a CTF, micrographs and half-sets."""
    random = np.random.default_rng(0)
    columns = empty_columns(number)
    columns["image_uid"][:] = random.permutation(np.arange(1, number + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    rotation = random.normal(size=(number, 4))
    columns["rotation"][:] = rotation / np.linalg.norm(rotation, axis=1, keepdims=True)
    columns["shift_A"][:] = random.normal(size=(number, 2))
    columns["half"][:] = random.integers(2, size=number)
    columns["stack_index"][:] = np.arange(number)
    columns["defocus_u_A"][:] = columns["defocus_v_A"][:] = random.uniform(8e3, 2e4, number)
    columns["micrograph"][:] = [f"Micrographs/micrograph_{i // 300:05d}.mrc" for i in range(number)]
    if with_covariances:
        columns["pose_covariance"][:] = random.normal(size=(number, 15))
    stack = Stack("/data/particles.mrcs", number, 256, 0, 0, "0" * 64)
    return Particles(columns, (OpticsGroup("one", 3e5, 2.7e7, 0.1, 1.0, 256),), (stack,), True)


READ = "import sys; from protomer.formats.hdf5 import read_particles; print(len(read_particles(sys.argv[1])))"


def measured(words: list[object]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak GB of one protomer command. Raises SystemExit where it fails."""
    return timed(["-m", "protomer", *words, "--threads", "1"])


def timed(words: list[object]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak GB of one Python process. Raises SystemExit where it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {words}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Write the tables, expand them, print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    names = ("seconds", "CPU s", "peak memory, GB", "parent's file, GB", "file, GB", "bytes per row", "to read it, s", "peak, GB")
    print(f"| {number:,} images under {GROUP} | {' | '.join(names)} |\n|{'---|' * 9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(["symmetry-expand", "--help"])
        for with_covariances in (False, True):
            write_particles(folder / "particles.h5", table(number, with_covariances))
            words = ["symmetry-expand", "--particles", folder / "particles.h5", "--symmetry", GROUP, "--output", folder / "copies"]
            if not with_covariances:
                small = folder / "small"
                write_particles(folder / "few.h5", table(1000, True))
                measured([*words[:2], folder / "few.h5", *words[3:6], small])  # what compiles is not counted
            seconds, cpu_s, peak_GB = measured([*words, "--overwrite"])
            parent, copies = ((folder / file).stat().st_size for file in ("particles.h5", "copies/particles.h5"))
            kind = "with pose covariances" if with_covariances else "poses alone"
            read_s, _, read_GB = timed(["-c", READ, folder / "copies/particles.h5"])
            sizes = f"{parent / 1e9:.2f} | {copies / 1e9:.2f} | {copies / (14 * number):.0f}"
            print(f"| {kind} | {seconds:.1f} | {cpu_s:.1f} | {peak_GB:.2f} | {sizes} | {read_s:.1f} | {read_GB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
