"""Whole E-steps of a refinement on a CUDA device, host included: images per second, and seconds for 100,000 particles.

python benchmarks/gpu_iteration.py [--box 256] [--radius 100] [--images 100000] [--disk FOLDER]

Climbs from known poses with insertion and residuals, marginalisation off and on, and global searches of one image in 32. Images are random
numbers that lie on the device after the first E-step, which brings them there. With --disk, a stack of so many images is written to a
folder and refined from there: the time of an E-step that reads them, over that of reading alone, both from the disk.

Without a device it measures what the host has to do meanwhile, in CPU seconds: kernels then give nothing, in no time. The box is 64, so
that what NumPy does in their place is small. Then, in seconds on the clock, what is left of it where the host works for one part of the
batches while a pretended device, which takes 10 us for an image, computes for another.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from protomer.computing.arithmetic import Arithmetic
from protomer.computing.backend import what_cuda_lacks
from protomer.engine.alignment import IDENTITY, Search, Stage
from protomer.engine.batch_alignment import Context
from protomer.engine.expectation import expect
from protomer.engine.hypotheses import Hypotheses
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable
from protomer.formats.mrc import StackReader
from protomer.formats.mrc_stack import StackWriter
from protomer.imaging.images import ImageStore
from protomer.imaging.packed import Packed
from protomer.running.batches import BATCH, Batch
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.normal_equations import SUMS
from protomer_kernels.rotations import super_fibonacci_grid

PIXEL_A, KINDS, TARGET = 1.3, 8, 100_000
DEVICE_US = 10.0  # of a pretended device, for an image
OTHER_BYTES, BYTES = 4 * 10**9, 52  # on the device: of all but images, and of a coefficient of an image at work (Work.device_batch_bytes)
DIAGONAL = np.array([6, 8, 11, 15, 20])  # of the matrix among the sums


class Idle(Arithmetic):
    """Kernels that do nothing: what is left is the host's share, with as many batches at once as a device takes."""

    at_once, of_image_s = 32, 0.0

    def __init__(self) -> None:
        super().__init__()
        self._device = threading.Lock()

    def slices(self, volume_ft: Any, rotations: np.ndarray, waves: Any) -> Any:
        """Nothing."""
        return np.broadcast_to(np.float32(0), (len(rotations), 2, len(waves[0])))

    def ctf(self, parameters: Any, waves: Any, cycle_per_A: float, added: Any) -> Any:
        """Ones."""
        return np.broadcast_to(np.float32(1), (len(parameters.defocus_u_A), len(waves[0])))

    def crops(self, packed: Any) -> Any:
        """One image for all."""
        return np.broadcast_to(packed[0].stored[:1], (sum(len(part.stored) for part in packed), packed[0].stored.shape[1]))

    def whiten(self, crops: Any, transfer: Any, root_weights: np.ndarray, group: np.ndarray) -> Any:
        """Nothing."""
        return np.broadcast_to(np.float32(0), (len(crops), 2, transfer.shape[1])), transfer

    def best_of_grid(self, images: Any, views: Any, ramps: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """Any rotations and shifts."""
        random, number = np.random.default_rng(0), len(images[0])
        return random.integers(0, len(views), (number, keep)), random.integers(0, len(ramps), (number, keep))

    def climb(self, volume_ft: Any, starts: Any, batch: Any, waves: Any, steps: int, bounds: Any) -> np.ndarray:
        """Starts stay where they are."""
        sums = np.zeros((len(starts[0]), SUMS))
        sums[:, 0], sums[:, DIAGONAL] = np.random.default_rng(0).standard_normal(len(sums)), 1e4
        return sums

    def insert(self, *given: Any) -> None:
        """Nothing is added."""

    def residual_power(self, views: Any, shifts_px: Any, images: Any, waves: Any, shell: Any, shells: int) -> np.ndarray:
        """None, when the pretended device, which does one thing after the other, is done with the images."""
        with self._device:
            time.sleep(self.of_image_s * len(views))
        return np.zeros((len(views), 3, shells))


@dataclass
class RandomStore(ImageStore):
    """Crops that were never read: batches of random numbers, a few different ones."""

    def packed(self, number: int) -> Packed:
        """In half precision, as large sets are kept."""
        if number % KINDS not in self._held:
            random = np.random.default_rng(number % KINDS)
            self._held[number % KINDS] = random.standard_normal((BATCH, 2 * len(self.plane)), np.float32).astype(np.float16)
        return Packed(self._held[number % KINDS], None, self._serial, number)


def particles_of(number: int, box: int, path: Path | None = None) -> Particles:
    """Particles of one optics group, at poses all around."""
    columns = empty_columns(number)
    columns["rotation"][:] = super_fibonacci_grid(number)
    columns["defocus_u_A"][:], columns["defocus_v_A"][:] = 12_000, 11_500
    columns["stack_index"][:] = np.arange(number)
    columns["half"][:] = np.arange(number) >= number // 2
    columns["image_uid"][:] = np.arange(number)
    size = 0 if path is None else path.stat().st_size
    stack = Stack(str(path), number, box, size, 0, "0" * 64)
    return Particles(columns, (OpticsGroup("random", 300e3, 2.7e7, 0.1, PIXEL_A, box),), (stack,), True)


def e_step(particles: Particles, store: ImageStore, batches: list[Batch], plane: HalfPlane, arithmetic: Arithmetic, searched_in: int,
           marginalise: bool) -> Callable[[], object]:
    """An E-step; one image in `searched_in` is searched globally, none where that is 0."""
    number, radius = len(particles), plane.radius
    volume = np.random.default_rng(1).standard_normal((plane.box,) * 3).astype(np.float32)
    model = Model({(0, 0): volume, (1, 0): -volume}, np.ones((1, radius + 1)), IDENTITY, radius)
    search = Search(14, 16_000, 3.0, 1.0, (Stage(24, 14, 4), Stage(8, radius // 2, 4)), radius, 11)
    poses = PoseTable.empty(number)
    poses.rotation[:, 0], poses.weight[:, 0] = particles.rotation, 1.0
    again = np.zeros((1, number), bool) if searched_in == 0 else np.arange(number)[None] % searched_in == 0
    context = Context(again, 1.0, PIXEL_A, lambda advanced: None, Hypotheses.of_one(False), marginalise, arithmetic=arithmetic)
    return lambda: expect(batches, range(len(batches)), store, particles, [model], search, [poses], context)


def batches_of(particles: Particles) -> list[Batch]:
    """Those of each half, in the order of the table."""
    halves = [np.flatnonzero(particles.half == half) for half in (0, 1)]
    parts = [((half, 0), rows[first : first + BATCH]) for half, rows in enumerate(halves) for first in range(0, len(rows), BATCH)]
    return [Batch(key, rows, len(rows), block) for block, (key, rows) in enumerate(parts)]


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds that it takes once."""
    begun = clock()
    work()
    return clock() - begun


def from_memory(arithmetic: Arithmetic, plane: HalfPlane, images: int, clock: Callable[[], float]) -> None:
    """Print the rows of images that lie on the device."""
    images -= images % (2 * BATCH)
    particles = particles_of(images, plane.box)
    batches = batches_of(particles)
    store = RandomStore(particles, plane, [batch.rows for batch in batches], arithmetic=arithmetic)
    cases = {"brought there, climbed": (0, False), "climbed": (0, False), "marginalised": (0, True), "1 in 32 searched": (32, True)}
    few = particles.take(np.arange(4 * BATCH))
    timed(e_step(few, store, batches_of(few), plane, arithmetic, 4, True), clock)  # compiles
    print(f"| E-step | s | images/s | us per image | s for {TARGET:,} |\n|---|---|---|---|---|")
    for name, (searched_in, marginalise) in cases.items():
        taken = timed(e_step(particles, store, batches, plane, arithmetic, searched_in, marginalise), clock)
        print(f"| {name} | {taken:.2f} | {images / taken:.0f} | {1e6 * taken / images:.1f} | {TARGET * taken / images:.2f} |", flush=True)


def beside_a_device(plane: HalfPlane, images: int) -> None:
    """Print how long E-steps beside a pretended device take, with one part of the batches under way and with two."""
    images -= images % (2 * BATCH)
    particles = particles_of(images, plane.box)
    batches = batches_of(particles)
    print(f"\n| parts under way | batches in each | s on the clock (the device alone: {DEVICE_US * images / 1e6:.2f}) |\n|---|---|---|")
    for parts in (1, 2, 1, 2):
        arithmetic = Idle()
        arithmetic.side_by_side, arithmetic.at_once, arithmetic.of_image_s = parts, 32 // parts, DEVICE_US / 1e6
        store = RandomStore(particles, plane, [batch.rows for batch in batches], arithmetic=arithmetic)
        taken = timed(e_step(particles, store, batches, plane, arithmetic, 0, False), time.perf_counter)
        print(f"| {parts} | {32 // parts} | {taken:.2f} |", flush=True)


def from_disk(arithmetic: Arithmetic, plane: HalfPlane, images: int, folder: Path, clock: Callable[[], float]) -> None:
    """Print how much longer an E-step that reads its images takes than reading alone."""
    path, random = folder / "gpu_iteration.mrcs", np.random.default_rng(2)
    part = random.standard_normal((BATCH, plane.box, plane.box)).astype(np.float16)
    try:
        with path.open("wb") as file:
            writer = StackWriter(file, images, plane.box, PIXEL_A, True)
            for first in range(0, images, BATCH):
                writer.append(part[: images - first])
            file.flush()
            os.fsync(file.fileno())
        particles = particles_of(images, plane.box, path)
        batches = batches_of(particles)
        forget(path)
        with StackReader(path) as reader:
            reading = timed(lambda: [reader.read(particles.stack_index[batch.rows]) for batch in batches], time.perf_counter)
        store = ImageStore(particles, plane, [batch.rows for batch in batches], None, arithmetic, True)
        forget(path)
        taken = timed(e_step(particles, store, batches, plane, arithmetic, 0, False), clock)
        print(f"\n{images} images of {plane.box} px from disk: reading {reading:.2f} s, E-step {taken:.2f} s, ratio {taken / reading:.2f}")
    finally:
        path.unlink(missing_ok=True)


def forget(path: Path) -> None:
    """Let the system drop what it keeps of a file in memory, so that the disk is read."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("box", 256), ("radius", 100), ("images", TARGET), ("threads", 8)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    parser.add_argument("--disk", type=Path, metavar="FOLDER")
    chosen, lacks = parser.parse_args(), what_cuda_lacks()
    if lacks:
        print(f"Not measured: {lacks}. The host's share of an E-step of {chosen.images} images, CPU seconds:\n")
        from_memory(Idle(), HalfPlane(64, 28), chosen.images, time.process_time)
        beside_a_device(HalfPlane(64, 28), chosen.images)
        return
    import cupy

    from protomer.computing.cuda_arithmetic import CudaArithmetic

    def clock() -> float:
        cupy.cuda.runtime.deviceSynchronize()
        return time.perf_counter()

    plane = HalfPlane(chosen.box, chosen.radius)
    arithmetic = CudaArithmetic(OTHER_BYTES, BATCH * len(plane) * BYTES, chosen.threads)
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    under_way = f"{arithmetic.side_by_side} times {arithmetic.at_once} batches"
    print(f"{name}, {under_way} under way; box {chosen.box}, radius {chosen.radius}, {chosen.images} images:\n")
    from_memory(arithmetic, plane, chosen.images, clock)
    if chosen.disk:
        from_disk(arithmetic, plane, min(chosen.images, 20_000), chosen.disk, clock)


if __name__ == "__main__":
    main()
