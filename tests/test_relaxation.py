"""Symmetry relaxed: a C2 scaffold with one modified protomer, each image put at its right site although the start is symmetric."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.engine.alignment import IDENTITY, Reference, refine_modes
from protomer.engine.pose_table import PoseTable, drawn
from protomer.engine.schedule import Band
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.volumes import Halves, Volume
from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.pose_trial import known_images
from protomer.simulation.scatterers import AtomModel, with_symmetry
from protomer.symmetry.point_groups import operators
from protomer.symmetry.relaxation import frame_of_second_half, turned_half, turned_map
from protomer_kernels.fourier import low_pass
from protomer_kernels.half_plane import HalfPlane, largest_radius
from protomer_kernels.rotations import matrices_from_quaternions
from reconstructions import as_particles
from refinement_runs import protomer
from simulated import chain_model

BOX, PIXEL_A, NUMBER, SNR = 48, 4.9, 900, 0.085
C2 = operators("C2")


@functools.cache
def images() -> SimulatedData:
    """A dimer, one protomer of which carries a domain of a ninth of its mass."""
    dimer = with_symmetry(chain_model(420, 3, size=0.8), C2, 26.0)
    domain = chain_model(90, 8, size=0.35)
    placed = domain.positions_A + np.array([50.0, 18.0, 14.0])
    model = AtomModel(np.concatenate([dimer.positions_A, placed]), np.concatenate([dimer.weights, domain.weights]), dimer.bfactor_A2)
    return simulate_dataset(model, SimulationDesign(NUMBER, BOX, PIXEL_A, SNR, seed=2))


def share_right_by_bayes() -> float:
    """Images that the true map, CTF and noise put at the right site, climbing from both."""
    data, plane = images(), HalfPlane(BOX, largest_radius(BOX))
    search = replace(Band.at(BOX, plane.radius), radius=plane.radius, iteration=5).search(BOX / 16)
    reference = Reference.prepare(data.volume.data, plane, plane.radius, IDENTITY, search, C2)
    right = []
    for first in range(0, NUMBER, 64):
        rows = slice(first, first + 64)
        rotation, shift_px = data.truth.rotation_matrix[rows], data.truth.shift_A[rows] / PIXEL_A
        starts = reference.with_mates(rotation[:, None], shift_px[:, None], np.ones((len(rotation), 1), bool))
        found = refine_modes(known_images(data, plane, plane.radius, rows), reference, search, *starts)
        right.append(np.einsum("nij,nij->n", rotation, found.rotation[:, 0]) > 1.0)
    return float(np.concatenate(right).mean())


def test_the_modified_protomer_is_put_at_its_site_in_nine_of_ten_images(tmp_path: Path) -> None:
    data = images()
    write_particles(tmp_path / "particles.h5", as_particles(data, tmp_path))
    symmetric = (data.volume.data + turned_map(data.volume.data, C2[1])) / 2
    write_volume(tmp_path / "start.mrc", Volume(low_pass(symmetric, BOX * PIXEL_A / 25.0, 2.0).astype(np.float32), PIXEL_A))
    protomer("refine", "--particles", tmp_path / "particles.h5", "--volume", tmp_path / "start.mrc", "--symmetry", "C2", "--output",
             tmp_path / "relaxed", "--set", "relaxation=marginalise", "--set", "initial_low_pass=25A", "--set", "rehearse=off")
    found = read_particles(tmp_path / "relaxed/particles.h5")
    rotation, true = matrices_from_quaternions(found.rotation), data.truth.rotation_matrix
    near = [np.einsum("nij,nij->n", g @ true, rotation) for g in C2]
    placed = np.maximum(*near) > 1 + 2 * np.cos(np.deg2rad(10.0))
    at_first = near[0] > near[1]
    frame = at_first[placed].mean() > 0.5  # which of the two sites the map shows is a matter of chance
    shares = [float(np.mean(at_first[placed & (found.half == half)] == frame)) for half in (0, 1)]
    best = share_right_by_bayes()
    print(f"right {shares}, placed {placed.mean():.3f}; by the true map {best:.3f}")
    assert 0.95 < best < 0.995
    assert placed.mean() > 0.85 and min(shares) > 0.9
    assert json.loads((tmp_path / "relaxed/summary.json").read_text())["symmetry"] == "C1"


@pytest.mark.slow
def test_maximise_ends_at_the_same_poses_as_marginalise_and_counts_each_image_once_in_the_maps(tmp_path: Path) -> None:
    data = images()
    write_particles(tmp_path / "particles.h5", as_particles(data, tmp_path).take(np.arange(100)))
    write_volume(tmp_path / "start.mrc", data.volume)
    words = ["refine", "--particles", tmp_path / "particles.h5", "--volume", tmp_path / "start.mrc", "--symmetry", "C2", "--set",
             "max_alignment_resolution=25A", "--set", "rehearse=off"]
    for relaxation in ("marginalise", "maximise"):
        protomer(*words, "--output", tmp_path / relaxation, "--set", f"relaxation={relaxation}")
    soft, hard = (read_particles(tmp_path / relaxation / "particles.h5") for relaxation in ("marginalise", "maximise"))
    np.testing.assert_array_equal(soft.rotation, hard.rotation)
    maps = [read_volume(tmp_path / relaxation / "half_a.mrc").data for relaxation in ("marginalise", "maximise")]
    assert 0.5 < np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] < 0.9999


def test_relaxation_without_a_group_is_refused(tmp_path: Path) -> None:
    data = images()
    write_particles(tmp_path / "particles.h5", as_particles(data, tmp_path))
    write_volume(tmp_path / "start.mrc", data.volume)
    refused = protomer("refine", "--particles", tmp_path / "particles.h5", "--volume", tmp_path / "start.mrc", "--output", tmp_path / "out",
                       "--set", "relaxation=maximise", check=False)
    assert refused.returncode == 2 and "a group to relax" in refused.stderr


@pytest.mark.parametrize("group", ["C2", "D2", "C4"])
def test_the_second_half_is_put_into_the_frame_of_the_first(group: str) -> None:
    random, mates = np.random.default_rng(5), operators(group)
    lopsided = images().volume.data
    halves = Halves(*(lopsided + 0.02 * random.standard_normal(lopsided.shape).astype(np.float32) for _ in range(2)))
    for g in mates:
        found = frame_of_second_half(Halves(halves.a, turned_map(halves.b, g)), mates)
        np.testing.assert_allclose(found @ g, np.eye(3), atol=1e-12)


def test_a_turned_half_looks_at_the_turned_map_as_before() -> None:
    poses = replace(PoseTable.empty(4), rotation=np.tile([0.1, 0.2, 0.3, np.sqrt(0.86)], (4, 4, 1)))
    turned = turned_half(poses, np.array([1, 3]), C2[1])
    np.testing.assert_array_equal(turned.rotation[[0, 2]], poses.rotation[[0, 2]])
    expected = C2[1] @ matrices_from_quaternions(poses.rotation[1])
    np.testing.assert_allclose(matrices_from_quaternions(turned.rotation[1]), expected, atol=1e-12)


def test_modes_are_drawn_as_often_as_they_weigh() -> None:
    number = 4000
    poses = replace(PoseTable.empty(number).take(np.arange(number)), weight=np.tile([0.6, 0.3, 0.1, 0.0], (number, 1)))
    poses.shift_px[:, :, 0] = np.arange(4)
    one = drawn(poses, (np.arange(number) + 0.5) / number)
    np.testing.assert_allclose(np.bincount(one.shift_px[:, 0, 0].astype(int), minlength=4) / number, [0.6, 0.3, 0.1, 0.0], atol=1e-3)
    np.testing.assert_array_equal(one.weight, np.eye(1, 4) * np.ones((number, 1)))
