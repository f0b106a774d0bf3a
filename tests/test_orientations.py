"""orientations: sampling against what is known in closed form, cones against a slow oracle, planted views, symmetry, bad input."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.declarations.orientations import JOB
from protomer.errors import InputError
from protomer.formats.hdf5 import write_particles
from protomer.formats.mrc import write_volume
from protomer.maps.directional import DIRECTIONS, directional_fsc
from protomer.maps.volumes import Halves, Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.symmetry.point_groups import operators
from protomer.tables.particles import Particles
from protomer.tables.views import coverage, even_directions, folded, sampling_of, viewing_directions
from protomer_kernels.cones import cone_cross_sums
from protomer_kernels.masks import sphere_mask
from protomer_kernels.shells import half_radius, shell_cross_sums
from test_symmetry_expand import images

NUMBER, BOX, VOXEL_A = 3000, 40, 2.0
C1 = operators("C1")


def uniform(number: int = NUMBER, seed: int = 1) -> np.ndarray:
    return Rotation.random(number, random_state=seed).as_quat()


def preferred(share: float = 0.7, number: int = NUMBER) -> np.ndarray:
    """Rotations of which a share look from within 20 degrees of z."""
    random, rotation = np.random.default_rng(4), uniform(number)
    crowded = round(share * number)
    tilt = np.rad2deg(np.arccos(1 - random.random(crowded) * (1 - np.cos(np.deg2rad(20)))))
    angles = np.stack([random.uniform(0, 360, crowded), tilt, random.uniform(0, 360, crowded)], axis=1)
    rotation[:crowded] = Rotation.from_euler("ZYZ", angles, degrees=True).as_quat()
    return rotation


def seen_from(rotation: np.ndarray) -> Particles:
    return images(len(rotation)).with_columns(rotation=rotation)


def warned(summary: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in summary["warnings"]}


def look(folder: Path, rotation: np.ndarray, halves: Halves[Volume] | None = None, **inputs: Any) -> dict[str, Any]:
    write_particles(folder / "particles.h5", seen_from(rotation))
    if halves is not None:
        for name, half in zip("ab", halves, strict=True):
            write_volume(folder / f"half_{name}.mrc", half)
        inputs["volume"] = [str(folder / f"half_{name}.mrc") for name in "ab"]
    return run_job(JOB, {"particles": str(folder / "particles.h5"), **inputs}, {}, RunOptions(folder / "out", overwrite=True, threads=1))


def halves_worse_along_z(worse: float) -> Halves[Volume]:
    """Random density in a ball, and noise that is `worse` times as strong along z as across it."""
    random = np.random.default_rng(2)
    signal = random.standard_normal((BOX,) * 3) * sphere_mask(BOX, 0.3 * BOX, 3)
    kz = np.fft.fftfreq(BOX, 1 / BOX)[:, None, None]
    radius = np.maximum(half_radius(BOX, 3), 0.5)
    gain = (1 + (worse - 1) * np.abs(kz / radius) ** 4) * radius / 10
    noise = [np.fft.irfftn(np.fft.rfftn(random.standard_normal((BOX,) * 3)) * gain, (BOX,) * 3, (0, 1, 2)) for _ in range(2)]
    return Halves(*(Volume((signal + 0.4 * one).astype(np.float32), VOXEL_A) for one in noise))


def test_even_views_sample_evenly_and_side_views_have_the_factor_of_the_paper() -> None:
    assert sampling_of(viewing_directions(uniform(20_000)), C1).scf == pytest.approx(1, abs=0.02)
    turn = np.random.default_rng(0).uniform(0, 2 * np.pi, 20_000)
    side = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1)
    found = sampling_of(side, C1)
    assert found.scf == pytest.approx(8 / np.pi**2, abs=0.02)
    away = found.directions[:, 2] < 0.9
    theta = np.arccos(found.directions[away, 2])
    np.testing.assert_allclose(np.median(found.sampling[away] * np.pi * np.sin(theta) / 2), 1, atol=0.03)
    top = sampling_of(np.tile([0.0, 0.0, 1.0], (500, 1)), C1)
    assert top.scf < 0.2 and top.unseen > 0.8


def test_the_mean_sampling_is_one_whatever_the_views() -> None:
    for rotation in (uniform(), preferred()):
        assert sampling_of(viewing_directions(rotation), C1).sampling.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("group", ["C1", "C3", "D2", "O"])
def test_mates_and_opposite_views_fold_onto_one_direction(group: str) -> None:
    turns, views = operators(group), viewing_directions(uniform(200))
    once = folded(views, turns)
    for turn in turns:
        np.testing.assert_allclose(folded(-views @ turn.T, turns), once, atol=1e-12)
    np.testing.assert_allclose(folded(once, turns), once, atol=1e-12)
    found = coverage(viewing_directions(uniform(20_000)), turns)
    assert found.count.sum() == pytest.approx(found.even.sum()) == 20_000
    large = found.even > 10
    np.testing.assert_allclose(found.count[large], found.even[large], atol=6 * np.sqrt(found.even[large].max()))
    assert found.densest_half == pytest.approx(0.46, abs=0.05)


def test_sums_in_cones_are_those_of_a_slow_loop_and_all_cones_together_are_the_shell() -> None:
    random, box = np.random.default_rng(5), 12
    a, b = (np.fft.rfftn(random.standard_normal((box,) * 3)) for _ in range(2))
    axes, half_angle = even_directions(7), np.deg2rad(25)
    found = cone_cross_sums(a, b, axes, half_angle, box // 2)
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(box, 1 / box)] * 3, indexing="ij"), -1)[..., ::-1].reshape(-1, 3)
    full_a, full_b = (np.fft.fftn(np.fft.irfftn(one, (box,) * 3, (0, 1, 2))).ravel() for one in (a, b))
    length = np.linalg.norm(k, axis=1)
    for cone in (0, 3, 6):
        for shell in (2, 4, 5):
            inside = (np.rint(length) == shell) & (np.abs(k @ axes[cone]) >= np.cos(half_angle) * length)
            expected = [(full_a * full_b.conj())[inside].real.sum(), *((np.abs(one[inside]) ** 2).sum() for one in (full_a, full_b)),
                        inside.sum()]
            np.testing.assert_allclose(found[cone, shell], expected, rtol=1e-10)
    everywhere = cone_cross_sums(a, b, axes[:1], np.pi / 2, box // 2)
    np.testing.assert_allclose(everywhere[0, :, :3], shell_cross_sums(a, b), rtol=1e-10)


def test_a_map_that_is_worse_along_z_is_so_in_the_cones_about_z_alone() -> None:
    mask = sphere_mask(BOX, 0.35 * BOX, 4)
    even, uneven = (directional_fsc(halves_worse_along_z(worse), mask) for worse in (1.0, 6.0))
    assert len(even.directions) == DIRECTIONS and even.cfar > 0.7 > 0.5 > uneven.cfar
    along = np.abs(uneven.directions[:, 2])
    assert uneven.area[along > 0.9].max() < uneven.area[along < 0.5].min()
    assert uneven.resolution_A[along > 0.9].min() > uneven.resolution_A[along < 0.5].max()


def test_planted_views_are_flagged_and_even_ones_are_not(tmp_path: Path) -> None:
    assert warned(look(tmp_path, uniform())) == set()
    crowded = look(tmp_path, preferred())
    assert warned(crowded) == {"preferred_views"} and crowded["densest_half"] < 0.1 and crowded["scf"] < 0.7
    assert {"preferred_views", "missing_views"} <= warned(look(tmp_path, preferred(1.0)))


def test_a_group_fills_in_what_its_axes_turn_to(tmp_path: Path) -> None:
    alone, mates = (look(tmp_path, preferred(), symmetry=group)["scf"] for group in ("C1", "I"))
    assert alone < 0.7 < 0.8 < mates


def test_half_maps_add_the_ratio_and_the_tables_and_a_poor_direction_is_flagged(tmp_path: Path) -> None:
    summary = look(tmp_path, uniform(), halves_worse_along_z(6.0))
    assert "anisotropic_map" in warned(summary) and summary["cfar"] < 0.5 and summary["mask"].startswith("by rule")
    with open(tmp_path / "out/conical_fsc.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == DIRECTIONS
    with open(tmp_path / "out/sampling.csv", encoding="utf-8") as file:
        assert np.mean([float(row["sampling"]) for row in csv.DictReader(file)]) == pytest.approx(1, abs=0.05)
    text = (tmp_path / "out/report.html").read_text()
    assert text.count("<svg") == 4 and "conical FSC" in text


def test_few_views_are_said_to_be_few(tmp_path: Path) -> None:
    assert "few_views" in warned(look(tmp_path, uniform(40)))


def test_particles_without_poses_a_mask_alone_and_one_map_are_refused(tmp_path: Path) -> None:
    write_particles(tmp_path / "none.h5", replace(seen_from(uniform(20)), has_poses=False))
    with pytest.raises(InputError, match="without poses"):
        run_job(JOB, {"particles": str(tmp_path / "none.h5")}, {}, RunOptions(tmp_path / "out", threads=1))
    write_volume(tmp_path / "mask.mrc", Volume(np.ones((BOX,) * 3, np.float32), VOXEL_A))
    with pytest.raises(InputError, match="--mask without --volume"):
        look(tmp_path, uniform(200), mask=str(tmp_path / "mask.mrc"))
    with pytest.raises(InputError, match="1 volume"):
        look(tmp_path, uniform(200), volume=[str(tmp_path / "mask.mrc")])
    small = Volume(np.ones((16,) * 3, np.float32), VOXEL_A)
    write_volume(tmp_path / "small.mrc", small)
    with pytest.raises(InputError, match="of box 16"):
        look(tmp_path, uniform(200), halves_worse_along_z(1.0), mask=str(tmp_path / "small.mrc"))


def test_the_plan_counts_particles_and_voxels(tmp_path: Path) -> None:
    write_particles(tmp_path / "particles.h5", seen_from(uniform(500)))
    plan = plan_job(JOB, {"particles": str(tmp_path / "particles.h5"), "symmetry": "D7"}, {}, 1, 1)
    assert 1 < plan.seconds < 60 and plan.memory_bytes > 1e8
