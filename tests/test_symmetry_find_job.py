"""The symmetry-find job: what it writes, moves together, says and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from protomer.declarations.symmetry_find import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.resolution import measure_fsc
from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.masks import sphere_mask
from protomer_kernels.rotations import matrices_from_quaternions
from symmetric_maps import BOX, VOXEL_A, map_of, off_axes, random_motion, with_noise


def posed(number: int = 5) -> Particles:
    columns = empty_columns(number)
    columns["rotation"][:] = Rotation.random(number, rng=np.random.default_rng(1)).as_quat()
    columns["image_uid"][:] = np.arange(number)
    columns["half"][:] = 0
    optics = OpticsGroup("one", 300e3, 2.7e7, 0.1, VOXEL_A, BOX)
    return Particles(columns, (optics,), (Stack("a.mrcs", number, BOX, 0, 0, ""),), has_poses=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turned C2 map as volume.h5 with half maps, as .mrc, particles and a mask."""
    folder = tmp_path_factory.mktemp("maps")
    clean = map_of("C2", seed=7)
    halves = Halves(*(with_noise(clean, 0.02, half) for half in (0, 1)))
    mask = Volume(sphere_mask(BOX, 20, 3), VOXEL_A)
    record = MapRecord(halves, clean, clean, mask, mask, measure_fsc(halves, mask, "sphere"))
    write_map_record(folder / "volume.h5", record)
    write_volume(folder / "map.mrc", clean)
    write_volume(folder / "mask.mrc", mask)
    write_particles(folder / "particles.h5", posed())
    write_particles(folder / "unposed.h5", replace(posed(), has_poses=False))
    return folder


def find(files: Path, output: Path, volume: str = "volume.h5", symmetry: str = "C2", particles: str | None = None, mask: str | None = None,
         **settings: Any) -> dict[str, Any]:
    inputs = {"volume": str(files / volume), "symmetry": symmetry, "particles": particles and str(files / particles),
              "mask": mask and str(files / mask)}
    return run_job(JOB, inputs, settings, RunOptions(output, overwrite=True, threads=1))


def test_map_half_maps_masks_and_particles_move_together(files: Path, tmp_path: Path) -> None:
    summary = find(files, tmp_path / "out", particles="particles.h5")
    said = yaml.safe_load((tmp_path / "out/transformation.yaml").read_text())
    motion = RigidMotion(np.array(said["rotation"]), np.array(said["shift_A"]))
    angle, offset_A = off_axes(motion.after(random_motion(7)), "C2")
    assert angle < 0.1 and offset_A < 0.1 and summary["residual_angle_deg"] < 0.2 and summary["group"] == "C2"
    record = read_map_record(tmp_path / "out/volume.h5")
    for volume in (record.map, *record.half_maps, read_volume(tmp_path / "out/map_sharpened.mrc")):
        turned = volume.data[:, ::-1, ::-1][:, :-1, :-1]  # a half turn about z through voxel BOX // 2
        assert np.corrcoef(turned.ravel(), volume.data[:, 1:, 1:].ravel())[0, 1] > 0.75
    assert record.fsc is not None and record.fsc_mask is not None and 0 <= record.fsc_mask.data.min() <= record.fsc_mask.data.max() <= 1
    moved = read_particles(tmp_path / "out/particles.h5")
    expected = motion.rotation @ matrices_from_quaternions(posed().rotation)
    np.testing.assert_allclose(matrices_from_quaternions(moved.rotation), expected, atol=1e-9)
    np.testing.assert_allclose(moved.shift_A, np.einsum("nij,i->nj", expected, motion.shift_A)[:, :2], atol=1e-9)
    assert summary["warnings"] == [] and "carries C2" in (tmp_path / "out/report.html").read_text()
    assert {"map.mrc", "half_a.mrc", "half_b.mrc", "mask.mrc", "fsc.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_any_says_which_group_and_a_single_map_is_warned_of(files: Path, tmp_path: Path) -> None:
    summary = find(files, tmp_path / "out", "map.mrc", "any", mask="mask.mrc")
    assert summary["group"] == "C2" and summary["carried"] == ["C2"] and summary["tried"]["C2"] > 0.95
    assert {warning["code"] for warning in summary["warnings"]} == {"no_half_maps"}
    assert not (tmp_path / "out/volume.h5").exists() and (tmp_path / "out/mask.mrc").exists()
    assert "C11" in (tmp_path / "out/report.html").read_text()


def test_a_group_that_the_map_does_not_carry_is_refused_unless_forced(files: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not carry C3") as caught:
        find(files, tmp_path / "out", symmetry="C3")
    assert "force=true" in caught.value.remedy and not (tmp_path / "out/map.mrc").exists()
    summary = find(files, tmp_path / "forced", "map.mrc", "C3", force=True)
    assert {"group_not_carried", "no_half_maps"} == {warning["code"] for warning in summary["warnings"]}
    assert summary["is_carried"] is False and summary["group"] == "C3"


@pytest.mark.parametrize(("words", "error", "message"), [
    ({"symmetry": "C0"}, SettingsError, "C0"), ({"symmetry": "C1"}, InputError, "C1"),
    ({"particles": "unposed.h5"}, InputError, "no poses"), ({"symmetry": "I5"}, SettingsError, "I5"),
    ({"max_shift": 0.0}, InputError, "no axes within"), ({"low_pass": 90.0}, InputError, "shells")])
def test_bad_input_is_refused(files: Path, tmp_path: Path, words: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find(files, tmp_path / "out", "map.mrc", **{"symmetry": "C2", **words})


def test_a_mask_of_another_box_and_an_empty_map_are_refused(files: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "small.mrc", Volume(np.ones((20, 20, 20), np.float32), VOXEL_A))
    with pytest.raises(InputError, match="box 20"):
        find(files, tmp_path / "out", "map.mrc", mask=str(tmp_path / "small.mrc"))
    write_volume(tmp_path / "empty.mrc", Volume(np.zeros((BOX,) * 3, np.float32), VOXEL_A))
    with pytest.raises(InputError, match="constant"):
        find(tmp_path, tmp_path / "out", "empty.mrc")


def test_names_are_forgiven_their_case_and_spaces_and_the_plan_says_what_it_takes(files: Path, tmp_path: Path) -> None:
    assert find(files, tmp_path / "out", "map.mrc", " c2 ")["group"] == "C2"
    assert plan_job(JOB, {"volume": str(files / "map.mrc")}, {}, 1, 1).memory_bytes > 1e8
