"""The frame that poses share: what pulls it, how its motion is told from poses, and that a local refinement stays where it was."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.engine.alignment import IDENTITY, Poses, Reference, Search, refine_modes
from protomer.engine.frame import common_motion, moved_at, moved_poses
from protomer.engine.local_alignment import seen_from
from protomer.engine.maximisation import solid_sphere
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import write_volume
from protomer.local.start import centre_of_mass_px
from protomer.local.trust import warn_of_pull
from protomer.maps.resolution import measure_fsc
from protomer.maps.rigid_motion import RigidMotion, move_particles
from protomer.maps.volumes import MapRecord, Volume
from protomer.refinement.outcome import share_cut, warn_of_cut
from protomer.refinement.setup import MASK_FRACTION
from protomer.running.events import Events
from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.pose_trial import known_images
from protomer.symmetry.point_groups import operators
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.masks import near_points, soft_edge
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors
from protomer_kernels.shells import fourier_shell_correlation
from reconstructions import as_particles, rebuilt
from refinement_runs import protomer
from simulated import chain_dataset, chain_model

BOX, PIXEL_A = 32, 4.0
FULCRUM_PX = np.array([5.0, -3.0, 2.0])
CUT_X_A = 5.0  # the mask of the part ends here, in the middle of the chains


@functools.cache
def images() -> SimulatedData:
    """Of chains that do not move, clear enough for an image to tell its pose."""
    return simulate_dataset(chain_model(), SimulationDesign(400, BOX, PIXEL_A, 1.0, seed=6))


@functools.cache
def mask_of_part() -> np.ndarray:
    """Around all atoms beyond CUT_X_A, with an edge that the other atoms reach through: what it cuts lies towards -x."""
    positions = chain_model().positions_A
    part = positions[positions[:, 0] > CUT_X_A]
    return soft_edge(near_points(BOX, part[:, ::-1] / PIXEL_A + BOX // 2, 4.0 / PIXEL_A), 8.0 / PIXEL_A)


def found_with(reference: np.ndarray) -> RigidMotion:
    """The common motion of poses that climb from the truth, against a map (D, D, D)."""
    data, plane = images(), HalfPlane(BOX, largest_radius(BOX))
    truth, search = data.truth, Search(8, 100, 3.0, 1.5, (), plane.radius)
    rotation, shift_px = truth.rotation_matrix, truth.shift_A / PIXEL_A
    prepared = Reference.prepare(reference.astype(np.float32), plane, plane.radius, IDENTITY, search)
    batch = known_images(data, plane, plane.radius, slice(0, len(truth)))
    starts = rotation[:, None].copy(), shift_px[:, None].copy(), np.ones((len(truth), 1), bool)
    poses = refine_modes(batch, prepared, search, *starts)
    after = np.ascontiguousarray(poses.rotation[:, 0])
    return common_motion(rotation_errors(rotation, after, IDENTITY), poses.shift_px[:, 0] - shift_px, after, (np.zeros(3), PIXEL_A))


def poses_before_and_after(motion: RigidMotion, lost: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rotations and shifts (px) of 400 poses, and after a motion and errors of 1 degree and 0.2 px; some are lost to one side."""
    random = np.random.default_rng(7)
    before = Rotation.random(400, random_state=random).as_matrix()
    shift = random.normal(0.0, 2.0, (400, 2))
    after = motion.rotation @ before
    moved = shift + (after.transpose(0, 2, 1) @ (motion.shift_A / PIXEL_A))[:, :2] + random.normal(0.0, 0.2, (400, 2))
    error = np.deg2rad(random.normal(0.0, 1.0, (400, 3)))
    error[: int(400 * lost)] += np.deg2rad([14.0, 3.0, 0.0])
    moved[: int(400 * lost)] += 2.5
    return before, shift, Rotation.from_rotvec(error).as_matrix() @ after, moved


