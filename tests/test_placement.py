"""Maps, masks and particles put into another frame: against atoms that were moved instead, and images that must not change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.errors import InputError
from protomer.maps.map_aligning import view_matrix
from protomer.maps.placement import Placement, place_mask, place_particles, place_volume
from protomer.maps.rigid_motion import MIRROR, Frame, RigidMotion, mirror_volume
from protomer.maps.volumes import Volume
from protomer.simulation.scatterers import AtomModel
from protomer.tables.optics import OpticsGroup
from protomer.tables.particle_sets import joined
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.atoms import real_volume
from protomer_kernels.masks import sphere_mask
from protomer_kernels.rotations import matrices_from_quaternions
from simulated import chain_model

LOWER = np.tril_indices(5)


def some_placement(seed: int, is_mirrored: bool, frame: Frame) -> Placement:
    random = np.random.default_rng(seed)
    return Placement(RigidMotion(Rotation.random(rng=random).as_matrix(), random.uniform(-9, 9, 3)), is_mirrored, frame)


def placed_atoms(model: AtomModel, placement: Placement) -> AtomModel:
    positions_A = model.positions_A @ MIRROR if placement.is_mirrored else model.positions_A
    return AtomModel(placement.motion.points(positions_A), model.weights, model.bfactor_A2)


def map_of(model: AtomModel, frame: Frame) -> Volume:
    return Volume(real_volume(model.volume_ft(frame.box, frame.voxel_size_A), frame.box).astype(np.float32), frame.voxel_size_A)


@pytest.mark.parametrize(("old", "new"), [(Frame(48, 3.0), Frame(48, 3.0)), (Frame(48, 3.0), Frame(61, 3.7)),
                                          (Frame(49, 3.4), Frame(40, 4.0)), (Frame(64, 3.2), Frame(44, 3.0))])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_placed_map_is_the_map_of_the_placed_atoms(old: Frame, new: Frame, is_mirrored: bool) -> None:
    model, placement = chain_model(size=0.7, bfactor_A2=1500.0), some_placement(1, is_mirrored, new)
    exact, placed = map_of(placed_atoms(model, placement), new), place_volume(map_of(model, old), placement)
    assert placed.box == new.box and placed.voxel_size_A == new.voxel_size_A
    grey = (old.voxel_size_A / new.voxel_size_A) ** 3  # a map of atoms holds what is in a voxel; a placed one keeps its density
    assert np.abs(placed.data - grey * exact.data).max() < 5e-3 * placed.data.max()


def test_what_lies_outside_a_smaller_frame_does_not_come_in_from_the_other_side() -> None:
    ball = Volume(sphere_mask(64, 4, 3, (32, 32, 57)), 2.0)
    assert np.abs(place_volume(ball, Placement(RigidMotion.none(), False, Frame(32, 2.0))).data).max() < 1e-2


def test_a_mask_is_placed_where_its_map_is() -> None:
    placement, at_A = some_placement(2, True, Frame(50, 3.5)), np.array([15.0, -9.0, 21.0])
    z, y, x = 24 + at_A[::-1] / 3.0
    placed = place_mask(Volume(sphere_mask(48, 5, 5, (z, y, x)), 3.0), placement)
    middle = 25 + placement.motion.points(MIRROR @ at_A)[::-1] / 3.5
    exact = sphere_mask(50, 5 * 3.0 / 3.5, 5 * 3.0 / 3.5, tuple(middle))
    assert placed.data.min() >= 0 and placed.data.max() <= 1 and np.abs(placed.data - exact).max() < 0.1


def test_mirroring_twice_changes_nothing_in_odd_and_even_boxes() -> None:
    for box in (8, 9):
        volume = Volume(np.random.default_rng(3).normal(size=(box,) * 3).astype(np.float32), 1.0)
        np.testing.assert_array_equal(mirror_volume(mirror_volume(volume)).data, volume.data)
        np.testing.assert_array_equal(mirror_volume(volume).data[box // 2], volume.data[box // 2])
        np.testing.assert_array_equal(mirror_volume(volume).data[box // 2 + 2], volume.data[box // 2 - 2])


def some_particles(number: int = 5, first_uid: int = 0) -> Particles:
    random, columns = np.random.default_rng(5), empty_columns(number)
    columns["rotation"][:] = Rotation.random(number, rng=random).as_quat()
    columns["shift_A"][:] = random.normal(0, 4, (number, 2))
    columns["half"][:] = np.arange(number) % 2
    columns["image_uid"][:] = first_uid + np.arange(number)
    factor = random.normal(size=(number, 5, 5)) * np.array([0.02, 0.02, 0.02, 1.0, 1.0])[:, None]
    columns["pose_covariance"][:] = (factor @ factor.transpose(0, 2, 1))[:, LOWER[0], LOWER[1]]
    optics = OpticsGroup("one", 300e3, 2.7e7, 0.1, 3.0, 48)
    return Particles(columns, (optics,), (Stack(f"{first_uid}.mrcs", number, 48, 0, 0, ""),), has_poses=True)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_particle_sees_the_placed_map_as_it_saw_the_first_but_for_the_mirror(is_mirrored: bool) -> None:
    """A mirrored particle's image is the image that the mirrored map gives in the pose M R M: itself mirrored by nothing in the plane."""
    model, particles, placement = chain_model(residues=100), some_particles(), some_placement(6, is_mirrored, Frame(48, 3.0))
    placed, atoms = place_particles(particles, placement), placed_atoms(model, placement)
    for row in range(len(particles)):
        images = [body.image_fts(matrices_from_quaternions(table.rotation[row])[None, None], -table.shift_A[row][None, None], 48, 3.0)[0]
                  for body, table in ((model, particles), (atoms, placed))]
        assert np.abs(images[1] - images[0]).max() < 1e-4 * np.abs(images[0]).max()


