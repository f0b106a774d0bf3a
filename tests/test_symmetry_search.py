"""Axes of maps that were turned and moved at random, and which groups maps carry and which they only resemble."""

from __future__ import annotations

import numpy as np
import pytest

from protomer.formats.mrc import read_volume
from protomer.jobs.simulate import DEFAULT_MODEL
from protomer.maps.rigid_motion import RigidMotion, move_volume
from protomer.maps.volumes import Halves, Volume
from protomer.simulation.scatterers import read_atom_model
from protomer.symmetry.axis_fit import default_finest_A
from protomer.symmetry.point_groups import operators
from protomer.symmetry.ranking import Ranking, is_subgroup, rank_groups
from protomer.symmetry.search import find_axes, half_sphere, highest_axis, same_axes, turn_onto
from protomer.symmetry.self_correlation import map_spectrum
from protomer_kernels.atoms import real_volume
from symmetric_maps import VOXEL_A, map_of, off_axes, random_motion, with_noise

FINEST_A = 12.0


@pytest.mark.parametrize(("group", "axes"), [("C2", "relion"), ("C4", "relion"), ("C6", "relion"), ("D3", "cryosparc"), ("D7", "relion"),
                                             ("T", "relion"), ("T", "scipy"), ("O", "relion"), ("I", "relion"), ("I3", "relion")])
def test_axes_of_a_map_that_was_turned_at_random_are_found(group: str, axes: str) -> None:
    name = "I" if group == "I3" else group
    fit = find_axes(map_spectrum(map_of(name, seed=11, axes="relion"), FINEST_A), operators(group, axes))
    moved = fit.motion.after(random_motion(11))
    if group == "I3" or axes != "relion":  # then the map's own axes are another setting of the group: as a set they must come out right
        turned = moved.operators(operators(name))
        distance = np.abs(turned[:, None] - operators(group, axes)[None]).max(axis=(2, 3))
        assert distance.min(axis=1).max() < 2e-3 and np.linalg.norm(moved.shift_A) < 0.02 * VOXEL_A
    else:
        angle, offset_A = off_axes(moved, group)
        assert angle < 0.05 and offset_A < 0.02 * VOXEL_A
    assert fit.score > 0.99


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_axis_of_a_real_dimer_is_found_within_a_third_of_a_degree(shared_data, seed: int) -> None:
    volume, motion = read_volume(shared_data / "real_maps" / "emd_3488.mrc"), random_motion(seed, 6.0)
    moved = move_volume(volume, motion)
    fit = find_axes(map_spectrum(moved, default_finest_A(moved)), operators("C2"))
    angle, offset_A = off_axes(fit.motion.after(motion), "C2")
    assert angle < 0.3 and offset_A < 0.2 * volume.voxel_size_A


def ranked(volume: Volume, finest_A: float | None = None, halves: Halves[Volume] | None = None) -> Ranking:
    return rank_groups(map_spectrum(volume, finest_A or default_finest_A(volume), None, halves))


@pytest.mark.slow
def test_a_real_tetramer_carries_d2_and_its_c2_and_not_d4_or_c4(shared_data) -> None:
    volume = move_volume(read_volume(shared_data / "real_maps" / "betaGal.mrc"), random_motion(1, 6.0))
    ranking = ranked(volume, 14.0)
    assert ranking.best is not None and ranking.best.name == "D2" and ranking.subgroups() == ["C2"]
    assert [score.name for score in ranking.carried] == ["D2", "C2"]
    weak = {score.name: score.weakest for score in ranking.scores}
    assert weak["D4"] < 0.5 and weak["C4"] < 0.5


@pytest.mark.slow
def test_polymerase_carries_no_symmetry() -> None:
    model = read_atom_model(DEFAULT_MODEL, 200.0)
    ranking = ranked(Volume(real_volume(model.volume_ft(64, 3.8), 64).astype(np.float32), 3.8))
    assert ranking.best is None and ranking.carried == [] and ranking.subgroups() == []
    assert max(score.weakest for score in ranking.scores) < 0.4
    assert "does not carry C2" in next(score.reason for score in ranking.scores if score.name == "C4")