def motion_between(
    before: np.ndarray, shift: np.ndarray, after: np.ndarray, moved: np.ndarray, group: np.ndarray = IDENTITY
) -> RigidMotion:
    """What common_motion says of them."""
    by = seen_from(after, moved, FULCRUM_PX) - seen_from(before, shift, FULCRUM_PX)
    return common_motion(rotation_errors(before, after, IDENTITY), by, after, (FULCRUM_PX, PIXEL_A), group)


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_the_motion_that_poses_share_is_found_though_some_of_them_are_lost(lost: float) -> None:
    motion = RigidMotion(Rotation.from_rotvec(np.deg2rad([0.5, -1.5, 1.0])).as_matrix(), np.array([1.2, -0.7, 0.4]))
    found = motion_between(*poses_before_and_after(motion, lost))
    left = found.after(motion.inverse)
    print(left.angle_deg, moved_at(left, FULCRUM_PX * PIXEL_A))
    assert left.angle_deg < 0.25 and moved_at(left, FULCRUM_PX * PIXEL_A) < 0.2
    assert motion.angle_deg > 1.8  # eight times the bound


def test_a_group_leaves_only_motions_that_keep_its_axes_in_their_place() -> None:
    motion = RigidMotion(Rotation.from_rotvec(np.deg2rad([0.5, -1.5, 2.0])).as_matrix(), np.array([1.2, -0.7, 1.0]))
    poses = poses_before_and_after(motion, 0.0)
    about_z = motion_between(*poses, operators("C3"))
    np.testing.assert_allclose(about_z.rotation @ [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(about_z.shift_A[:2], 0.0, atol=1e-12)
    assert about_z.angle_deg == pytest.approx(2.0, abs=0.3) and about_z.shift_A[2] == pytest.approx(1.0, abs=0.3)
    none = motion_between(*poses, operators("D2"))
    assert none.angle_deg < 1e-6 and none.distance_A < 1e-9


def test_what_no_view_tells_is_left_as_it_is() -> None:
    turns = Rotation.from_euler("Z", np.linspace(0.0, 6.0, 50)[:, None]).as_matrix()
    by = (turns.transpose(0, 2, 1) @ np.array([0.3, 0.1, 0.7]))[:, :2]  # all seen along z
    motion = common_motion(np.zeros((50, 3)), by, turns, (FULCRUM_PX, PIXEL_A))
    np.testing.assert_allclose(motion.shift_A, PIXEL_A * np.array([0.3, 0.1, 0.0]), atol=1e-9)


def test_moved_modes_are_those_of_moved_particles(tmp_path: Path) -> None:
    data, motion = chain_dataset(40), RigidMotion(Rotation.from_rotvec([0.2, 0.1, -0.3]).as_matrix(), np.array([3.0, -2.0, 5.0]))
    truth, random = data.truth, np.random.default_rng(3)
    factor = random.normal(0.0, 1.0, (40, 5, 5))
    covariance = (factor @ factor.transpose(0, 2, 1))[:, *np.tril_indices(5)]
    covariance[5] = np.inf
    poses = Poses(np.stack([truth.rotation_matrix] * 2, axis=1), np.stack([truth.shift_A / PIXEL_A] * 2, axis=1), np.ones((40, 2)),
                  np.zeros(40), covariance, np.zeros(40))
    moved = moved_poses(poses, motion, PIXEL_A)
    assert np.isinf(moved.covariance[5]).all()
    rows = np.arange(40) != 5
    unit = np.array([1.0, 1.0, 1.0, PIXEL_A, PIXEL_A])
    packed = (unit[:, None] * unit)[np.tril_indices(5)]
    particles = as_particles(data, tmp_path).with_columns(pose_covariance=np.where(rows[:, None], covariance * packed, 0.0))
    expected = move_particles(particles, motion)
    for mode in (0, 1):
        np.testing.assert_allclose(moved.rotation[:, mode], matrices_from_quaternions(expected.rotation), atol=1e-6)
        np.testing.assert_allclose(moved.shift_px[:, mode] * PIXEL_A, expected.shift_A, atol=1e-4)
    np.testing.assert_allclose(moved.covariance[rows] * packed, expected.pose_covariance[rows], rtol=1e-4, atol=1e-4)


def test_images_pull_a_map_away_from_where_a_mask_cuts_it_and_leave_a_whole_one_alone() -> None:
    volume = images().volume.data
    whole, part = found_with(volume), found_with(volume * mask_of_part())
    print(whole.shift_A, whole.angle_deg, part.shift_A, part.angle_deg)
    assert whole.distance_A < 0.06 and whole.angle_deg < 0.1
    assert part.shift_A[0] > 0.3  # away from the cut


def test_a_local_refinement_stays_in_the_frame_that_it_was_given_though_its_mask_cuts_through_density(tmp_path: Path) -> None:
    particles = as_particles(images(), tmp_path)
    write_particles(tmp_path / "particles.h5", particles)
    half_maps, together = rebuilt(particles)
    write_map_record(tmp_path / "volume.h5", MapRecord(half_maps.map(lambda half: Volume(half, PIXEL_A)), Volume(together, PIXEL_A)))
    write_volume(tmp_path / "mask.mrc", Volume(mask_of_part(), PIXEL_A))
    protomer("local-refine", "--particles", tmp_path / "particles.h5", "--volume", tmp_path / "volume.h5", "--mask", tmp_path / "mask.mrc",
             "--output", tmp_path / "local", "--set", "rotation_prior=5deg", "--set", "rehearse=off", "--set", "noise_control=off")
    found, truth = read_particles(tmp_path / "local/particles.h5"), images().truth
    summary = json.loads((tmp_path / "local/summary.json").read_text())
    after = matrices_from_quaternions(found.rotation)
    fulcrum_px = centre_of_mass_px(mask_of_part())
    by = seen_from(after, found.shift_A / PIXEL_A, fulcrum_px) - seen_from(truth.rotation_matrix, truth.shift_A / PIXEL_A, fulcrum_px)
    motion = common_motion(rotation_errors(truth.rotation_matrix, after, IDENTITY), by, after, (fulcrum_px, PIXEL_A))
    print(moved_at(motion, fulcrum_px * PIXEL_A), motion.angle_deg, summary["pull_of_an_iteration"], summary["iterations"])
    assert summary["pull_of_an_iteration"]["move_A"] > 0.2  # which each iteration would have added
    assert moved_at(motion, fulcrum_px * PIXEL_A) < 0.01 and motion.angle_deg < 0.01
    mean = read_map_record(tmp_path / "local/volume.h5").half_maps
    agreement = fourier_shell_correlation((mean.a.data + mean.b.data) * mask_of_part(), images().volume.data * mask_of_part())
    print(agreement.round(2))
    assert agreement[1:12].min() > 0.9


def test_a_particle_that_leaves_the_references_sphere_is_told_and_one_that_fits_is_not(tmp_path: Path) -> None:
    shares, told = [], []
    for pixel_A in (3.2, 4.0):  # boxes of 102 and 128 Å for a particle of 100 Å
        data = simulate_dataset(chain_model(), SimulationDesign(300, BOX, pixel_A, 0.5, seed=8))
        halves, _ = rebuilt(as_particles(data, tmp_path))
        half_maps, events = halves.map(lambda half, pixel_A=pixel_A: Volume(half, pixel_A)), Events(None)
        sphere = Volume(solid_sphere(BOX, MASK_FRACTION), pixel_A)
        warn_of_cut(half_maps, measure_fsc(half_maps, sphere, "sphere", 0), events)
        shares.append(share_cut(half_maps, 10))
        told.append([warning["code"] for warning in events.warnings])
    print(shares)
    assert told == [["particle_cut"], []]
    (tight, _), (wide, error) = shares
    assert tight > 0.01 and abs(wide) < 0.003 + 3.0 * error


def test_a_mask_that_pulls_much_is_told_with_what_to_do() -> None:
    events = Events(None)
    warn_of_pull(0.2, 0.1, 8.0, True, events)
    assert not events.warnings
    warn_of_pull(0.5, 0.1, 8.0, True, events)
    warn_of_pull(0.5, 0.1, 8.0, False, events)
    first, second = (warning["text"] for warning in events.warnings)
    assert "0.50 Å and 0.10°" in first and "subtract_on_the_fly" in first and "subtract_on_the_fly" not in second
