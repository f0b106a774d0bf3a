"""Local refinement: one protomer of a moving dimer is found better than the consensus has it; fulcrum, priors, extents; bits; bad input."""

from __future__ import annotations

import functools
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from protomer.engine.alignment import IDENTITY, Poses, Reference, Search
from protomer.engine.local_alignment import Local, align_locally, back_from, seen_from
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.local.start import mask_in_box
from protomer.maps.volumes import MapRecord, Volume
from protomer.running.events import Events
from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.pose_trial import known_images
from protomer.simulation.scatterers import AtomModel, with_symmetry
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.symmetry.point_groups import operators
from protomer_kernels.fourier import pad_volume, shift_volume
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices, rotation_errors, turned_by
from protomer_kernels.volume_sampling import sample_volume_ft, sampling_grid
from reconstructions import as_particles, rebuilt
from refinement_runs import protomer, running, values
from simulated import chain_dataset, chain_model

BOX, PIXEL_A, NUMBER = 48, 3.4, 500
FULCRUM_PX = np.array([9.0, -5.0, 7.0])


@functools.cache
def dimer() -> AtomModel:
    """Two protomers of about 50 kDa, each a rigid body."""
    return with_symmetry(chain_model(420, 3, size=0.9), operators("C2"), 24.0)


@functools.cache
def images() -> SimulatedData:
    """Each protomer turned by 5 degrees rms about each axis and moved by 1 Å."""
    design = SimulationDesign(NUMBER, BOX, PIXEL_A, 0.25, seed=4, motion_rotation_rad=np.deg2rad(5.0), motion_shift_A=1.0)
    return simulate_dataset(dimer(), design)


