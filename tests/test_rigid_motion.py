"""Rigid motions: maps against atoms that were moved instead, poses against the images that must not change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.maps.rigid_motion import RigidMotion, move_mask, move_particles, move_volume
from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import AtomModel
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.atoms import real_volume
from protomer_kernels.masks import sphere_mask
from protomer_kernels.rotations import matrices_from_quaternions
from simulated import chain_model

BOX, VOXEL_A = 48, 3.0
LOWER = np.tril_indices(5)


def some_motion(seed: int = 0, shift_A: float = 9.0) -> RigidMotion:
    random = np.random.default_rng(seed)
    return RigidMotion(Rotation.random(rng=random).as_matrix(), random.uniform(-shift_A, shift_A, 3))


def map_of(model: AtomModel) -> Volume:
    return Volume(real_volume(model.volume_ft(BOX, VOXEL_A), BOX).astype(np.float32), VOXEL_A)


def moved_atoms(model: AtomModel, motion: RigidMotion) -> AtomModel:
    return AtomModel(motion.points(model.positions_A), model.weights, model.bfactor_A2)


def test_a_moved_map_is_the_map_of_the_moved_atoms() -> None:
    model, motion = chain_model(size=0.8, bfactor_A2=900.0), some_motion()
    exact, moved = map_of(moved_atoms(model, motion)).data, move_volume(map_of(model), motion).data
    assert np.abs(moved - exact).max() < 2e-3 * exact.max()


def test_a_motion_and_its_inverse_give_the_map_back() -> None:
    volume, motion = map_of(chain_model(size=0.8, bfactor_A2=900.0)), some_motion(1)
    again = move_volume(move_volume(volume, motion), motion.inverse)
    assert np.abs(again.data - volume.data).max() < 4e-3 * volume.data.max()


def test_motions_compose_as_their_effects_on_points_do() -> None:
    first, second, points = some_motion(1), some_motion(2), np.random.default_rng(3).normal(size=(5, 3))
    np.testing.assert_allclose(second.after(first).points(points), second.points(first.points(points)), atol=1e-12)
    np.testing.assert_allclose(first.inverse.points(first.points(points)), points, atol=1e-12)
    assert RigidMotion(Rotation.from_rotvec([0, 0.3, 0]).as_matrix(), np.array([3.0, 0, 4.0])).angle_deg == pytest.approx(np.rad2deg(0.3))
    assert RigidMotion.none().angle_deg == 0 and first.distance_A == pytest.approx(np.linalg.norm(first.shift_A))


def test_the_motion_that_does_nothing_changes_no_bit() -> None:
    volume = map_of(chain_model())
    assert np.array_equal(move_volume(volume, RigidMotion.none()).data, volume.data)
    assert np.array_equal(move_mask(volume, RigidMotion.none()).data, volume.data)


def test_what_leaves_the_box_does_not_come_back_on_the_other_side() -> None:
    volume = Volume(5.0 + sphere_mask(BOX, 4, 3, (BOX // 2, BOX // 2, BOX - 9)), VOXEL_A)
    moved = move_volume(volume, RigidMotion(np.eye(3), np.array([18 * VOXEL_A, 0, 0]))).data
    np.testing.assert_allclose(moved, 5.0, atol=1e-2)


def test_a_mask_moves_with_its_map_and_stays_between_0_and_1() -> None:
    motion = RigidMotion(some_motion(4).rotation, np.array([8.0, -5.0, 2.5]))
    at_A = np.array([15.0, -9.0, 21.0])
    z, y, x = BOX // 2 + at_A[::-1] / VOXEL_A
    target = BOX // 2 + motion.points(at_A)[::-1] / VOXEL_A
    moved = move_mask(Volume(sphere_mask(BOX, 5, 5, (z, y, x)), VOXEL_A), motion).data
    exact = sphere_mask(BOX, 5, 5, tuple(target))
    assert moved.min() >= 0 and moved.max() <= 1
    assert np.abs(moved - exact).max() < 0.1 and np.abs(moved - exact).mean() < 2e-3


def some_particles(number: int = 6) -> Particles:
    random, columns = np.random.default_rng(5), empty_columns(number)
    columns["rotation"][:] = Rotation.random(number, rng=random).as_quat()
    columns["shift_A"][:] = random.normal(0, 4, (number, 2))
    columns["half"][:] = 0
    columns["image_uid"][:] = np.arange(number)
    factor = random.normal(size=(number, 5, 5)) * np.array([0.02, 0.02, 0.02, 1.0, 1.0])[:, None]
    columns["pose_covariance"][:] = (factor @ factor.transpose(0, 2, 1))[:, LOWER[0], LOWER[1]]
    return Particles(columns, (), (Stack("a.mrcs", number, BOX, 0, 0, ""),), has_poses=True)


def image_of(model: AtomModel, rotation: np.ndarray, shift_A: np.ndarray) -> np.ndarray:
    """The image in which the particle lies at minus its shift (a shift is added to the image to centre it)."""
    return np.asarray(model.image_fts(np.asarray(rotation)[None, None], -np.asarray(shift_A)[None, None], BOX, VOXEL_A)[0])


def test_a_moved_particle_sees_the_moved_map_as_it_saw_the_first() -> None:
    model, motion, particles = chain_model(residues=100), some_motion(6), some_particles()
    moved = move_particles(particles, motion)
    for row in range(len(particles)):
        before = image_of(model, matrices_from_quaternions(particles.rotation[row]), particles.shift_A[row])
        after = image_of(moved_atoms(model, motion), matrices_from_quaternions(moved.rotation[row]), moved.shift_A[row])
        assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()


def test_moving_particles_by_two_motions_is_moving_them_by_both_at_once() -> None:
    first, second, particles = some_motion(7), some_motion(8), some_particles()
    steps, once = move_particles(move_particles(particles, first), second), move_particles(particles, second.after(first))
    np.testing.assert_allclose(steps.shift_A, once.shift_A, atol=1e-9)
    np.testing.assert_allclose(np.abs((steps.rotation * once.rotation).sum(1)), 1, atol=1e-12)
    np.testing.assert_allclose(steps.pose_covariance, once.pose_covariance, rtol=1e-3, atol=1e-5)


def test_the_covariance_is_that_of_poses_drawn_from_it_and_moved() -> None:
    particles, motion, random = some_particles(1), some_motion(9), np.random.default_rng(10)
    packed = np.zeros((5, 5))
    packed[LOWER] = particles.pose_covariance[0]
    covariance = packed + np.tril(packed, -1).T
    draws = random.multivariate_normal(np.zeros(5), covariance * 1e-4, 20000)  # small, so that the motion is linear in them
    rotation = Rotation.from_rotvec(draws[:, :3]) * Rotation.from_quat(particles.rotation[0])
    many = particles.take(np.zeros(len(draws), int)).with_columns(image_uid=np.arange(len(draws)), rotation=rotation.as_quat(),
                                                                 shift_A=particles.shift_A[0] + draws[:, 3:])
    moved, middle = move_particles(many, motion), move_particles(particles, motion)
    turned = Rotation.from_quat(moved.rotation) * Rotation.from_quat(middle.rotation[0]).inv()
    errors = np.concatenate([turned.as_rotvec(), moved.shift_A - middle.shift_A], axis=1)
    sampled, said = (np.cov(errors.T) * 1e4)[LOWER], middle.pose_covariance[0]
    scale = np.sqrt(np.outer(*2 * [np.diag(np.cov(errors.T) * 1e4)]))[LOWER]
    np.testing.assert_allclose(said / scale, sampled / scale, atol=0.04)


def test_operators_of_copies_turn_with_the_map() -> None:
    motion, operator = some_motion(11), Rotation.from_rotvec([0, 0, np.pi]).as_matrix()
    turned = motion.operators(np.stack([np.eye(3), operator]))
    np.testing.assert_allclose(turned[1] @ motion.rotation, motion.rotation @ operator, atol=1e-12)


@pytest.mark.parametrize(("rotation", "shift"), [(np.diag([1, 1, -1]), np.zeros(3)), (2 * np.eye(3), np.zeros(3)),
                                                 (np.eye(3), np.array([0, np.nan, 0])), (np.eye(2), np.zeros(3))])
def test_what_is_no_motion_is_refused(rotation: np.ndarray, shift: np.ndarray) -> None:
    with pytest.raises(ValueError, match="motion"):
        RigidMotion(rotation, shift)


def test_particles_without_poses_cannot_be_moved() -> None:
    particles = some_particles()
    with pytest.raises(ValueError, match="without poses"):
        move_particles(Particles(particles.columns, (), particles.stacks), some_motion())
