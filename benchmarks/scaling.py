"""Scaling on paper: seconds per iteration from 1 to 64 GPUs and 10^5 to 10^7 particles, and what limits at each point.

python benchmarks/scaling.py

One iteration reads every prepared image once while the one before is computed on, adds the half-sets' accumulators up over the ranks, and
makes maps of them, which every rank waits for:

    seconds = max(read, compute) + reduce + solve
    read    = images x coefficients x 8 bytes / bandwidth of the node's source, shared by its GPUs
    compute = images / ranks x (climb + share searched anew x search + insertion)
    reduce  = bytes of one accumulator x 2 (P - 1) / P / bandwidth between ranks, where a half-set has P = ranks / 2 of them (at least 1)
    solve   = maps of both halves from their accumulators, and slices' volumes from maps

MEASURED here on the CPU: milliseconds per image (benchmarks/parts.py, its table in results/parts.md), the reduction through shared memory
and the solve, both timed by this script at small boxes, the solve carried to the large box by their ratio. ESTIMATED for GPUs:
arithmetic from instructions and atomics per coefficient at the rates of an H200, bandwidths from data sheets. No GPU has run any of this:
the GPU tables say where the roof is, not how close one comes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from protomer.environment import prepare_environment

prepare_environment(1)

import numpy as np  # noqa: E402
from kernels import cpu_seconds  # noqa: E402

from protomer_kernels.half_plane import HalfPlane, largest_radius  # noqa: E402
from protomer_kernels.insertion import accumulator_bytes  # noqa: E402
from protomer_kernels.padded import padded_transform  # noqa: E402
from protomer_kernels.slices import volume_radius  # noqa: E402
from protomer_kernels.wiener import solve_volume  # noqa: E402

BOX, RADIUS = 256, 100  # of the tables: the images, and the radius that has been reached
GPUS_OF_A_NODE = 4
SEARCHED = 0.1  # share of the images that an iteration searches anew, once most have settled
NEWTON, SEARCH_NEWTON = 12, 60  # evaluations of every coefficient in a climb, and in a search from 24 thinned starts
PARTICLES, RANKS = (10**5, 10**6, 10**7), (1, 2, 4, 8, 16, 32, 64)
#: one thread of an AMD EPYC at 256 px, milliseconds per image: climb, search, insertion (results/parts.md)
CPU_MS = (1.32, 4.18 + 5.19, 2.74)
#: seconds on an H200: of one coefficient in the normal equations (250 instructions), of one 64-bit atomic addition; estimates
GPU_EVALUATION_S, GPU_ATOMIC_S = 7.5e-12, 8e-12


@dataclass(frozen=True)
class Machine:
    """What one rank computes with and is fed by. image_s: seconds of work per image; *_Bps: bytes per second, of reading for up
    to `sharing` ranks of a node together."""

    name: str
    image_s: float
    read_Bps: float
    sharing: int
    reduce_Bps: float
    solve_s: float

    def iteration(self, images: int, ranks: int) -> tuple[float, str]:
        """Seconds of one iteration, and the name of its longest part."""
        plane = len(HalfPlane(BOX, RADIUS))
        of_a_half = max(1, ranks // 2)
        halves_here = 2 if ranks == 1 else 1
        parts = {"read": images / ranks * plane * 8 * min(ranks, self.sharing) / self.read_Bps,
                 "compute": images / ranks * self.image_s,
                 "reduce": accumulator_bytes(RADIUS) * 2 * (of_a_half - 1) / of_a_half / self.reduce_Bps,
                 "solve": halves_here * self.solve_s}
        longest = max(parts, key=lambda name: parts[name])
        return max(parts["read"], parts["compute"]) + parts["reduce"] + parts["solve"], longest


def gpu_image_s() -> float:
    """Estimated seconds of one H200 per image: Newton, searches and insertion (24 atomics for each coefficient, one pose)."""
    coefficients = len(HalfPlane(BOX, RADIUS))
    return coefficients * ((NEWTON + SEARCHED * SEARCH_NEWTON) * GPU_EVALUATION_S + 24 * GPU_ATOMIC_S)


def solve_seconds(box: int) -> float:
    """Measured CPU seconds of one thread: sums to a map, and the map to the volume that slices are taken from."""
    radius = largest_radius(box)
    side, random = 2 * volume_radius(radius) + 1, np.random.default_rng(0)
    shape = (side, side, side // 2 + 1)
    numerator = (random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(np.complex64)
    weight = np.ones(shape, np.float32)
    ridge = np.ones(radius + 1, np.float32)
    return cpu_seconds(lambda: padded_transform(solve_volume(numerator.copy(), weight, ridge, box), volume_radius(radius)))


REDUCE = """
import time
import numpy as np
from protomer.running.ranks import open_team
team, array = open_team(), np.ones(2**23, np.int64)
team.add_up(array)
begun = time.monotonic()
for _ in range(4):
    team.add_up(array)
if team.is_first:
    print((time.monotonic() - begun) / 4)
"""


def reduce_rate() -> float:
    """Measured bytes per second of a sum over two ranks of this machine."""
    done = subprocess.run([str(Path(sys.executable).with_name("mpiexec")), "-n", "2", sys.executable, "-c", REDUCE], capture_output=True,
                          text=True, check=True)
    return 2**26 / float(done.stdout)


def print_table(machine: Machine) -> None:
    """Seconds of one iteration by particles and ranks."""
    print(f"\n{machine.name}: {machine.image_s * 1e6:.3g} µs per image, {machine.read_Bps / 1e9:.3g} GB/s of images for up to "
          f"{machine.sharing} rank(s) of a node, {machine.reduce_Bps / 1e9:.3g} GB/s of sums, {machine.solve_s:.3g} s to solve a half\n")
    print(f"| ranks | {' | '.join(f'{images:.0e} particles' for images in PARTICLES)} |\n|---|{'---|' * len(PARTICLES)}")
    for ranks in RANKS:
        cells = [machine.iteration(images, ranks) for images in PARTICLES]
        print(f"| {ranks} | {' | '.join(f'{seconds:,.3g} s, {limit}' for seconds, limit in cells)} |")


def main() -> None:
    """Measure, fit, print."""
    begun = time.process_time()
    small = {box: solve_seconds(box) for box in (64, 128)}
    solve_s = small[128] ** 2 / small[64]
    rate = reduce_rate()
    print(f"measured: a solve takes {small[64]:.2f} s at 64 px and {small[128]:.2f} s at 128 px (one thread; "
          f"{small[128] / small[64]:.1f} times for twice the box), so about {solve_s:.1f} s at {BOX} px; two ranks add up "
          f"{rate / 1e9:.2f} GB/s through shared memory; this took {time.process_time() - begun:.0f} CPU seconds")
    cpu_s = 1e-3 * (CPU_MS[0] + SEARCHED * CPU_MS[1] + CPU_MS[2])
    disk, memory, network = 1.4e9, 25e9, 12e9
    print_table(Machine("CPU, ranks of 16 threads, crops in memory (measured rates; threads taken to scale)", cpu_s / 16, 5e9, 1, rate,
                        solve_s / 4))
    print_table(Machine("H200 (estimated), images from a node's disk in every iteration", gpu_image_s(), disk, GPUS_OF_A_NODE, network,
                        solve_s / 100))
    print_table(Machine("H200 (estimated), crops in the node's memory after the first", gpu_image_s(), memory, 1, network, solve_s / 100))


if __name__ == "__main__":
    main()