def test_the_covariance_of_a_mirrored_pose_is_that_of_mirrored_draws() -> None:
    particles, placement = some_particles(1), some_placement(7, True, Frame(48, 3.0))
    packed = np.zeros((5, 5))
    packed[LOWER] = particles.pose_covariance[0]
    covariance = packed + np.tril(packed, -1).T
    draws = np.random.default_rng(8).multivariate_normal(np.zeros(5), covariance * 1e-4, 20000)
    rotation = Rotation.from_rotvec(draws[:, :3]) * Rotation.from_quat(particles.rotation[0])
    many = particles.take(np.zeros(len(draws), int)).with_columns(image_uid=np.arange(len(draws)), rotation=rotation.as_quat(),
                                                                 shift_A=particles.shift_A[0] + draws[:, 3:])
    moved, middle = place_particles(many, placement), place_particles(particles, placement)
    turned = Rotation.from_quat(moved.rotation) * Rotation.from_quat(middle.rotation[0]).inv()
    sampled = np.cov(np.concatenate([turned.as_rotvec(), moved.shift_A - middle.shift_A], axis=1).T) * 1e4
    scale = np.sqrt(np.outer(np.diag(sampled), np.diag(sampled)))
    np.testing.assert_allclose(middle.pose_covariance[0] / scale[LOWER], (sampled / scale)[LOWER], atol=0.04)


def test_chimerax_coordinates_of_a_point_are_its_place_in_the_reference() -> None:
    old, placement = Frame(48, 3.0), some_placement(9, False, Frame(61, 2.0))
    matrix = np.array([float(word) for word in view_matrix(old, placement).split(",")]).reshape(3, 4)
    at_A = np.array([4.0, -7.0, 11.0])  # from the box centre
    found = matrix @ np.append(at_A + 24 * 3.0, 1.0)
    np.testing.assert_allclose(found, placement.motion.points(at_A) + 30 * 2.0, atol=1e-3)


def test_particles_of_several_runs_are_one_table_with_stacks_and_optics_of_their_own() -> None:
    first, second = some_particles(5), some_particles(3, first_uid=100)
    both = joined([first, second])
    assert len(both) == 8 and len(both.stacks) == 2 and len(both.optics_groups) == 1
    np.testing.assert_array_equal(both.columns["stack"], [0] * 5 + [1] * 3)
    np.testing.assert_array_equal(both.rotation[5:], second.rotation)
    assert [both.stacks[i].path for i in (0, 1)] == ["0.mrcs", "100.mrcs"]


def test_particles_that_would_count_twice_are_not_joined() -> None:
    with pytest.raises(InputError, match="3 images are in more than one"):
        joined([some_particles(5), some_particles(3)])
    with pytest.raises(InputError, match="some have none"):
        joined([some_particles(), Particles(some_particles(3, 9).columns, (), some_particles(3).stacks)])
