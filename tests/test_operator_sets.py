"""Operators of helices and of their products with point groups, and what they do to poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.errors import SettingsError
from protomer.symmetry.operator_sets import Helix, OperatorSet, helical_operators, operators_of
from protomer_kernels.symmetry_copies import copy_covariances, copy_rotations, copy_shifts

TURN, SHIFT_A = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix(), np.array([1.0, 2.0, -3.0])  # off the axes


@dataclass(frozen=True)
class Said:
    """Helical settings as a job has them."""

    helical_twist: float | None = None
    helical_rise: float | None = None
    helical_order: int | None = None


def affine(operators: OperatorSet) -> np.ndarray:
    """(g, 4, 4) of x -> rotation x + t."""
    out = np.tile(np.eye(4), (len(operators), 1, 1))
    out[:, :3, :3] = operators.rotations
    out[:, :3, 3] = operators.translations_A
    return out


def test_copies_of_a_helix_are_symmetric_about_the_middle_and_right_handed_for_a_positive_twist() -> None:
    helix = helical_operators(Helix(np.deg2rad(30), 5.0, 5))
    np.testing.assert_allclose(helix.translations_A, np.outer([0, -5, 5, -10, 10], [0, 0, 1]))
    turns = Rotation.from_euler("z", [[0], [-30], [30], [-60], [60]], degrees=True).as_matrix()
    np.testing.assert_allclose(helix.rotations, turns, atol=1e-12)
    point = np.array([10.0, 0.0, 0.0, 1.0])
    path = affine(helix)[np.argsort(helix.translations_A[:, 2])] @ point
    step = np.diff(path[:, :3], axis=0)
    turning = path[:-1, 0] * path[1:, 1] - path[:-1, 1] * path[1:, 0]
    assert (turning > 0).all() and (step[:, 2] > 0).all()  # climbs while it turns anticlockwise: right-handed


def test_an_even_number_of_copies_has_one_more_below() -> None:
    np.testing.assert_array_equal(Helix(0.1, 2.0, 4).numbers, [0, -1, 1, -2])


@pytest.mark.parametrize(("group", "axes"), [("C1", "relion"), ("C3", "relion"), ("D1", "relion"), ("D1", "cryosparc"), ("D2", "relion")])
def test_a_product_of_a_helix_and_a_group_is_closed_but_for_its_ends(group: str, axes: str) -> None:
    small, large = (affine(operators_of(group, axes, Said(40.0, 3.0, order))) for order in (3, 5))
    assert len(small) == 3 * len(OperatorSet.of_group(group, axes))
    products = np.einsum("aij,bjk->abik", small, small).reshape(-1, 4, 4)
    assert np.abs(products[:, None] - large[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-9
    apart = np.abs(large[:, None] - large[None]).max(axis=(2, 3)) + np.eye(len(large))
    assert apart.min() > 1e-3, "an operator occurs twice"
    np.testing.assert_array_equal(large[0], np.eye(4))


def poses(number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return Rotation.random(number, random_state=2).as_quat(), random.normal(size=(number, 2)) * 4


@pytest.mark.parametrize(("group", "is_moved"), [("C1", False), ("C3", False), ("D1", False), ("D1", True)])
def test_an_image_looks_the_same_from_every_copy_of_its_pose(group: str, is_moved: bool) -> None:
    """A point of the particle and its images under all operators are one cloud: seen from a copy, it projects where it did."""
    given = operators_of(group, "relion", Said(33.0, 4.0, 5))
    given = given.moved(TURN, SHIFT_A) if is_moved else given
    rotation, shift = poses(6)
    out = np.empty((6, len(given), 4)), np.empty((6, len(given), 2))
    copy_rotations(Rotation.from_matrix(given.rotations).as_quat(), rotation, out[0])
    copy_shifts(given.translations_A, out[0], shift, out[1])
    point = np.array([7.0, -3.0, 2.0])
    cloud = given.rotations @ point + given.translations_A
    for n in range(6):
        seen = Rotation.from_quat(rotation[n]).as_matrix().T[:2] @ point - shift[n]
        for g in range(len(given)):
            np.testing.assert_allclose(Rotation.from_quat(out[0][n, g]).as_matrix().T[:2] @ cloud[g] - out[1][n, g], seen, atol=1e-9)
    np.testing.assert_array_equal(out[0][:, 0], rotation)
    np.testing.assert_array_equal(out[1][:, 0], shift)


def moved(given: OperatorSet, g: int, rotation: np.ndarray, shift: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The copy of a pose that was turned and moved by `change`, in SciPy."""
    turned = given.rotations[g] @ (Rotation.from_rotvec(change[:3]) * Rotation.from_quat(rotation)).as_matrix()
    return turned, shift + change[3:] + (turned.T @ given.translations_A[g])[:2]


def test_covariances_of_copies_follow_from_finite_differences_of_their_poses() -> None:
    given = operators_of("D1", "relion", Said(33.0, 4.0, 3)).moved(TURN, SHIFT_A)
    rotation, shift = poses(2)
    root = np.random.default_rng(1).normal(size=(2, 5, 5))
    full = root @ root.transpose(0, 2, 1)
    lower = np.tril_indices(5)
    rotations = np.empty((2, len(given), 4))
    copy_rotations(Rotation.from_matrix(given.rotations).as_quat(), rotation, rotations)
    out = np.empty((2, len(given), 15))
    copy_covariances(given.rotations, given.translations_A, rotations, full[:, lower[0], lower[1]], out)
    step = 1e-6
    for n in range(2):
        for g in range(len(given)):
            at, at_shift = moved(given, g, rotation[n], shift[n], np.zeros(5))
            jacobian = np.empty((5, 5))
            for k, change in enumerate(np.eye(5) * step):
                turned, displaced = moved(given, g, rotation[n], shift[n], change)
                jacobian[:, k] = np.concatenate([Rotation.from_matrix(turned @ at.T).as_rotvec(), displaced - at_shift]) / step
            expected = jacobian @ full[n] @ jacobian.T
            np.testing.assert_allclose(out[n, g], expected[lower], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("said", "found"), [(Said(30.0, None, 3), "no helical_rise"), (Said(30.0, 0.0, 3), "helical_rise = 0"),
                                             (Said(30.0, -2.0, 3), "helical_rise = -2"), (Said(30.0, 2.0, 0), "helical_order = 0"),
                                             (Said(None, 2.0, 3), "no helical_twist"), (Said(30.0, 2.0, None), "no helical_order")])
def test_a_helix_that_is_none_or_only_half_said_is_refused(said: Said, found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        operators_of("C1", "relion", said)


@pytest.mark.parametrize("group", ["T", "O", "I"])
def test_a_helix_has_no_cubic_point_group(group: str) -> None:
    with pytest.raises(SettingsError, match="point group"):
        operators_of(group, "relion", Said(30.0, 2.0, 3))


def test_operators_of_a_moved_map_do_to_moved_points_what_they_did_before() -> None:
    given = operators_of("D1", "relion", Said(33.0, 4.0, 3))
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = TURN, SHIFT_A
    np.testing.assert_allclose(affine(given.moved(TURN, SHIFT_A)), motion @ affine(given) @ np.linalg.inv(motion), atol=1e-12)


def test_a_mirrored_helix_has_the_other_hand() -> None:
    right, left = (helical_operators(Helix(way * 0.7, 3.0, 5)) for way in (1, -1))
    order = [0, 2, 1, 4, 3]  # copy -n of the one is copy n of the other
    np.testing.assert_allclose(affine(right.mirrored()), affine(left)[order], atol=1e-12)
