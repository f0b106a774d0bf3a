"""Insertion of slices: the adjoint of reading, in integers that no order of additions changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kernel_oracles import BOX, PLANE, RADIUS, as_pairs, extract, insert, oracle_corners, random_rotations
from protomer_kernels import insertion


def test_insertion_is_the_adjoint_of_reading() -> None:
    rng = np.random.default_rng(8)
    shape = insertion.empty_accumulator(RADIUS).shape[:3]
    volume = rng.standard_normal((*shape, 2)).astype(np.float32)
    turns = random_rotations(12, 8)
    data = as_pairs(rng.standard_normal((12, len(PLANE))) + 1j * rng.standard_normal((12, len(PLANE))))
    ones, no_shift = np.ones((12, len(PLANE)), np.float32), np.zeros((12, 2))
    scale = insertion.fixed_point_scale(8.0, 12)
    sums = insert(turns, no_shift, np.ones(12), data, ones, scale) / scale
    read = as_pairs(extract(volume, turns)).astype(float)
    norm = np.linalg.norm(read) * np.linalg.norm(data)
    assert abs((read * data).sum() - (volume * sums[..., :2]).sum()) < 1e-7 * norm
    amplitude = rng.uniform(0.5, 2.0, ones.shape).astype(np.float32)
    weights = rng.random(12)
    sums = insert(turns, no_shift, weights, data, amplitude, scale) / scale
    weighted = weights[:, None] * amplitude.astype(float)
    assert abs((read * data * weighted[:, None]).sum() - (volume * sums[..., :2]).sum()) < 1e-7 * norm
    only_re = np.stack([volume[..., 0], np.zeros(shape)], axis=-1).astype(np.float32)
    expected = (extract(only_re, turns).real * weighted * amplitude).sum()
    assert abs(expected - (volume[..., 0] * sums[..., 2]).sum()) < 1e-7 * norm


def test_inserted_sums_equal_a_double_precision_loop_with_shifts() -> None:
    rng = np.random.default_rng(9)
    turns, shifts, weights = random_rotations(5, 9), rng.uniform(-3, 3, (5, 2)), rng.random(5)
    image = np.array([0, 2, 1, 1, 0])
    y = rng.standard_normal((3, len(PLANE))) + 1j * rng.standard_normal((3, len(PLANE)))
    amplitude = rng.uniform(-1, 1, (3, len(PLANE))).astype(np.float32)
    scale = insertion.fixed_point_scale(6.0, 5)
    sums = insert(turns, shifts, weights, as_pairs(y), amplitude, scale, 2, image) / scale
    expected = np.zeros(sums.shape)
    centre = (len(sums) - 1) // 2
    for turn, shift, weight, n in zip(turns, shifts, weights, image, strict=True):
        sign, corners = oracle_corners(2.0 * PLANE.coordinates @ turn[:, :2].T, centre)
        moved = weight * amplitude[n] * y[n] * np.exp(-2j * np.pi * PLANE.coordinates @ shift / BOX)
        for index, t in corners:
            for part, term in enumerate((moved.real, sign * moved.imag, weight * amplitude[n].astype(float) ** 2)):
                np.add.at(expected[..., part], index, t * term)
    np.testing.assert_allclose(sums, expected, atol=2e-5)


def test_insertion_has_the_same_bits_for_any_slabs_and_any_order() -> None:
    rng = np.random.default_rng(10)
    turns, shifts, weights = random_rotations(15, 10), rng.uniform(-3, 3, (15, 2)), rng.random(15)
    data = rng.standard_normal((15, 2, len(PLANE))).astype(np.float32)
    amplitude = rng.uniform(-1, 1, (15, len(PLANE))).astype(np.float32)
    scale = insertion.fixed_point_scale(6.0, 15)
    once = insert(turns, shifts, weights, data, amplitude, scale)
    assert np.any(once)
    for slabs in (2, 3, 7, len(once), len(once) + 5):
        np.testing.assert_array_equal(insert(turns, shifts, weights, data, amplitude, scale, slabs), once)
    order = rng.permutation(15)
    np.testing.assert_array_equal(insert(turns[order], shifts[order], weights[order], data, amplitude, scale, 2, order), once)
    halves = [insert(turns[part], shifts[part], weights[part], data[part], amplitude[part], scale) for part in np.split(np.arange(15), [6])]
    np.testing.assert_array_equal(halves[0] + halves[1], once)


@pytest.mark.parametrize("largest", [1e-6, 1.0, 3.7e9])
def test_the_scale_leaves_room_for_every_slice_in_one_voxel(largest: float) -> None:
    number = 40
    scale = insertion.fixed_point_scale(largest, number)
    assert np.log2(scale) == np.rint(np.log2(scale)) and 2.0**59 < 2 * largest * number * scale <= 2.0**61
    data = np.zeros((1, 2, len(PLANE)), np.float32)
    data[:, 0] = np.sqrt(largest)
    amplitude = np.full((1, len(PLANE)), np.sqrt(largest), np.float32)
    turns = np.broadcast_to(np.eye(3), (number, 3, 3)).copy()
    sums = insert(turns, np.zeros((number, 2)), np.ones(number), data, amplitude, scale, 2, np.zeros(number, np.int64))
    assert sums.min() >= 0  # an overflow would have changed a sign
    np.testing.assert_allclose(sums[..., 2].max() / scale, number * largest, rtol=1e-6)


def test_one_slice_never_gives_a_voxel_more_than_twice_its_largest_term() -> None:
    data, ones = np.ones((1, 2, len(PLANE)), np.float32), np.ones((1, len(PLANE)), np.float32)
    angles = np.random.default_rng(11).normal(0, 1e-2, (100, 3))
    angles[:, 1] += np.pi / 2  # slices that nearly hold the axis across which mates change sides
    near_axis = Rotation.from_euler("ZYZ", angles).as_matrix()
    for turn in np.concatenate([random_rotations(100, 11), near_axis]):
        sums = insert(turn[None], np.zeros((1, 2)), np.ones(1), data, ones, 2.0**40)
        assert sums[..., 2].max() <= 2.0 * 2.0**40 * (1 + 1e-6)
