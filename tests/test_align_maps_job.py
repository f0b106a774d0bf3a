"""The align-maps job: what it writes, moves together, says and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml

from protomer.config.chain import parse_chain
from protomer.declarations.align_maps import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.map_aligning import Aligned, warn_of_loss
from protomer.maps.placement import Placement
from protomer.maps.resolution import measure_fsc
from protomer.maps.rigid_motion import Frame, RigidMotion, mirror_volume, move_volume
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.events import Events
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer_kernels.masks import sphere_mask
from protomer_kernels.rotations import matrices_from_quaternions
from symmetric_maps import with_noise
from test_map_search import map_at
from test_placement import some_particles

VOXEL_A, BOX = 4.0, 48
NEAR = {"max_angle": 15.0, "both_hands": False}  # quick


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference; the same map a little turned as volume.h5 with half maps, on other voxels, and mirrored; masks and particles."""
    folder = tmp_path_factory.mktemp("maps")
    write_volume(folder / "reference.mrc", map_at())
    turned = map_at(21, angle_deg=10.0, shift_A=4.0)
    halves = Halves(*(with_noise(turned, 0.02, half) for half in (0, 1)))
    mask = Volume(sphere_mask(BOX, 18, 3), VOXEL_A)
    write_map_record(folder / "turned.h5", MapRecord(halves, turned, turned, mask, mask, measure_fsc(halves, mask, "sphere")))
    write_volume(folder / "other_voxels.mrc", map_at(22, box=61, voxel_A=3.1, angle_deg=12.0))
    write_volume(folder / "flipped.mrc", mirror_volume(map_at(23, angle_deg=8.0)))
    write_volume(folder / "constant.mrc", Volume(np.ones((BOX,) * 3, np.float32), VOXEL_A))
    write_volume(folder / "coarse.mrc", Volume(map_at(box=12, voxel_A=40.0).data, 40.0))
    write_volume(folder / "mask.mrc", mask)
    write_volume(folder / "nothing.mrc", Volume(np.zeros((BOX,) * 3, np.float32), VOXEL_A))
    write_volume(folder / "corner.mrc", Volume(sphere_mask(BOX, 2, 0, (3, 3, 3)), VOXEL_A))
    for number in (1, 2):
        write_particles(folder / f"particles_{number}.h5", some_particles(4, 100 * number))
    write_particles(folder / "unposed.h5", replace(some_particles(), has_poses=False))
    with mrcfile.new(folder / "no_voxel.mrc", map_at(21, angle_deg=10.0, shift_A=4.0).data):
        pass
    return folder


def align(files: Path, output: Path, volumes: list[str], **words: Any) -> dict[str, Any]:
    given = {name: words.pop(name) for name in ("mask", "reference_mask", "particles", "reference") if name in words}
    inputs: dict[str, Any] = {"reference": str(files / "reference.mrc"), "volume": [str(files / name) for name in volumes]}
    for name, value in given.items():
        names = value if isinstance(value, list) else [value]
        paths = [each if each == "none" else str(files / each) for each in names]
        inputs[name] = paths if isinstance(value, list) else paths[0]
    return run_job(JOB, inputs, {**NEAR, **words}, RunOptions(output, overwrite=True, threads=1))


def warned(summary: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in summary["warnings"]}


def likeness(path: Path) -> float:
    return float(np.corrcoef(read_volume(path).data.ravel(), map_at().data.ravel())[0, 1])


