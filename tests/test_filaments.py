"""Poses of filaments: priors, the equivalent pose that is taken, and the grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.engine.filaments import Filaments, axis_angles, filament_grid, tilted
from protomer.symmetry.point_groups import operators
from protomer_kernels.rotations import asymmetric_unit_rows, matrices_from_quaternions

TWIST_RAD, RISE_PX = np.deg2rad(-57.0), 2.5


def matrices(*angles: tuple[float, float, float]) -> np.ndarray:
    return Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()


def of(tilt_deg: list[float], psi_deg: list[float], both_ways: bool = True) -> Filaments:
    return Filaments(np.deg2rad(tilt_deg), np.deg2rad(psi_deg), np.deg2rad(5.0), np.deg2rad(10.0), both_ways, TWIST_RAD, RISE_PX)


def test_tilt_and_psi_are_those_of_the_convention() -> None:
    tilt, psi = axis_angles(matrices((12, 80, 33), (200, 97, -160)))
    assert np.rad2deg(tilt) == pytest.approx([80, 97]) and np.rad2deg(psi) == pytest.approx([33, -160])
    assert tilted(matrices((12, 80, 33)), np.deg2rad([7.0])) == pytest.approx(matrices((12, 87, 33)), abs=1e-12)


def test_the_prior_is_gaussian_in_tilt_and_psi_and_does_not_care_about_rot() -> None:
    rotation = matrices((10, 95, 40), (310, 95, 40), (10, 90, 60))[None]
    assert of([90.0], [50.0]).log_prior(rotation) == pytest.approx(np.array([[-0.5 - 0.5, -0.5 - 0.5, -0.5]]))
    assert of([90.0], [np.nan]).log_prior(rotation) == pytest.approx(np.array([[-0.5, -0.5, 0.0]]))


def test_the_other_way_round_is_as_likely_unless_the_polarity_is_known() -> None:
    rotation = matrices((10, 85, 230))[None]  # of a filament at tilt 95 and psi 50
    assert of([95.0], [50.0]).log_prior(rotation)[0, 0] == pytest.approx(0.0, abs=1e-12)
    assert of([95.0], [50.0], both_ways=False).log_prior(rotation)[0, 0] == pytest.approx(-0.5 * (2**2 + 18**2))


def test_climbs_are_held_to_the_tilt_that_is_nearer_and_not_in_rot_or_psi() -> None:
    rotation = matrices((10, 99, 40), (-70, 78, 15))[None]
    priors, extent = of([95.0], [np.nan]).bounds(rotation)
    assert priors[0, :, :9].reshape(2, 3, 3) == pytest.approx(matrices((10, 95, 40), (-70, 85, 15)), abs=1e-12)
    assert priors[0, 0, 11:16] == pytest.approx([np.deg2rad(5) ** -2] * 2 + [0, 0, 0]) and extent[0] == np.pi


def test_the_copy_that_is_taken_shows_the_same_helix_with_its_shift_within_half_a_rise() -> None:
    random = np.random.default_rng(1)
    rotation = Rotation.from_euler("ZYZ", random.uniform(-180, 180, (40, 3)) * [1, 0.1, 1] + [0, 90, 0], degrees=True).as_matrix()[:, None]
    shift = random.uniform(-9, 9, (40, 1, 2))
    found, moved, copies = of([90.0] * 40, [np.nan] * 40).nearest_copies(rotation, shift)
    axis = rotation[..., 2, :2] / np.linalg.norm(rotation[..., 2, :2], axis=-1, keepdims=True)
    along = np.abs(np.sum(moved * axis, axis=-1))
    sine = np.linalg.norm(rotation[..., 2, :2], axis=-1)
    assert np.all(along <= 0.5 * RISE_PX * sine + 1e-9) and np.abs(copies).max() > 1
    helix = [np.array([7 * np.cos(n * TWIST_RAD), 7 * np.sin(n * TWIST_RAD), n * RISE_PX]) for n in range(-30, 31)]
    for n in range(40):  # subunits of an endless helix, seen in the image: the same points but for the ends
        seen = [(r[n, 0].T @ np.array(helix).T)[:2].T - s[n, 0] for r, s in ((rotation, shift), (found, moved))]
        middle = seen[0][15:-15]
        assert np.abs(middle[:, None] - seen[1][None]).max(axis=2).min(axis=1).max() < 1e-9


def test_the_grid_holds_every_rot_and_psi_and_the_tilts_within_the_extent() -> None:
    grid = filament_grid(0.12, np.deg2rad(10.0))
    matrices_of = matrices_from_quaternions(grid)
    tilt, _ = axis_angles(matrices_of)
    assert np.rad2deg(np.unique(tilt.round(9))) == pytest.approx([80, 90, 100])
    for wanted in Rotation.from_euler("ZYZ", np.random.default_rng(2).uniform(-180, 180, (20, 3)) * [1, 0.05, 1] + [0, 90, 0],
                                      degrees=True).as_matrix():
        angle = np.arccos(np.clip((np.einsum("ij,gij->g", wanted, matrices_of) - 1) / 2, -1, 1))
        assert angle.min() < 0.12
    assert len(asymmetric_unit_rows(grid, operators("C3"))) == pytest.approx(len(grid) / 3, rel=0.1)
    assert axis_angles(matrices_from_quaternions(filament_grid(0.2, 0.0)))[0] == pytest.approx(np.pi / 2)


def test_the_covariance_of_the_copy_is_that_of_poses_that_were_copied() -> None:
    random, filaments = np.random.default_rng(3), of([90.0], [np.nan])
    rotation, shift = matrices((20, 96, 70)), np.array([[4.1, -2.3]])
    root = random.standard_normal((5, 5)) * 1e-3
    draws = random.standard_normal((20000, 5)) @ root.T
    turned = Rotation.from_rotvec(draws[:, :3]).as_matrix() @ rotation
    _, _, (copy,) = filaments.nearest_copies(rotation, shift)
    turn = Rotation.from_rotvec([0, 0, copy * TWIST_RAD]).as_matrix()
    there = turn @ turned
    moved = shift + draws[:, 3:] + copy * RISE_PX * turned[:, 2, :2]
    error = np.concatenate([Rotation.from_matrix(there @ (turn @ rotation[0]).T).as_rotvec(), moved - moved.mean(axis=0)], axis=1)
    packed = (root @ root.T)[np.tril_indices(5)][None]
    found = filaments.copied_covariances(packed, turn @ rotation, np.array([copy]))
    assert copy != 0 and found[0] == pytest.approx(np.cov(error.T)[np.tril_indices(5)], abs=3e-2 * np.abs(found).max())
    unknown = np.full((1, 15), np.inf)
    assert np.array_equal(filaments.copied_covariances(unknown, turn @ rotation, np.array([copy])), unknown)


def test_an_image_is_compared_with_the_part_of_the_grid_where_its_psi_may_lie_and_no_part_is_missing() -> None:
    grid = matrices_from_quaternions(filament_grid(0.1, np.deg2rad(10.0)))
    filaments = of([90.0, 90.0, 90.0], [40.0, -177.0, 95.0])
    compared = np.zeros((3, len(grid)), bool)
    for part, rows in filaments.windows(grid):
        compared[rows, part] = True
    away = np.rad2deg(axis_angles(grid)[1])[None] - np.array([[40.0], [-177.0], [95.0]])
    away = np.abs(np.mod(away + 90, 180) - 90)  # either way round
    assert compared[away < 29].all() and not compared[away > 51].any()
    unknown = of([90.0], [np.nan]).windows(grid)
    assert len(unknown) == 1 and unknown[0][0] == slice(0, len(grid)) and unknown[0][1].tolist() == [0]
