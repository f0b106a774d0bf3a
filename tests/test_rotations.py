"""Grids of rotations and shifts, quaternions, matrices and the exponential map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from kernel_oracles import random_rotations, turned
from protomer_kernels import rotations


def test_the_grid_of_rotations_is_nearly_uniform() -> None:
    number = 3000
    grid = rotations.super_fibonacci_grid(number)
    np.testing.assert_allclose(np.linalg.norm(grid, axis=1), 1.0, atol=1e-12)
    chord = cKDTree(np.concatenate([grid, -grid])).query(grid, k=2)[0][:, 1]
    nearest = 4 * np.arcsin(chord / 2)  # the rotation's angle is twice that between quaternions
    # Rotations by less than a fill a^3 / (6 pi) of the group; in the densest packing of space (0.74) balls of half the spacing touch.
    densest = 2 * (6 * np.pi * 0.7405 / number) ** (1 / 3)
    assert nearest.max() < densest and nearest.min() > 0.5 * densest
    assert nearest.std() < 0.12 * nearest.mean()  # random rotations: 0.36
    assert np.abs(rotations.matrices_from_quaternions(grid).mean(0)).max() < 0.01


def test_quaternions_and_matrices_agree_with_scipy_both_ways() -> None:
    halves = np.concatenate([np.eye(4), [[0.6, 0.8, 0, 0], [0, 0.6, -0.8, 0], [1, 1e-9, 0, 1e-9]]])  # half turns, and the identity
    quaternions = np.concatenate([Rotation.random(200, random_state=26).as_quat(), halves])
    matrices = rotations.matrices_from_quaternions(quaternions)
    np.testing.assert_allclose(matrices, Rotation.from_quat(quaternions).as_matrix(), atol=1e-14)
    back = rotations.quaternions_from_matrices(matrices)
    assert back[:, 3].min() >= 0
    np.testing.assert_allclose(np.abs((back * quaternions).sum(1)), 1.0, atol=1e-12)
    np.testing.assert_allclose(rotations.matrices_from_quaternions(back), matrices, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.5, 3.0, 3.141])
def test_the_exponential_map_agrees_with_scipy_both_ways(angle: float) -> None:
    omega = np.random.default_rng(27).standard_normal(3)
    omega *= angle / np.linalg.norm(omega)
    turn, out, vector = random_rotations(1, 27)[0], np.empty((3, 3)), np.empty(3)
    rotations.rotate_by(omega, turn, out)
    np.testing.assert_allclose(out, turned(omega, turn), atol=1e-14)
    rotations.rotation_vector_between(turn, out, vector)
    np.testing.assert_allclose(vector, omega, atol=1e-11)


@pytest.mark.parametrize("group", ["C1", "C4", "D2", "D7", "T", "O", "I"])
def test_the_asymmetric_unit_keeps_one_gth_of_the_grid_and_a_mate_of_everything(group: str) -> None:
    operators = Rotation.create_group(group).as_matrix()
    grid = rotations.super_fibonacci_grid(6000)
    kept = rotations.asymmetric_unit_rows(grid, operators)
    assert abs(len(kept) * len(operators) / 6000 - 1) < 0.1 and len(set(kept.tolist())) == len(kept)
    for turn in random_rotations(20, 28):
        mates = operators @ turn
        inside = rotations.asymmetric_unit_rows(Rotation.from_matrix(mates).as_quat(), operators)
        assert len(inside) == 1


def test_the_grid_of_shifts_fills_a_disc_from_its_middle() -> None:
    grid = rotations.shift_grid(3.0, 1.5)
    expected = {(x * 1.5, y * 1.5) for x in range(-3, 4) for y in range(-3, 4) if np.hypot(x, y) <= 2}
    assert {tuple(s) for s in grid.tolist()} == expected and len(grid) == len(expected) and not grid[0].any()
    assert np.all(np.diff(np.hypot(*grid.T)) >= -1e-6)
