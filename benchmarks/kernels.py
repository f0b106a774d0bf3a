"""How fast the inner loops are: nanoseconds per Fourier coefficient on one thread, and the share of matmul's rate that grid scoring keeps.

python benchmarks/kernels.py

All times are CPU time of this process, so that other work on the machine disturbs them little; the least of several repeats counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from protomer.environment import use_kernel_cache

use_kernel_cache()

import numba  # noqa: E402
import numpy as np  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from protomer_kernels.grid_scores import grid_scores, shift_ramps  # noqa: E402
from protomer_kernels.half_plane import HalfPlane, largest_radius  # noqa: E402
from protomer_kernels.insertion import empty_accumulator, fixed_point_scale, insert_slices  # noqa: E402
from protomer_kernels.normal_equations import new_scratch, normal_equations  # noqa: E402
from protomer_kernels.rotations import matrices_from_quaternions, super_fibonacci_grid  # noqa: E402
from protomer_kernels.slices import extract_slices, transform_volume  # noqa: E402

BOXES = (64, 128, 256)
COEFFICIENTS = 3_000_000  # per repeat and kernel
REPEATS = 3
SCORING_RADIUS, SCORING_IMAGES, SCORING_ROTATIONS = 16, 32, 2048


@numba.njit
def _normal_equations_of_each(volume, rotations, batch, plane, scratch, sums):  # type: ignore[no-untyped-def]
    """normal_equations once per slice, without Python between."""
    for n in range(len(rotations)):
        normal_equations(volume, rotations[n], np.zeros(2), (batch[0][n], batch[1][n], batch[2][n]), plane, scratch, sums)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Least CPU time of a few repeats, after one that compiles and fills caches."""
    work()
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def slice_rates(box: int) -> dict[str, float]:
    """Nanoseconds per coefficient of the kernels that visit volumes."""
    radius = largest_radius(box)
    plane = HalfPlane(box, radius)
    number = max(4, COEFFICIENTS // len(plane))
    random = np.random.default_rng(0)
    volume = transform_volume(random.standard_normal((box,) * 3).astype(np.float32), radius)
    rotations = matrices_from_quaternions(super_fibonacci_grid(number))
    data = np.empty((number, 2, len(plane)), np.float32)
    amplitude = np.ones((number, len(plane)), np.float32)
    scratch, sums = new_scratch(), np.empty(21)
    accumulator = empty_accumulator(radius)
    scale = fixed_point_scale(float(number), (REPEATS + 1) * number)
    poses = (np.arange(number), rotations, np.zeros((number, 2)), np.ones(number))
    batch, arrays = (data, amplitude), plane.arrays(len(plane))
    climbable = (*batch, np.tile(np.eye(2), (number, 1, 1)))
    works: dict[str, Callable[[], object]] = {
        "extract_slices": lambda: extract_slices(volume, rotations.astype(np.float32), plane.kx, plane.ky, data),
        "normal_equations": lambda: _normal_equations_of_each(volume, rotations, climbable, arrays, scratch, sums),
        "insert_slices": lambda: insert_slices(poses, batch, arrays, scale, 1, accumulator)}
    return {name: cpu_seconds(work) / number / len(plane) * 1e9 for name, work in works.items()}


def scoring_rates(box: int) -> tuple[float, float]:
    """GFLOP/s of grid_scores, and of one matmul of its larger product: two operations per real multiply-add in both."""
    plane = HalfPlane(box, SCORING_RADIUS)
    random = np.random.default_rng(0)
    steps = np.arange(-2, 3)
    ramps = shift_ramps(np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2), plane.kx, plane.ky, box)
    data = random.standard_normal((SCORING_IMAGES, 2, len(plane))).astype(np.float32)
    slices = random.standard_normal((SCORING_ROTATIONS, 2, len(plane))).astype(np.float32)
    amplitude = np.ones((SCORING_IMAGES, len(plane)), np.float32)
    left = random.standard_normal((SCORING_IMAGES * len(ramps), 2 * len(plane))).astype(np.float32)
    right = slices.reshape(SCORING_ROTATIONS, -1)
    operations = 2.0 * len(left) * left.shape[1] * SCORING_ROTATIONS
    extra = 2.0 * SCORING_IMAGES * len(plane) * SCORING_ROTATIONS  # the power of each slice under each image's CTF
    scores = (operations + extra) / cpu_seconds(lambda: grid_scores(data, amplitude, slices, ramps, 1))
    return scores / 1e9, operations / cpu_seconds(lambda: left @ right.T) / 1e9


def main() -> None:
    """Print both tables."""
    numba.set_num_threads(1)
    with threadpool_limits(limits=1):
        print(f"{'ns per coefficient':20}" + "".join(f"{f'box {box}':>10}" for box in BOXES))
        rates = [slice_rates(box) for box in BOXES]
        for name in rates[0]:
            print(f"{name:20}" + "".join(f"{rate[name]:10.2f}" for rate in rates))
        ours, theirs = scoring_rates(BOXES[0])
        print(f"grid_scores, radius {SCORING_RADIUS}: {ours:.1f} GFLOP/s, {100 * ours / theirs:.0f} % of matmul alone ({theirs:.1f})")


if __name__ == "__main__":
    main()
