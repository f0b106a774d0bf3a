"""Trilinear reading and sine and cosine, as compiled and as plain Python, against double precision; prefetching."""

from __future__ import annotations

import numba
import numpy as np

from protomer_kernels import gather
from protomer_kernels.prefetch import prefetch
from protomer_kernels.trigonometry import sine_cosine_of_cycles


@numba.njit
def compiled_cells(volume, corners, fractions, out):  # type: ignore[no-untyped-def]
    """The vector loads (columns 0 to 9: load_cell, load_cell_value) and the scalar source (10 to 17) at each point."""
    plane, row, flat = np.uint64(volume.shape[1] * volume.shape[2] * 2), np.uint64(volume.shape[2] * 2), volume.ravel()
    for n in range(len(corners)):
        k, j, i = np.uint64(corners[n, 0]), np.uint64(corners[n, 1]), np.uint64(corners[n, 2])
        dx, dy, dz = fractions[n, 0], fractions[n, 1], fractions[n, 2]
        base = k * plane + j * row + i * np.uint64(2)
        out[n, 0], out[n, 1], out[n, 2], out[n, 3], out[n, 4], out[n, 5], out[n, 6], out[n, 7] = gather.load_cell(
            flat, base, row, plane, dx, dy, dz
        )
        out[n, 8], out[n, 9] = gather.load_cell_value(flat, base, row, plane, dx, dy, dz)
        out[n, 10:18] = np.array(gather.interpolate_with_gradient(volume, k, j, i, dx, dy, dz))


def test_vector_loads_and_scalar_source_equal_plain_trilinear_reading() -> None:
    rng = np.random.default_rng(2)
    volume = rng.standard_normal((7, 7, 4, 2)).astype(np.float32)
    corners, fractions = rng.integers(0, [6, 6, 3], (200, 3)), rng.random((200, 3)).astype(np.float32)
    out = np.empty((200, 18), np.float32)
    compiled_cells(volume, corners, fractions, out)

    def value(n: int, at: list[float]) -> np.ndarray:
        k, j, i = corners[n]
        cell = volume[k : k + 2, j : j + 2, i : i + 2].astype(float)
        dx, dy, dz = at
        return np.einsum("zyxp,z,y,x->p", cell, [1 - dz, dz], [1 - dy, dy], [1 - dx, dx])

    for n in range(200):
        at = [float(f) for f in fractions[n]]
        ends = [[[*at[:axis], end, *at[axis + 1 :]] for end in (0.0, 1.0)] for axis in range(3)]
        gradient = [value(n, high) - value(n, low) for low, high in ends]  # exact: the reading is linear along each axis
        expected = np.concatenate([value(n, at), *gradient])
        np.testing.assert_allclose(out[n, :8], expected, atol=4e-6)
        np.testing.assert_allclose(out[n, 8:10], expected[:2], atol=4e-6)
        np.testing.assert_allclose(out[n, 10:], expected, atol=4e-6)
        plain = gather.interpolate_with_gradient(volume, *corners[n].astype(np.uint64), *fractions[n])
        np.testing.assert_allclose(plain, expected, atol=4e-6)
        assert gather.interpolate(volume, *corners[n].astype(np.uint64), *fractions[n]) == plain[:2]


@numba.njit(fastmath=True)
def compiled_sines(phases, out):  # type: ignore[no-untyped-def]
    for n in range(len(phases)):
        out[0, n], out[1, n] = sine_cosine_of_cycles(phases[n])


def test_sine_and_cosine_of_cycles_are_right_to_four_in_ten_million() -> None:
    special = np.arange(-800, 801) / 8
    phases = np.concatenate([np.random.default_rng(3).uniform(-100, 100, 200_000), special]).astype(np.float32)
    turn = 2 * np.pi * (phases.astype(float) - np.rint(phases.astype(float)))
    expected = np.stack([np.sin(turn), np.cos(turn)])
    out = np.empty((2, len(phases)), np.float32)
    compiled_sines(phases, out)
    assert np.abs(out - expected).max() < 4e-7
    assert np.abs(np.stack(sine_cosine_of_cycles(phases)) - expected).max() < 4e-7


@numba.njit
def sum_with_prefetch(flat, ahead):  # type: ignore[no-untyped-def]
    total = 0.0
    for n in range(len(flat)):
        prefetch(flat, np.uint64(n + ahead))
        total += flat[n]
    return total


def test_prefetching_changes_nothing_even_past_the_end() -> None:
    values = np.arange(100, dtype=np.float64)
    assert sum_with_prefetch(values, 1_000_000) == 4950.0
    np.testing.assert_array_equal(values, np.arange(100))
