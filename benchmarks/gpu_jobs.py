"""What the kernels of ab-initio, helical-refine and variability must move and do, and the work itself, for the table of gpu.py.

Counted as there: bytes that must cross the device's memory at least once, a fused multiply-add as two operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from protomer.computing.backend import mode_arithmetic_of
from protomer_kernels.grid_scores import shift_ramps
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.modes import mode_accumulator_shape
from protomer_kernels.rotations import matrices_from_quaternions, shift_grid, super_fibonacci_grid
from protomer_kernels.winding import wind

Row = tuple[str, int, float, float, Callable[[], object], str]  # name, items, bytes moved, operations, the work, which rate they have
MODES, CELLS = 3, 8
GRID_RADIUS, GRID_ROTATIONS, GRID_IMAGES = 9, 3_645, 32  # of ab-initio: its last coarse steps, in C1, for one batch
TWIST_RAD, RISE_PX, WINDOW = 0.5, 4.0, (0.3, 0.05, 0.2)  # of a filament; half the central length, edge and radius, of the box
SPLINE_OPERATIONS = 160  # for each copy of a voxel


def job_rows(arithmetic: Any, plane: HalfPlane, images: int, slice_operations: int) -> list[Row]:
    """Nothing is made before the work is done."""
    return [*mode_rows(arithmetic, plane, images, slice_operations), grid_row(arithmetic, plane.box), winding_row(arithmetic, plane.box)]


def mode_rows(arithmetic: Any, plane: HalfPlane, images: int, slice_operations: int) -> list[Row]:
    """The mean map and three modes seen by images, taken from them, and inserted."""
    n, k, views, of_modes = images, len(plane), MODES + 1, mode_arithmetic_of(arithmetic)
    values = mode_accumulator_shape(plane.radius, MODES)[3]
    waves, poses = plane.arrays(k), (matrices_from_quaternions(super_fibonacci_grid(n)), np.zeros((n, 2)))
    moments = np.ones((n, views)), np.ones((n, MODES, MODES))
    to_insert = np.ones((n, MODES)), np.ones((n, values - 2 * MODES))

    @cache
    def made() -> tuple[Any, ...]:
        random, side = np.random.default_rng(3), 4 * plane.radius + 7
        volume = arithmetic.here(random.standard_normal((side, side, side // 2 + 1, 2)).astype(np.float32))
        whitened = (arithmetic.here(random.standard_normal((n, 2, k)).astype(np.float32)), arithmetic.here(np.ones((n, k), np.float32)))
        volumes = of_modes.volumes([volume] * views)
        return volumes, whitened, of_modes.see_modes(volumes, poses, whitened, waves)[0]

    @cache
    def accumulator() -> Any:
        return of_modes.empty_accumulator(plane.radius, MODES)

    def see() -> object:
        return of_modes.see_modes(made()[0], poses, made()[1], waves)

    def leave() -> object:
        return of_modes.leave_modes(made()[1][0], made()[2], moments, plane.shell, plane.radius + 1)

    def insert() -> object:
        return of_modes.insert_modes(poses, to_insert, made()[1], waves, 1.0, accumulator())

    seeing = n * k * views * (slice_operations + 6 + 4 * (views + 1))
    return [(f"views of a mean and {MODES} modes", n, n * k * (12 + 8 * views), seeing, see, "float32"),
            (f"what {MODES} modes leave", n, n * k * 8 * (views + 2), n * k * 2 * (2 * views + 3 * MODES**2), leave, "float32"),
            (f"insertion of {MODES} modes", n, n * k * (12 + CELLS * 8 * values), n * k * CELLS * 4 * values, insert, "float32")]


def grid_row(arithmetic: Any, box: int) -> Row:
    """Posteriors over a coarse grid, and the sums that a batch adds to each of its slices: two products with all scores, in TF32."""
    low = HalfPlane(box, GRID_RADIUS)
    shifts = shift_grid(4.0, 1.0)
    operations = 8.0 * GRID_IMAGES * len(shifts) * GRID_ROTATIONS * len(low)

    @cache
    def given() -> tuple[Any, ...]:
        random = np.random.default_rng(4)
        views = random.standard_normal((1, GRID_ROTATIONS, 2, len(low))).astype(np.float32)
        data = random.standard_normal((GRID_IMAGES, 2, len(low))).astype(np.float32)
        whitened = arithmetic.here(data), arithmetic.here(np.ones((GRID_IMAGES, len(low)), np.float32))
        prior = np.full(len(shifts), -np.log(len(shifts))), np.zeros(1)
        return [whitened], arithmetic.here(views), shift_ramps(shifts, low.kx, low.ky, box), prior, 0.0

    name = f"posteriors of a grid, {GRID_ROTATIONS} x {len(shifts)} shifts, and sums"
    return name, GRID_IMAGES, 0.0, operations, lambda: list(arithmetic.posteriors_of_grid(*given())), "products"


def winding_row(arithmetic: Any, box: int) -> Row:
    """A map made helical."""
    window = tuple(part * box for part in WINDOW)
    copies = 2 * (window[0] + window[1] / 2) / RISE_PX
    voxels = box * np.pi * window[2] ** 2

    @cache
    def coefficients() -> Any:
        return arithmetic.here(np.random.default_rng(5).standard_normal((box,) * 3).astype(np.float32))

    def work() -> object:
        return wind(coefficients(), (TWIST_RAD, RISE_PX), window)

    return "a map made helical", 1, 8.0 * box**3, SPLINE_OPERATIONS * copies * voxels, work, "float32"
