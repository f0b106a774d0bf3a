"""The job subtract: new images that go wherever the old ones went, copies, frames, the way back, a stop and ranks, and bad input."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from protomer.config.chain import parse_chain
from protomer.declarations.import_particles import JOB as IMPORT
from protomer.declarations.subtract import JOB
from protomer.declarations.symmetry_expand import JOB as EXPAND
from protomer.errors import InputError, SettingsError, Stopped
from protomer.formats.cs import read_cs_particles, write_cs_particles
from protomer.formats.hdf5 import read_map_record, read_particles, write_map_record, write_particles
from protomer.formats.mrc import StackReader, write_volume
from protomer.formats.star import write_star_particles
from protomer.jobs.verify import find_differences
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.running.run_folder import clear_run
from protomer.subtraction import images as subtraction_images
from protomer.subtraction.table import ORIGINAL
from protomer.symmetry.expansion import expanded, one_row_per_image
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import COLUMNS
from reconstructions import rebuilt
from refinement_runs import protomer, values
from two_parts import (
    BOX,
    PIXEL_A,
    codes,
    images,
    mask_around,
    parts,
    read_summary,
    record_of,
    shown_by,
    subtract,
    subtracted,
    taken_from,
    with_fsc,
)

NUMBER = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subtracted(tmp_path_factory.mktemp("subtract"), NUMBER)


def test_the_new_table_is_the_old_one_but_for_its_images_which_have_lost_the_second_part(folder: Path) -> None:
    before, after = read_particles(folder / "particles.h5"), read_particles(folder / "out/particles.h5")
    for name in COLUMNS:
        if name not in ("stack", "stack_index", "grey_offset", "grey_gain"):
            np.testing.assert_array_equal(after.columns[name], before.columns[name], err_msg=name)
    second, taken = images(NUMBER, 0.2, True).second, taken_from(folder)
    assert np.corrcoef(second.ravel(), taken.ravel())[0, 1] > 0.88
    for stack in after.stacks[1:]:
        with StackReader(stack.path) as reader:
            assert reader.digest() == stack.digest and reader.number == stack.number and stack.box == BOX
    assert sorted(os.listdir(folder / "out")) == ["images", "log.jsonl", "mask.mrc", "particles.h5", "report.html", "settings.yaml",
                                                  "summary.json"]
    assert all(name.endswith(".mrcs") for name in os.listdir(folder / "out/images"))
    assert list(find_differences(folder / "out")) == []
    assert "found after" in (folder / "out/report.html").read_text()


def test_half_precision_writes_what_full_precision_does_to_a_thousandth(folder: Path) -> None:
    subtract(folder, "half_precision", half_precision=True)
    with mrcfile.open(folder / "half_precision/images/images_0001.mrcs") as stack:
        assert stack.data.dtype == np.float16
    full, half = (shown_by(read_particles(folder / name / "particles.h5")) for name in ("out", "half_precision"))
    assert 0 < np.abs(full - half).max() < 4e-3


def test_copies_get_an_image_each_and_remain_one_image_with_one_half_also_through_star_and_cs(folder: Path, tmp_path: Path) -> None:
    one_row = read_particles(folder / "particles.h5")
    copies = expanded(one_row, OperatorSet.of_group("C2"))
    half_maps = rebuilt(copies)[0]
    write_particles(tmp_path / "particles.h5", copies)
    write_map_record(tmp_path / "volume.h5", with_fsc(record_of(half_maps)))
    write_volume(tmp_path / "mask.mrc", mask_around(parts()[0]))
    summary = subtract(tmp_path, "out")
    found = read_particles(tmp_path / "out/particles.h5")
    assert summary["images"] == 2 * NUMBER and found.is_expanded and len(found.operators) == 2
    np.testing.assert_array_equal(found.image_uid, copies.image_uid)
    assert len(np.unique(found.pictures(np.arange(2 * NUMBER)))) == 2 * NUMBER
    data, taken = images(NUMBER, 0.2, True), taken_from(tmp_path)
    for copy, lost in ((0, data.second), (1, data.first)):  # the mask shows copy 1 the part that C2 takes to the first
        assert np.corrcoef(taken[copy::2].ravel(), lost.ravel())[0, 1] > 0.88
    assert len(one_row_per_image(found, "original")) == NUMBER
    for name, given, settings in (("undone", "out", {"undo": True}), ("expanded", "undone", {})):
        inputs = {"particles": str(tmp_path / given), "symmetry": "C2"}
        assert "subtracted" in codes(run_job(EXPAND, inputs, settings, RunOptions(tmp_path / name, threads=1)))
    write_star_particles(tmp_path / "out.star", found)
    write_cs_particles(tmp_path / "out.cs", found)
    run_job(IMPORT, {"star": str(tmp_path / "out.star")}, {"normalise": False}, RunOptions(tmp_path / "again", threads=1))
    for again in (read_particles(tmp_path / "again/particles.h5"), read_cs_particles(tmp_path / "out.cs")):
        np.testing.assert_array_equal(again.half, found.half)
        np.testing.assert_array_equal(np.unique(again.image_uid, return_inverse=True)[1].reshape(-1, 2)[:, 0],
                                      np.unique(again.image_uid, return_inverse=True)[1].reshape(-1, 2)[:, 1])
        assert len(np.unique(again.image_uid)) == NUMBER
        np.testing.assert_allclose(shown_by(again), shown_by(found), atol=1e-6)
        np.testing.assert_allclose(again.shift_A, found.shift_A, atol=1e-4)


def test_subtracting_the_same_again_is_refused_and_subtracting_another_part_leads_back_to_the_first_images(folder: Path) -> None:
    again = {"particles": "out/particles.h5"}
    with pytest.raises(InputError, match="something was taken from these images before"):
        subtract(folder, "twice", again)
    write_volume(folder / "second.mrc", mask_around(parts()[1]))
    summary = subtract(folder, "other_part", {**again, "mask": "second.mrc"})
    assert "subtracted_already" in codes(summary)
    found = read_particles(folder / "other_part/particles.h5")
    assert found.stacks[0].path == str(folder / "images.mrcs") and len(found.stacks) == 3
    assert all(name.endswith(b"/images.mrcs") for name in found.extra[ORIGINAL].tolist())


def test_a_stopped_run_goes_on_with_the_stacks_that_are_left_and_ends_in_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subtraction_images, "BATCHES_PER_STACK", 1)
    subtract(folder, "in_pieces")
    written = subtraction_images.make_stack
    done: list[str] = []

    def stopping(plan: subtraction_images.StackPlan, *rest: Any) -> tuple[str, np.ndarray]:
        if len(done) == 2:
            raise Stopped("asked to")
        done.append(plan.name)
        return written(plan, *rest)

    monkeypatch.setattr("protomer.jobs.subtract.make_stack", stopping)
    with pytest.raises(Stopped):
        subtract(folder, "stopped")
    left = sorted(os.listdir(folder / "stopped/images"))
    assert left == ["images_0001.mrcs", "images_0001_done.h5", "images_0002.mrcs", "images_0002_done.h5"]
    times = [os.stat(folder / "stopped/images" / name).st_mtime_ns for name in left[::2]]
    monkeypatch.setattr("protomer.jobs.subtract.make_stack", written)
    shutil.copytree(folder / "stopped", tmp_path / "cleared")
    clear_run(tmp_path / "cleared")
    assert not any((tmp_path / "cleared").iterdir())  # --overwrite leaves no stack of the run that was stopped
    given = {name: str(folder / f"{name}.{kind}") for name, kind in (("particles", "h5"), ("volume", "h5"), ("mask", "mrc"))}
    summary = run_job(JOB, given, {}, RunOptions(folder / "stopped", threads=1, resume=True))
    assert summary["resumed"] and [os.stat(folder / "stopped/images" / name).st_mtime_ns for name in left[::2]] == times
    whole = read_summary(folder / "in_pieces")
    assert {name: o["sha256"] for name, o in summary["outputs"].items() if name.startswith("images/")} == {
        name: o["sha256"] for name, o in whole["outputs"].items() if name.startswith("images/")}
    assert len([name for name in summary["outputs"] if name.startswith("images/")]) >= 4
    assert summary["power_removed_percent"] == whole["power_removed_percent"]


@pytest.mark.slow
def test_two_ranks_write_the_same_bits_as_one(folder: Path) -> None:
    words = ["subtract", "--particles", folder / "particles.h5", "--volume", folder / "volume.h5", "--mask", folder / "mask.mrc"]
    protomer(*words, "--output", folder / "two_ranks", ranks=2)
    one, two = (values(folder / name / "particles.h5") for name in ("out", "two_ranks"))
    different = {name for name in one if one[name] != two[name]}
    assert different <= {"stacks/path", "stacks/mtime_ns", "provenance"}, different
    assert (folder / "out/mask.mrc").read_bytes() == (folder / "two_ranks/mask.mrc").read_bytes()


def test_frames_and_masks_that_do_not_fit_are_resampled_or_refused_and_said(folder: Path, tmp_path: Path) -> None:
    record = read_map_record(folder / "volume.h5")
    write_volume(tmp_path / "hard.mrc", Volume((mask_around(parts()[0]).data > 0.5).astype(np.float32), PIXEL_A))
    wide = np.zeros((60,) * 3, np.float32)
    wide[6:54, 6:54, 6:54] = mask_around(parts()[0]).data
    write_volume(tmp_path / "wide.mrc", Volume(wide, PIXEL_A))
    big = record.half_maps.map(lambda half: np.pad(half.data, 6))
    write_map_record(tmp_path / "wide.h5", replace(record_of(big), fsc=record.fsc))
    above = mask_around(parts()[0]).data.copy()
    above[:4] = 1.0
    write_volume(tmp_path / "touching.mrc", Volume(above, PIXEL_A))
    said = {}
    above_folder = os.path.relpath(tmp_path, folder)
    for name, more in (("hard", {}), ("wide", {"volume": f"{above_folder}/wide.h5"}), ("touching", {})):
        said[name] = codes(subtract(folder, f"said_{name}", {"mask": f"{above_folder}/{name}.mrc", **more}))
    assert "hard_mask" in said["hard"] and {"resampled_mask", "resampled_volume"} <= said["wide"] and "mask_touches_box" in said["touching"]
    difference = taken_from(folder, "said_wide") - taken_from(folder)
    assert np.abs(difference).max() < 0.05 * np.abs(taken_from(folder)).max()
    write_volume(tmp_path / "all.mrc", Volume(np.ones((BOX,) * 3, np.float32), PIXEL_A))
    write_volume(tmp_path / "empty.mrc", Volume(np.zeros((BOX,) * 3, np.float32), PIXEL_A))
    for mask, words in (("all.mrc", "keeps all of the density"), ("empty.mrc", "is 0 everywhere"), ("", "no --mask")):
        with pytest.raises(InputError, match=words):
            subtract(folder, "refused", {"mask": os.path.relpath(tmp_path / mask, folder) if mask else ""})
    assert not (folder / "refused").exists()


def test_particles_and_maps_that_do_not_belong_together_are_refused_before_anything_is_written(folder: Path) -> None:
    particles = read_particles(folder / "particles.h5")
    wrong = {
        "no poses": (replace(particles, has_poses=False), "have no poses"),
        "no halves": (particles.with_columns(half=np.full(NUMBER, -1)), "have no half-set"),
        "other poses": (particles.with_columns(rotation=np.roll(particles.rotation, 3, axis=0)), "better than at one another's"),
        "exchanged": (particles.with_columns(half=1 - particles.half), "half-sets are exchanged"),
        "grey": (particles.with_columns(grey_gain=np.full(NUMBER, 0.2)), "hold 0.1"),
    }
    for name, (table, words) in wrong.items():
        write_particles(folder / "wrong.h5", table)
        with pytest.raises(InputError, match=words):
            subtract(folder, "refused", {"particles": "wrong.h5"})
        assert not (folder / "refused").exists(), name
    with pytest.raises(InputError, match="no --volume"):
        subtract(folder, "refused", {"volume": ""})
    with pytest.raises(InputError, match="ends in"):
        subtract(folder, "refused", {"volume": "mask.mrc"})
    with pytest.raises(SettingsError, match="recrop"):
        subtract(folder, "refused", recrop="90")


def test_the_plan_says_how_much_disk_the_images_take(folder: Path) -> None:
    given = {name: str(folder / file) for name, file in (("particles", "particles.h5"), ("volume", "volume.h5"), ("mask", "mask.mrc"))}
    full, half = (plan_job(JOB, given, {"half_precision": precision}, 1, 1).disk_bytes for precision in (False, True))
    assert full - half == NUMBER * BOX * BOX * 2


def test_subtraction_is_a_step_of_a_chain(tmp_path: Path) -> None:
    for name in ("particles.star", "start.mrc", "one.mrc"):
        (tmp_path / name).touch()
    chain = parse_chain({"dataset": {"star": "particles.star"}, "jobs": {
        "consensus": {"job": "refine", "particles": "dataset", "volume": "start.mrc"},
        "left": {"job": "subtract", "particles": "consensus", "volume": "consensus", "mask": "one.mrc", "settings": {"recrop": 64}},
        "local": {"job": "local-refine", "particles": "left", "volume": "consensus", "mask": "left"}}}, tmp_path)
    assert [step.name for step in chain.steps] == ["dataset", "consensus", "left", "local"]
    assert {"recrop=64", "consensus/volume.h5"} <= set(chain.steps[2].arguments())
    assert "left/mask.mrc" in chain.steps[3].arguments()
