"""How far a map is from its axes: against known motions, with uncertainties that are right, and derivatives against differences."""

from __future__ import annotations

import numpy as np
import pytest

from protomer.formats.mrc import read_volume
from protomer.maps.rigid_fit import stepped
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Halves, Volume
from protomer.symmetry.axis_fit import _linearised, axis_error, free_parameters, kept_directions
from protomer.symmetry.point_groups import operators
from protomer.symmetry.self_correlation import (
    ball_points,
    correlations_by_shell,
    in_group_frame,
    map_spectrum,
    operator_correlations,
    orbits,
)
from symmetric_maps import BOX, VOXEL_A, map_of, off_axes, random_motion, with_noise

FINEST_A = 12.0


@pytest.mark.parametrize("group", ["C2", "C4", "C6", "D2", "D7", "T", "O", "I"])
def test_a_map_a_few_degrees_off_its_axes_is_measured_and_brought_back(group: str) -> None:
    angle_deg = 1.5 if group == "I" else 3.0
    found = axis_error(map_of(group, seed=1, angle_deg=angle_deg, shift_A=3.0), operators(group), finest_A=FINEST_A)
    moved = random_motion(1, 3.0, angle_deg)
    angle, offset_A = off_axes(found.motion.after(moved), group)
    assert angle < 0.05 and offset_A < 0.02 * VOXEL_A
    if group[0] != "C":
        assert found.angle_deg == pytest.approx(angle_deg, abs=0.05)
    assert found.offset_voxels == pytest.approx(found.offset_A / VOXEL_A)
    assert found.correlation[1:].max() < 0.95 and found.best_correlation.min() > 0.99


def test_a_map_on_its_axes_has_no_error() -> None:
    found = axis_error(map_of("D2"), operators("D2"), finest_A=FINEST_A)
    assert found.angle_deg < 0.01 and found.offset_A < 0.01 and found.correlation.min() > 0.999


def test_what_a_cyclic_group_leaves_free_is_not_called_an_error() -> None:
    spun = random_motion(2, 0.0, 0.0)
    turn = RigidMotion(operators("C12")[1], np.array([0.0, 0.0, 9.0])).after(spun)
    found = axis_error(move_volume(map_of("C4"), turn), operators("C4"), finest_A=FINEST_A)
    assert found.angle_deg < 0.05 and found.offset_A < 0.05
    np.testing.assert_allclose(kept_directions(operators("C4")), np.diag([0, 0, 1]), atol=1e-12)
    assert free_parameters(operators("C4")).shape == (6, 4) and free_parameters(operators("D3")).shape == (6, 6)


def test_uncertainties_are_those_of_repeated_noise() -> None:
    clean, squares_angle, squares_shift = map_of("C2"), [], []
    for seed in range(6):
        halves = Halves(*(with_noise(clean, 0.15, 2 * seed + half) for half in (0, 1)))
        mean = Volume((halves.a.data + halves.b.data) / 2, VOXEL_A)
        found = axis_error(mean, operators("C2"), half_maps=halves, finest_A=FINEST_A)
        squares_angle.append((found.angle_deg / found.angle_sd_deg) ** 2 / 2)  # two free angles, two free shifts
        squares_shift.append((found.offset_A / found.offset_sd_A) ** 2 / 2)
    assert 0.2 < np.mean(squares_angle) < 2.5 and 0.2 < np.mean(squares_shift) < 2.5


def test_derivatives_are_those_of_finite_differences() -> None:
    spectrum, motion = map_spectrum(map_of("D2"), FINEST_A), random_motion(4, 5.0)
    these = orbits(operators("D2"), 400, 0.9 * spectrum.limit)
    _, slope = _linearised(spectrum, these, motion, np.eye(6))
    for p, size in enumerate([1e-3] * 3 + [0.02] * 3):
        step = np.zeros(6)
        step[p] = size
        above, below = (_linearised(spectrum, these, stepped(motion, sign * step), np.eye(6))[0] for sign in (1, -1))
        numeric = (above - below) / (2 * size)
        assert np.abs(slope[..., p] - numeric).max() < 0.02 * np.abs(numeric).max()


def test_correlations_on_orbits_are_those_of_sampling_each_operator() -> None:
    spectrum, motion, group = map_spectrum(map_of("D3"), FINEST_A), random_motion(5, 5.0), operators("D3")
    these = orbits(group, 20000, 8.0)
    weight = spectrum.whitening(these.shells)
    found = operator_correlations(in_group_frame(spectrum, these.points, motion), weight, group)
    q = ball_points(20000, 8.0)
    w, here = spectrum.whitening(np.linalg.norm(q, axis=1)), in_group_frame(spectrum, q, motion)
    for g, correlation in zip(group, found, strict=True):
        there = in_group_frame(spectrum, q @ g.T, motion)
        assert correlation == pytest.approx(float((w * (here.conj() * there).real).sum() / (w * abs(here) ** 2).sum()), abs=0.03)
    curves = correlations_by_shell(spectrum, group, motion)
    assert curves.shape == (6, spectrum.limit + 1) and curves[0, 1:] == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "group"), [("emd_3488.mrc", "C2"), ("betaGal.mrc", "D2")])
def test_real_maps_turned_by_three_degrees_are_brought_back(shared_data, name: str, group: str) -> None:
    volume, motion = read_volume(shared_data / "real_maps" / name), random_motion(6, 1.5, 3.0)
    found = axis_error(move_volume(volume, motion), operators(group))
    angle, offset_A = off_axes(found.motion.after(motion), group)
    assert angle < 0.05 and offset_A < 0.05 * volume.voxel_size_A


def test_maps_and_groups_without_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="one operator"):
        axis_error(map_of("C2"), operators("C1"))
    with pytest.raises(ValueError, match="shells"):
        axis_error(map_of("C2"), operators("C2"), finest_A=100.0)
    with pytest.raises(ValueError, match="constant"):
        axis_error(Volume(np.ones((BOX,) * 3, np.float32), VOXEL_A), operators("C2"))
    with pytest.raises(ValueError, match="not a group"):
        axis_error(map_of("C2"), operators("C5")[:2])
