"""The CUDA path against the device's own limits: for each kernel the bytes and operations that it must move and do, the floor that the
device's copy and product rates, both measured, and its float32 rate, by its clock, set, the time taken, and the ratio; the same of the
kernels of ab-initio, helical-refine and variability, and of the M-step and references. Whole iterations: gpu_iteration.py.

python benchmarks/gpu.py [--box 256] [--radius 100] [--images 4096]

Without a device it prints the floors from an H200's data sheet, and no times. Images and volumes are random numbers: times do not depend
on them, but that Gauss-Newton takes all its steps. Operations count a fused multiply-add as two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu_jobs import job_rows
from gpu_maps import map_rows

from protomer.computing.backend import what_cuda_lacks
from protomer_kernels.grid_scores import shift_ramps
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import fixed_point_scale
from protomer_kernels.rotations import matrices_from_quaternions, shift_grid, super_fibonacci_grid

SHEET = {"copy": 4.8e12, "float32": 67e12, "products": 494e12}  # bytes, float32 and TF32 operations per second of an H200
NEWTON_OPERATIONS, SLICE_OPERATIONS, INSERTION_OPERATIONS = 500, 60, 80  # per coefficient
STEPS, SCORING_RADIUS, SCORING_ROTATIONS = 11, 16, 36_864
REPEATS, FEW = 3, 1024  # FEW: images of jobs whose views of each take much memory
FLOAT32_LANES = 128  # of a multiprocessor


@dataclass(frozen=True)
class Case:
    """One kernel's least work for so many items (images, or slices), and the work itself."""

    name: str
    items: int
    bytes_moved: float
    operations: float
    work: Callable[[], object]
    unit: str = "float32"  # which of the device's rates its operations have

    def floor_s(self, rates: dict[str, float]) -> float:
        """What the device's rates allow."""
        return max(self.bytes_moved / rates["copy"], self.operations / rates[self.unit])


def seconds(work: Callable[[], object], wait: Callable[[], object]) -> float:
    """Least time of a few repeats, after one that compiles."""
    times = []
    for _ in range(REPEATS + 1):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def measured_rates(xp: Any, wait: Callable[[], object]) -> dict[str, float]:
    """Bytes per second of a copy on the device (read and written), operations per second of a product (as grids are scored: in TF32),
    and float32 operations per second by the device's clock."""
    source = xp.zeros(2**28, np.float32)
    target = xp.empty_like(source)
    square = xp.ones((8192, 8192), np.float32)
    copy_s = seconds(lambda: xp.copyto(target, source), wait)
    of_device = xp.cuda.runtime.getDeviceProperties(0)
    float32 = 2 * FLOAT32_LANES * of_device["multiProcessorCount"] * 1e3 * of_device["clockRate"]
    return {"copy": 2 * source.nbytes / copy_s, "float32": float32, "products": 2 * 8192**3 / seconds(lambda: square @ square, wait)}


