"""What an M-step and the making of references must move and do, and the work itself, for the table of gpu.py.

Accumulators are those of a ball in noise; every half and fold has one. A Fourier transform of N numbers is counted as 5 N log2 N operations
(half of it where they are real), and each of its axes as one pass that reads and writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from protomer.engine.maximisation import Sums, corrected_curve, half_map_curve, regularised, solid_sphere, working_box
from protomer.maps.local_wiener import bands, find_gains
from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import Halves
from protomer.refinement.loop import maximise
from protomer.refinement.setup import MASK_FRACTION, Masking, Setup
from protomer.running.batches import Batch
from protomer.running.ranks import Team
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import accumulator_shape
from protomer_kernels.masks import sphere_mask
from protomer_kernels.padded import PADDING
from protomer_kernels.slices import transform_volume
from protomer_kernels.wiener import shell_weights

Row = tuple[str, int, float, float, Callable[[], object]]  # name, items, bytes moved, operations, the work
SCALE, PIXEL_A = 2.0**30, 1.3
DYNAMIC = Masking("dynamic", 0.2, 6.0, 14.0, 20.0)
WINDOW = NonUniform(3.0, 8)


def map_rows(arithmetic: Any, plane: HalfPlane, radius: int) -> list[Row]:
    """The parts of an M-step, once each, and the whole of it with one fold and with two. Nothing is made before the work is done."""
    box, voxels = working_box(plane.box, radius), float(math.prod(accumulator_shape(radius)[:3]))
    side, columns = accumulator_shape(radius)[1:3]
    padded, cube = PADDING * box, float(box**3)
    lines = side * columns + box * columns + box * box / 2  # transforms along each axis in turn; real ones count half
    transform = 5.0 * padded * math.log2(padded) * lines
    passes = 8.0 * (voxels + 2 * box * side * columns + 2 * box * box * columns) + 4 * cube
    fft, fft_bytes = 2.5 * cube * math.log2(cube), 24 * cube
    number = len(bands(radius))

    @cache
    def accumulator(key: tuple[int, int]) -> Any:
        return made_up_accumulator(arithmetic, radius, key)

    @cache
    def sums() -> Sums:
        return Sums.of(accumulator((0, 0)), SCALE)

    @cache
    def maps() -> Halves[Any]:
        return Halves(*(made_up_map(arithmetic, box, seed) for seed in (1, 2)))

    def solve() -> Any:
        """Of a copy, since the quotient takes the sums' place."""
        return regularised(Sums(sums().numerator.copy(), sums().weight), np.ones(radius + 1), box, arithmetic.threads)

    sphere = cache(lambda: solid_sphere(box, MASK_FRACTION, library=arithmetic.library))
    curve = np.where(np.arange(box // 2 + 1) < radius // 2, 0.9, 0.1)
    parts: list[Row] = [
        ("sums from an accumulator", 1, 36 * voxels, 3 * voxels, lambda: Sums.of(accumulator((0, 0)), SCALE)),
        ("weights by shell", 1, 4 * voxels, voxels, lambda: shell_weights(sums().weight, radius + 1)),
        ("solving sums for a map", 1, (16 + 4 + 20) * voxels + passes, 8 * voxels + transform, solve),
        ("FSC in a mask", 1, 2 * fft_bytes + 20 * cube, 2 * fft + 8 * cube, lambda: half_map_curve(maps(), sphere())),
        ("FSC less what the mask adds", 1, 6 * fft_bytes + 64 * cube, 6 * fft + 24 * cube,
         lambda: corrected_curve(maps(), sphere(), curve, 0, arithmetic)),
        ("dynamic mask", 1, 2 * fft_bytes + 40 * cube, 2 * fft + 20 * cube, lambda: DYNAMIC.on(maps(), PIXEL_A, 3.0)),
        (f"local filters, {number} bands", 1, number * (4 * fft_bytes / 2 + 100 * cube), number * (2 * fft + 300 * cube),
         lambda: find_gains(maps(), sphere(), float(radius), WINDOW)),
        ("transform of a reference", 1, passes + 8 * voxels, transform,
         lambda: transform_volume(maps().a, radius, workers=arithmetic.threads)),
    ]
    of = {name: np.array([moved, done]) for name, _, moved, done, _ in parts}
    measuring = of["FSC in a mask"] + of["FSC less what the mask adds"] + of["dynamic mask"]
    solving = of["sums from an accumulator"] + of["weights by shell"] + of["solving sums for a map"]
    for folds in (1, 2):
        added_up = 0 if folds == 1 else 24 * voxels * 3 * (2 + 2 * folds)
        moved, done = measuring + (2 + 2 * folds) * solving
        step = whole_step(arithmetic, plane, radius, folds, accumulator)
        parts.append((f"a whole M-step, folds: {folds}", 1, moved + added_up, done, step))
    return parts


def whole_step(
    arithmetic: Any, plane: HalfPlane, radius: int, folds: int, accumulator: Callable[[tuple[int, int]], Any]
) -> Callable[[], object]:
    """maximise() as `refine` calls it, from accumulators to maps on the host."""
    keys = [(half, fold) for half in (0, 1) for fold in range(folds)]
    batches, nothing = [Batch(key, np.zeros(0, np.int64), 0, 0) for key in keys], cast(Any, None)
    setup = Setup(nothing, nothing, batches, range(0), Team(), np.eye(3)[None], PIXEL_A, plane.box // 15, 0.0, True, 0, arithmetic, nothing,
                  np.zeros((1, 1)), DYNAMIC)
    band: Any = SimpleNamespace(box=plane.box, insertion_radius=radius)
    return lambda: maximise(setup, {key: accumulator(key) for key in keys}, SCALE, band)


def made_up_map(arithmetic: Any, box: int, seed: int) -> Any:
    """A ball in noise."""
    noise = np.random.default_rng(seed).standard_normal((box,) * 3, dtype=np.float32)
    return arithmetic.here(sphere_mask(box, 0.2 * box, 4.0) + np.float32(0.1) * noise)


def made_up_accumulator(arithmetic: Any, radius: int, key: tuple[int, int]) -> Any:
    """Of the shape's transform, in fixed point, with weights of one."""
    box = working_box(4 * radius, radius)
    transform = transform_volume(made_up_map(arithmetic, box, 10 * key[0] + key[1]), radius)
    total = arithmetic.empty_accumulator(radius)
    total[..., :2] = (transform * np.float32(0.5 * SCALE)).astype(np.int64)
    total[..., 2] = int(0.5 * SCALE)
    return total