def test_maps_masks_and_particles_of_several_volumes_come_into_one_frame(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = align(files, out, ["turned.h5", "other_voxels.mrc", "reference.mrc"], particles=["particles_1.h5", "none", "particles_2.h5"],
                    mask=["mask.mrc", "none", "none"], align_masks=True, update_particles=True)
    assert likeness(out / "class_1/map.mrc") > 0.998 and likeness(out / "class_2/map.mrc") > 0.998
    assert np.array_equal(read_volume(out / "class_3/map.mrc").data, map_at().data), "the reference itself is left as it is"
    said = yaml.safe_load((out / "transformations.yaml").read_text())
    assert [entry["hand_flipped"] for entry in said] == [False] * 3 and said[2]["is_reference"]
    assert said[1]["angle_deg"] == pytest.approx(12, abs=0.1)
    record = read_map_record(out / "class_1/volume.h5")
    motion = RigidMotion(np.array(said[0]["rotation"]), np.array(said[0]["shift_A"]))
    before = read_map_record(files / "turned.h5")
    for moved, source in ((record.half_maps.a, before.half_maps.a), (record.half_maps.b, before.half_maps.b)):
        np.testing.assert_array_equal(moved.data, move_volume(source, motion).data)
    assert record.sharpened is not None and record.fsc is not None and (out / "class_1/mask.mrc").exists()
    particles, was = read_particles(out / "class_1/particles.h5"), read_particles(files / "particles_1.h5")
    expected = motion.rotation @ matrices_from_quaternions(was.rotation)
    np.testing.assert_allclose(matrices_from_quaternions(particles.rotation), expected, atol=1e-9)
    np.testing.assert_allclose(particles.shift_A, was.shift_A + np.einsum("nij,i->nj", expected, motion.shift_A)[:, :2], atol=1e-9)
    together = read_particles(out / "particles.h5")
    np.testing.assert_array_equal(together.class_number, [1] * 4 + [3] * 4)
    assert summary["particles"] == summary["particles_joined"] == 8 and not (out / "class_2/particles.h5").exists()
    html = (out / "report.html").read_text()
    assert "It is no resolution" in html and "reference itself" in html and html.count("<svg") >= 6
    assert (out / "class_2/difference.mrc").exists() and "view matrix models #2," in (out / "alignment.cxc").read_text()
    assert summary["warnings"] == []


def test_the_other_hand_is_found_and_its_particles_are_refused_unless_told_how(files: Path, tmp_path: Path) -> None:
    words = {"both_hands": True, "particles": ["particles_1.h5"], "update_particles": True, "figures": False}
    with pytest.raises(InputError, match="other hand") as caught:
        align(files, tmp_path / "out", ["flipped.mrc"], **words)
    assert "update_flipped_poses=true" in caught.value.remedy and not (tmp_path / "out/class_1").exists()
    summary = align(files, tmp_path / "out", ["flipped.mrc"], update_flipped_poses=True, **words)
    assert summary["alignments"][0]["hand_flipped"] and likeness(tmp_path / "out/class_1/map.mrc") > 0.995
    assert "open class_1/map.mrc in its place" in (tmp_path / "out/alignment.cxc").read_text()
    assert not (tmp_path / "out/class_1/difference.mrc").exists() and (tmp_path / "out/class_1/particles.h5").exists()


def test_two_conformations_are_superposed_on_the_domain_in_the_mask(files: Path, tmp_path: Path) -> None:
    """A body that moved: one half of the particle turned by 25 degrees and shifted; the mask is around the other half, of the reference."""
    fixed, other = map_at(), map_at(model_seed=5)
    apart = RigidMotion(np.eye(3), np.array([52.0, 0.0, 0.0]))
    moving = move_volume(move_volume(other, RigidMotion(map_motion(25.0).rotation, np.zeros(3))), apart)
    two = [Volume(move_volume(fixed, RigidMotion(np.eye(3), np.array([-30.0, 0, 0]))).data + arm.data, VOXEL_A)
           for arm in (move_volume(other, apart), moving)]
    write_volume(tmp_path / "open.mrc", two[0])
    truth = map_motion(7.0)
    write_volume(tmp_path / "closed.mrc", move_volume(two[1], truth))
    write_volume(tmp_path / "domain.mrc", Volume(sphere_mask(BOX, 11, 4, (24, 24, 24 - 30 / VOXEL_A)), VOXEL_A))
    found = {}
    for name, words in (("whole", {}), ("domain", {"reference_mask": str(tmp_path / "domain.mrc"), "apply_masks": True})):
        summary = align(files, tmp_path / name, [str(tmp_path / "closed.mrc")], reference=str(tmp_path / "open.mrc"), figures=False,
                        **words)
        entry = summary["alignments"][0]
        found[name] = RigidMotion(np.array(entry["rotation"]), np.array(entry["shift_A"])).after(truth).angle_deg
    assert found["domain"] < 1.0 < found["whole"], found


def map_motion(angle_deg: float) -> RigidMotion:
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return RigidMotion(turn, np.array([3.0, -2.0, 1.0]))


@pytest.mark.parametrize(("volumes", "words", "error", "message"), [
    (["constant.mrc"], {}, InputError, "constant.mrc cannot be compared"),
    (["turned.h5"] * 3, {"mask": ["mask.mrc"] * 2}, InputError, "2 --mask for 3 --volume"),
    (["turned.h5"] * 2, {"particles": ["particles_1.h5"], "update_particles": True}, InputError, "1 --particles for 2 --volume"),
    (["turned.h5"], {"mask": ["nothing.mrc"]}, InputError, "is 0 everywhere"),
    (["turned.h5"], {"mask": ["corner.mrc"], "apply_masks": True}, InputError, "its mask leaves"),
    (["coarse.mrc"], {}, InputError, "shells"),
    (["turned.h5"], {"particles": ["particles_1.h5"]}, SettingsError, "update_particles is off"),
    (["turned.h5"], {"particles": ["unposed.h5"], "update_particles": True}, InputError, "no poses"),
    (["no_voxel.mrc"], {}, InputError, "no voxel size"),
    (["turned.h5"], {"max_shift": 0.001, "max_angle": 0.001}, InputError, "no place on the reference within"),
    (["other_voxels.mrc"], {"mask": ["mask.mrc"]}, InputError, "the mask mask.mrc has box 48"),
    (["none"], {}, InputError, "--volume none")])
def test_bad_input_is_refused(files: Path, tmp_path: Path, volumes: list[str], words: dict[str, Any], error: type[Exception],
                              message: str) -> None:
    if volumes == ["none"]:
        with pytest.raises(error, match=message):
            run_job(JOB, {"reference": str(files / "reference.mrc"), "volume": ["none"]}, {}, RunOptions(tmp_path / "out", threads=1))
        return
    with pytest.raises(error, match=message):
        align(files, tmp_path / "out", volumes, **words)
    assert not (tmp_path / "out/class_1").exists()


def test_a_header_without_voxel_size_takes_that_of_the_settings(files: Path, tmp_path: Path) -> None:
    summary = align(files, tmp_path / "out", ["no_voxel.mrc"], voxel_size="4A", figures=False, mask=["mask.mrc"])
    assert likeness(tmp_path / "out/class_1/map.mrc") > 0.998 and warned(summary) == {"masks_unused"}


def test_a_map_of_something_else_is_told_by_its_agreement(files: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal((BOX,) * 3).astype(np.float32)
    write_volume(tmp_path / "noise.mrc", Volume(noise * sphere_mask(BOX, 15, 3), VOXEL_A))
    assert "maps_do_not_agree" in warned(align(files, tmp_path / "out", [str(tmp_path / "noise.mrc")], figures=False, max_angle=60))


def test_a_map_that_leaves_the_frame_or_is_finer_than_it_is_told() -> None:
    events = Events(None)
    away = RigidMotion(np.eye(3), np.array([0.5 * BOX * VOXEL_A, 0.0, 0.0]))
    warn_of_loss("a map", map_at(), Aligned(Placement(away, False, Frame(BOX, VOXEL_A)), None, 12.0), 7.9, events)
    assert {warning["code"] for warning in events.warnings} == {"map_leaves_box", "reference_is_coarse"}
    events = Events(None)
    warn_of_loss("a map", map_at(), Aligned(Placement(RigidMotion.none(), False, Frame(61, 3.1)), None, 12.0), 7.9, events)
    assert not events.warnings


def test_it_is_a_step_of_a_chain_and_the_plan_says_what_it_takes(files: Path) -> None:
    chain = parse_chain({"jobs": {
        "joined": {"job": "align-maps", "reference": "reference.mrc", "volume": ["turned.h5", "other_voxels.mrc"],
                   "particles": ["particles_1.h5", "none"], "settings": {"update_particles": True, "low_pass": "12A"}},
        "again": {"job": "reconstruct", "particles": "joined"}}}, files)
    step = next(step for step in chain.steps if step.name == "joined")
    assert step.arguments().count("--volume") == 2 and step.arguments().count("none") == 1
    assert Path("joined/particles.h5") in chain.outputs["joined"]
    assert plan_job(JOB, {"reference": str(files / "reference.mrc"), "volume": [str(files / "turned.h5")]}, {}, 1, 1).memory_bytes > 1e8