def cases_of(arithmetic: Any, plane: HalfPlane, images: int) -> list[Case]:
    """The hot kernels, each on as many images as an E-step gives it."""
    random, length, low = np.random.default_rng(0), len(plane), HalfPlane(plane.box, SCORING_RADIUS)
    side = 4 * plane.radius + 7
    volume = arithmetic.here(random.standard_normal((side, side, side // 2 + 1, 2)).astype(np.float32))
    rotations = matrices_from_quaternions(super_fibonacci_grid(images))
    shifts, ones = np.zeros((images, 2)), np.ones(images)
    data = arithmetic.here(random.standard_normal((images, 2, length)).astype(np.float32))
    amplitude = arithmetic.here(np.ones((images, length), np.float32))
    at, waves, eyes = np.arange(images), plane.arrays(length), np.tile(np.eye(2), (images, 1, 1))
    views = arithmetic.slices(volume, rotations, waves)
    accumulator, scale = arithmetic.empty_accumulator(plane.radius), fixed_point_scale(100.0, 10 * images)
    grid = matrices_from_quaternions(super_fibonacci_grid(SCORING_ROTATIONS))
    low_views = arithmetic.slices(volume, grid, low.arrays(len(low)))
    ramps = shift_ramps(shift_grid(3.0, 1.0), low.kx, low.ky, low.box)
    bounds = np.eye(3).ravel()[None], np.array([np.pi, 1e6])
    prior = np.concatenate([bounds[0], np.zeros((1, 10))], axis=1), bounds[1]
    n, k = images, length
    few = 256
    return [
        Case("slices", n, 8 * n * k, SLICE_OPERATIONS * n * k, lambda: arithmetic.slices(volume, rotations, waves)),
        Case(f"climbs of {STEPS} steps", n, 12 * n * k * (STEPS + 1), NEWTON_OPERATIONS * n * k * (STEPS + 1),
             lambda: arithmetic.climb(volume, (at, rotations.copy(), shifts.copy()), (data, amplitude, eyes), waves, STEPS, prior)),
        Case("insertion", n, n * k * (12 + 24 * 8), INSERTION_OPERATIONS * n * k,
             lambda: arithmetic.insert((at, rotations, shifts, ones), (data, amplitude), waves, scale, accumulator)),
        Case("residual power", n, 20 * n * k, 30 * n * k,
             lambda: arithmetic.residual_power(views, shifts, (data, amplitude), waves, plane.shell, plane.radius + 1)),
        Case(f"grid, {SCORING_ROTATIONS} x {len(ramps)} shifts", few, 0.0, 4.0 * few * len(ramps) * SCORING_ROTATIONS * len(low),
             lambda: arithmetic.best_of_grid((data[:few], amplitude[:few]), low_views, ramps, 24), "products"),
    ]


def job_cases(arithmetic: Any, plane: HalfPlane, images: int) -> list[Case]:
    """The kernels of other jobs than refine."""
    return [Case(*row) for row in job_rows(arithmetic, plane, images, SLICE_OPERATIONS)]


def map_cases(arithmetic: Any, plane: HalfPlane) -> list[Case]:
    """What is done once in an iteration, or once for each half and fold."""
    return [Case(*row) for row in map_rows(arithmetic, plane, plane.radius)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("box", 256), ("radius", 100), ("images", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    chosen = parser.parse_args()
    plane, lacks = HalfPlane(chosen.box, chosen.radius), what_cuda_lacks()
    if lacks:
        from protomer.computing.arithmetic import CPU

        print(f"Not measured: {lacks}. Floors for an H200 by its data sheet ({SHEET['copy'] / 1e12:.1f} TB/s, "
              f"{SHEET['float32'] / 1e12:.0f} TFLOP/s in float32, {SHEET['products'] / 1e12:.0f} in TF32); "
              f"box {chosen.box}, radius {chosen.radius}.\n")
        print("| kernel | bytes, MB per image | operations, M | floor, us |\n|---|---|---|---|")
        for case in [*cases_of(CPU, plane, 16), *job_cases(CPU, plane, 16), *map_cases(CPU, plane)]:
            print(f"| {case.name} | {case.bytes_moved / case.items / 1e6:.2f} | {case.operations / case.items / 1e6:.1f} | "
                  f"{1e6 * case.floor_s(SHEET) / case.items:.2f} |")
        return
    import cupy

    from protomer.computing.cuda_arithmetic import CudaArithmetic

    arithmetic, wait = CudaArithmetic(), cupy.cuda.Stream.null.synchronize
    rates = measured_rates(cupy, wait)
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{device}: copies {rates['copy'] / 1e12:.2f} TB/s, {rates['float32'] / 1e12:.0f} TFLOP/s in float32, "
          f"{rates['products'] / 1e12:.0f} in products; box {chosen.box}, radius {chosen.radius}, {chosen.images} images.\n")
    print("| kernel | bytes, GB | operations, T | floor, ms | taken, ms | ratio | images/s |\n|---|---|---|---|---|---|---|")
    for case in [*cases_of(arithmetic, plane, chosen.images), *job_cases(arithmetic, plane, FEW), *map_cases(arithmetic, plane)]:
        taken, floor = seconds(case.work, wait), case.floor_s(rates)
        print(f"| {case.name} | {case.bytes_moved / 1e9:.3f} | {case.operations / 1e12:.3f} | {1e3 * floor:.2f} | {1e3 * taken:.2f} | "
              f"{taken / floor:.1f} | {case.items / taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