@pytest.mark.slow
def test_seven_fold_dihedral_and_not_fourteen_fold() -> None:
    ranking = ranked(map_of("D7", seed=3), FINEST_A)
    assert ranking.best is not None and ranking.best.name == "D7"
    assert ranking.subgroups() == ["C7", "C2"] and not any(score.name in ("D2", "C4") for score in ranking.carried)


def test_a_noisy_trimer_is_recognised_by_what_its_half_maps_allow() -> None:
    halves = Halves(*(with_noise(map_of("C3", seed=4), 0.12, half) for half in (0, 1)))
    mean = Volume((halves.a.data + halves.b.data) / 2, VOXEL_A)
    ranking = ranked(mean, FINEST_A, halves)
    assert ranking.best is not None and ranking.best.name == "C3" and ranking.expected < 0.95
    assert ranking.best.weakest == pytest.approx(ranking.expected, abs=0.15)


def test_subgroups_are_known_by_their_names() -> None:
    inside = {("C2", "C4"), ("C3", "C6"), ("C2", "D7"), ("C7", "D7"), ("D2", "D4"), ("D2", "T"), ("T", "O"), ("C5", "I"), ("D3", "D9")}
    outside = {("C4", "D2"), ("D7", "C7"), ("C4", "C2"), ("D4", "T"), ("C4", "I"), ("O", "I"), ("C3", "D2"), ("T", "D3")}
    assert all(is_subgroup(a, b) for a, b in inside) and not any(is_subgroup(a, b) for a, b in outside)


@pytest.mark.parametrize(("group", "axes", "number"), [("D2", "relion", 24), ("D3", "relion", 12), ("D3", "cryosparc", 12),
                                                       ("T", "relion", 24), ("T", "scipy", 24), ("O", "relion", 24), ("I", "relion", 60)])
def test_rotations_that_keep_the_axes_are_found(group: str, axes: str, number: int) -> None:
    these = operators(group, axes)
    keeping = same_axes(these)
    assert len(np.unique(np.round(keeping, 6).reshape(len(keeping), 9), axis=0)) == number
    for h in keeping:
        turned = h @ these @ h.T
        assert np.abs(turned[:, None] - these[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-9


def test_the_highest_axis_is_that_of_most_copies() -> None:
    axis, cyclic = highest_axis(operators("I"))
    assert len(cyclic) == 5 and abs(axis @ np.array([0.5257, 0, 0.8507])) == pytest.approx(1, abs=1e-3)
    assert len(highest_axis(operators("D1"))[1]) == 2
    with pytest.raises(ValueError, match="one operator"):
        highest_axis(operators("C1"))


def test_directions_cover_the_half_sphere() -> None:
    directions, random = half_sphere(0.2), np.random.default_rng(0).normal(size=(500, 3))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    nearest = np.arccos(np.clip(np.abs(random @ directions.T).max(axis=1), -1, 1))
    assert nearest.max() < 0.2
    for target in (directions[3], np.array([0, 0, 1.0]), np.array([0, 0, -1.0])):
        np.testing.assert_allclose(turn_onto(np.array([0, 0, 1.0]), target) @ [0, 0, 1], target, atol=1e-12)


def test_limits_on_the_motion_are_kept_or_refused() -> None:
    spectrum = map_spectrum(map_of("C2", seed=5, angle_deg=25.0, shift_A=3.0), FINEST_A)
    fit = find_axes(spectrum, operators("C2"), 30.0, 20.0)
    assert fit.motion.angle_deg <= 25.1 and off_axes(fit.motion.after(random_motion(5, 3.0, 25.0)), "C2")[0] < 0.05
    with pytest.raises(ValueError, match="no axes within"):
        find_axes(spectrum, operators("C2"), 180.0, 0.0)


def test_what_a_cyclic_group_leaves_undetermined_stays_as_it_was() -> None:
    motion = RigidMotion(operators("C12")[1], np.array([0.0, 0.0, 7.0]))
    fit = find_axes(map_spectrum(move_volume(map_of("C4"), motion), FINEST_A), operators("C4"))
    assert fit.motion.angle_deg < 0.05 and fit.motion.distance_A < 0.05
