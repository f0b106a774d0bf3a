"""Sums of products in lanes: right, and with the bits of one written order of additions."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from protomer_kernels.lanes import LANES, lane_products

PAIRS = ((0, 1), (2, 2), (0, 2), (1, 0))
STRIDE = 300
ROWS = 3
add_products = lane_products(PAIRS, STRIDE)


@numba.njit
def compiled_products(rows, length, sums):  # type: ignore[no-untyped-def]
    add_products(rows, length, sums)


def in_lanes(rows: np.ndarray, length: int) -> np.ndarray:
    """The documented order, step by step in float32: sixteen running sums for each pair, then halves added to halves."""
    totals = np.zeros((len(PAIRS), LANES), np.float32)
    for start in range(0, length, LANES):
        for n, (first, second) in enumerate(PAIRS):
            product = rows[first, start : start + LANES] * rows[second, start : start + LANES]
            totals[n] = totals[n] + product
    while totals.shape[1] > 1:
        half = totals.shape[1] // 2
        totals = totals[:, :half] + totals[:, half:]
    return totals[:, 0].astype(np.float64)


@pytest.mark.parametrize("length", [0, LANES, 5 * LANES, 256])
def test_lane_products_have_the_bits_of_their_documented_order(length: int) -> None:
    rng = np.random.default_rng(31)
    rows = (rng.standard_normal((ROWS, STRIDE)) * 10.0 ** rng.uniform(-3, 3, (ROWS, STRIDE))).astype(np.float32)
    before = rng.standard_normal(len(PAIRS))
    found = before.copy()
    compiled_products(rows.ravel(), length, found)
    np.testing.assert_array_equal(found, before + in_lanes(rows, length))
    exact = [(rows[a, :length].astype(float) * rows[b, :length]).sum() for a, b in PAIRS]
    size = np.array([np.abs(rows[a, :length].astype(float) * rows[b, :length]).sum() for a, b in PAIRS])
    assert np.all(np.abs(found - before - exact) <= (length / LANES + 5) * 2.0**-24 * size)


def test_another_order_of_the_same_sums_has_other_bits() -> None:
    rows = np.random.default_rng(32).standard_normal((ROWS, STRIDE)).astype(np.float32)
    found = np.zeros(len(PAIRS))
    compiled_products(rows.ravel(), 256, found)
    one_by_one = [np.cumsum(rows[a, :256] * rows[b, :256], dtype=np.float32)[-1] for a, b in PAIRS]
    assert np.all(found != one_by_one)  # so that equal bits, above, are no accident