def mask_of_first(model: AtomModel) -> np.ndarray:
    """1 within 7 Å of the first protomer's atoms, 0 beyond 13 Å."""
    positions = model.positions_A[: len(model.weights) // 2]
    away = np.ones((BOX,) * 3)
    x, y, z = np.rint(positions / PIXEL_A + BOX // 2).astype(int).T
    away[z, y, x] = 0
    return np.clip((13.0 - distance_transform_edt(away) * PIXEL_A) / 6.0, 0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles at the poses of the whole dimer, the half maps that these give, and the mask."""
    path, data = tmp_path_factory.mktemp("local"), images()
    particles = as_particles(data, path)
    write_particles(path / "particles.h5", particles)
    half_maps, together = rebuilt(particles)
    write_map_record(path / "volume.h5", MapRecord(half_maps.map(lambda half: Volume(half, PIXEL_A)), Volume(together, PIXEL_A)))
    write_volume(path / "mask.mrc", Volume(mask_of_first(dimer()), PIXEL_A))
    return path


def words(folder: Path, name: str, *more: object) -> list[object]:
    """The command line."""
    return ["local-refine", "--particles", folder / "particles.h5", "--volume", folder / "volume.h5", "--mask", folder / "mask.mrc",
            "--output", folder / name, *more]


def angle_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.rad2deg(np.linalg.norm(rotation_errors(first, second, IDENTITY), axis=1))


PRIOR = ("--set", "rotation_prior=5deg", "--set", "shift_prior=2A", "--set", "subtract_on_the_fly=on")


def test_a_protomers_pose_is_found_to_seven_tenths_of_the_consensus_error_and_with_the_same_bits(folder: Path) -> None:
    protomer(*words(folder, "one", *PRIOR))
    found, truth = read_particles(folder / "one/particles.h5"), images().truth
    body = matrices_from_quaternions(truth.body_rotation[:, 0])
    given, refined = truth.rotation_matrix, matrices_from_quaternions(found.rotation)
    before, after = (np.median(angle_deg(body, rotation)) for rotation in (given, refined))
    summary = json.loads((folder / "one/summary.json").read_text())
    print(f"median {before:.2f} -> {after:.2f} degrees; {summary['resolution_A']['corrected']:.2f} Å; {summary['rotation_change_deg']}")
    assert after < 0.7 * before
    assert summary["at_extent"][0] < 0.05 and summary["mean_turn_over_rms"] < 0.3
    record = read_map_record(folder / "one/volume.h5")
    outside = record.half_maps.a.data[mask_of_first(dimer()) == 0]
    assert outside.std() > 0.02 * record.half_maps.a.data.std()  # the map that is written is not masked
    protomer(*words(folder, "two", *PRIOR), ranks=2)
    first, second = values(folder / "one/particles.h5"), values(folder / "two/particles.h5")
    assert all(first[name] == second[name] for name in first)
    assert np.array_equal(read_volume(folder / "one/map.mrc").data, read_volume(folder / "two/map.mrc").data)


def test_a_stopped_run_goes_on_to_the_same_bits(folder: Path) -> None:
    line, output = words(folder, "stopped", *PRIOR), folder / "stopped"
    with running(line, output) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=200) == 75
    protomer(*line, "--resume")
    first, second = values(folder / "one/particles.h5"), values(output / "particles.h5")
    assert all(first[name] == second[name] for name in first)


def poses_of(rotation: np.ndarray, shift_px: np.ndarray) -> Poses:
    number = len(rotation)
    return Poses(rotation[:, None].copy(), shift_px[:, None].copy(), np.ones((number, 1)), np.zeros(number), np.zeros((number, 15)),
                 np.zeros(number))


def local_search(rotation_sd: float, shift_sd: float, extent: tuple[float, float], data: SimulatedData, rows: slice) -> tuple[Poses, Local]:
    """The first E-step of some images against the true map about FULCRUM_PX, poses in the map's frame."""
    plane, truth = HalfPlane(BOX, largest_radius(BOX)), data.truth
    search = Search(8, 100, 3.0, 1.5, (), plane.radius)
    moved = shift_volume(data.volume.data, -FULCRUM_PX)
    reference = Reference.prepare(moved, plane, plane.radius, IDENTITY, search)
    given, both = (truth.rotation, truth.shift_A / PIXEL_A), (FULCRUM_PX, FULCRUM_PX)
    local = Local(*given, rotation_sd, shift_sd, np.array(extent), *both, (False, False), 0.03)
    index = np.arange(len(truth))[rows]
    known = poses_of(truth.rotation_matrix[rows], truth.shift_A[rows] / PIXEL_A)
    batch = known_images(data, plane, plane.radius, rows)
    return back_from(align_locally(batch, reference, search, known, index, local, True), FULCRUM_PX), local


def test_a_narrow_prior_keeps_the_given_pose_a_wide_one_is_no_prior_and_nothing_leaves_the_extents() -> None:
    data, rows = images(), slice(0, 64)
    given = data.truth.rotation_matrix[rows]
    narrow, _ = local_search(1e-5, 1e-4, (0.3, 4.0), data, rows)
    assert angle_deg(given, narrow.rotation[:, 0]).max() < 0.01
    wide, none = local_search(1e4, 1e5, (0.3, 4.0), data, rows)[0], local_search(np.inf, np.inf, (0.3, 4.0), data, rows)[0]
    np.testing.assert_allclose(wide.rotation[:, 0], none.rotation[:, 0], atol=1e-4)
    bound, local = local_search(np.inf, np.inf, (0.02, 0.3), data, rows)
    assert angle_deg(given, bound.rotation[:, 0]).max() <= np.rad2deg(0.02) + 1e-6
    moved = seen_from(bound.rotation[:, 0], bound.shift_px[:, 0], FULCRUM_PX) - seen_from(given, local.shift_px[rows], FULCRUM_PX)
    assert np.linalg.norm(moved, axis=1).max() <= 0.3 + 1e-9


def test_turning_about_a_fulcrum_leaves_its_image_where_it_is() -> None:
    """A point at the fulcrum, seen from a pose and from the pose turned about it, lies at the same place: exactly, without noise."""
    random, point = np.random.default_rng(3), np.zeros((BOX,) * 3, np.float32)
    x, y, z = (FULCRUM_PX + BOX // 2).astype(int)
    point[z, y, x] = 1.0
    plane, grid = HalfPlane(BOX, 15), sampling_grid(point, 24)
    rotation = np.linalg.qr(random.standard_normal((5, 3, 3)))[0]
    rotation *= np.linalg.det(rotation)[:, None, None]
    shift = random.standard_normal((5, 2))
    turned = turned_by(np.array([0.2, -0.1, 0.3]), rotation)
    there = poses_of(turned, seen_from(rotation, shift, FULCRUM_PX))
    images = []
    for r, s in ((rotation, shift), (turned, back_from(there, FULCRUM_PX).shift_px[:, 0])):
        points = np.einsum("nij,kj->nki", r[:, :, :2], np.stack([plane.kx, plane.ky], axis=1).astype(float))
        images.append(sample_volume_ft(grid, 24, points) * np.exp(2j * np.pi * s @ np.stack([plane.kx, plane.ky]) / BOX))
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)


def test_the_covariance_moves_with_the_fulcrum_as_differences_say() -> None:
    random = np.random.default_rng(8)
    rotation = np.linalg.qr(random.standard_normal((1, 3, 3)))[0]
    rotation *= np.linalg.det(rotation)[:, None, None]
    root = np.tril(0.01 * random.standard_normal((5, 5)) + 0.02 * np.eye(5))
    lower = np.tril_indices(5)
    poses = poses_of(rotation, np.zeros((1, 2)))
    poses.covariance[0] = (root @ root.T)[lower]
    stated = back_from(poses, FULCRUM_PX).covariance[0]
    draws = random.standard_normal((20000, 5)) @ root.T
    shifts = np.empty((len(draws), 2))
    for n, draw in enumerate(draws):
        shifts[n] = back_from(poses_of(turned_by(draw[:3], rotation), draw[None, 3:]), FULCRUM_PX).shift_px[0, 0]
    sampled = np.cov(np.concatenate([draws[:, :3], shifts], axis=1).T)
    np.testing.assert_allclose(stated, sampled[lower], atol=0.06 * np.abs(sampled).max())


def test_an_arm_on_a_hinge_shifts_by_less_than_half_as_much_where_the_fulcrum_is_the_hinge() -> None:
    """The hinge 60 Å from the centre of the arm, which turns by 5 degrees rms about each axis; the poses given are those before that."""
    number, random, hinge_px = 64, np.random.default_rng(5), np.array([0.0, 60.0, 0.0]) / PIXEL_A
    data = chain_dataset(number, BOX, PIXEL_A, 0.25)
    plane, true, true_px = HalfPlane(BOX, largest_radius(BOX)), data.truth.rotation_matrix, data.truth.shift_A / PIXEL_A
    turns = np.deg2rad(5.0) * random.standard_normal((number, 3))
    given = np.concatenate([turned_by(-turn, rotation[None]) for turn, rotation in zip(turns, true, strict=True)])
    given_px = seen_from(given, seen_from(true, true_px, hinge_px), -hinge_px)  # the image of the hinge stays
    search, batch = Search(8, 100, 3.0, 1.5, (), plane.radius), known_images(data, plane, plane.radius, slice(0, number))
    reference = Reference.prepare(data.volume.data, plane, plane.radius, IDENTITY, search)
    changes = []
    for fulcrum in (np.zeros(3), hinge_px):
        local = Local(quaternions_from_matrices(given), given_px, 0.1, 2.0, np.array([0.6, 9.0]), fulcrum, np.zeros(3), (False, False), 0.1)
        found = align_locally(batch, reference, search, poses_of(given, given_px), np.arange(number), local, True)
        assert np.median(angle_deg(true, found.rotation[:, 0])) < 2.0
        moved = seen_from(found.rotation[:, 0], found.shift_px[:, 0], fulcrum) - seen_from(given, given_px, fulcrum)
        changes.append(np.median(np.linalg.norm(moved, axis=1)) * PIXEL_A)
    print(f"median shift change {changes[0]:.2f} Å about the centre, {changes[1]:.2f} Å at the hinge")
    assert changes[1] < 0.5 * changes[0]


@pytest.mark.parametrize(("more", "said"), [
    (["--set", "rotation_prior=0deg"], "above 0"),
    (["--set", "rotation_prior=5deg", "--set", "rotation_extent=2deg"], "no smaller than"),
    (["--set", "fulcrum=100,3,3"], "in pixels from the corner"),
    (["--set", "fulcrum=middle"], "mask, box, or"),
    (["--set", "relaxation=marginalise"], "a group to relax"),
    (["--symmetry", "C2", "--set", "relaxation=marginalise", "--set", "subtract_on_the_fly=on"], "mate to mate"),
    (["--symmetry", "Q2"], "Q2"),
])
def test_bad_settings_are_refused_before_any_work(folder: Path, more: list[str], said: str) -> None:
    refused = protomer(*words(folder, "refused", *more), check=False)
    assert refused.returncode == 2 and said in refused.stderr, refused.stderr


def test_a_map_that_the_poses_did_not_make_is_refused(folder: Path, tmp_path: Path) -> None:
    particles = read_particles(folder / "particles.h5")
    random = np.random.default_rng(1).standard_normal((len(particles), 4))
    write_particles(tmp_path / "turned.h5", particles.with_columns(rotation=random / np.linalg.norm(random, axis=1, keepdims=True)))
    line = words(folder, "strange")
    line[2] = tmp_path / "turned.h5"
    refused = protomer(*line, check=False)
    assert refused.returncode == 2 and "do not agree with the map at the given poses" in refused.stderr, refused.stderr


def test_an_empty_mask_is_refused(folder: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "empty.mrc", Volume(np.zeros((BOX,) * 3, np.float32), PIXEL_A))
    line = words(folder, "empty")
    line[6] = tmp_path / "empty.mrc"
    refused = protomer(*line, check=False)
    assert refused.returncode == 2 and "empty" in refused.stderr, refused.stderr


def test_a_hard_mask_is_warned_of_and_one_of_another_box_resampled() -> None:
    soft, events = Volume(mask_of_first(dimer()), PIXEL_A), Events(None)
    same = mask_in_box(Volume(soft.data, PIXEL_A * 1.0004), "soft", BOX, PIXEL_A, events)
    assert not events.warnings and same.voxel_size_A == PIXEL_A
    mask_in_box(Volume((soft.data > 0.5).astype(np.float32), PIXEL_A), "hard", BOX, PIXEL_A, events)
    wide = mask_in_box(Volume(np.clip(pad_volume(soft.data, 60), 0.0, 1.0), PIXEL_A * BOX / 60), "fine", BOX, PIXEL_A, events)
    assert [warning["code"] for warning in events.warnings] == ["hard_mask", "resampled_mask"]
    assert wide.box == BOX and np.abs(wide.data - soft.data).max() < 0.1


def test_particles_without_poses_or_expanded_with_a_symmetry_are_refused(folder: Path, tmp_path: Path) -> None:
    particles = read_particles(folder / "particles.h5")
    write_particles(tmp_path / "unposed.h5", replace(particles, has_poses=False))
    write_particles(tmp_path / "copies.h5", expanded(particles, OperatorSet.of_group("C2", "relion")))
    for name, more, said in (("unposed", (), "have no poses"), ("copies", ("--symmetry", "C2"), "the copies stand for the symmetry")):
        line = words(folder, name, *more)
        line[2] = tmp_path / f"{name}.h5"
        refused = protomer(*line, check=False)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr
        assert not (folder / name).exists()
