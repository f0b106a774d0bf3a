"""The job import: what it keeps, what it measures, and every kind of bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.declarations.import_particles import JOB
from protomer.errors import InputError, Stopped
from protomer.formats import hdf5
from protomer.formats.mrc import StackReader, write_stack
from protomer.imaging.image_check import BACKGROUND_RADIUS, inside_circle
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.tables.particles import Particles
from stack_files import BOX, PIXEL_A, noise_images, plain_rows, write_data_set

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*(NaN values|infinite values|invalid value).*:RuntimeWarning")
ANGLES = {"rlnAngleRot": 10, "rlnAngleTilt": 20, "rlnAnglePsi": 30}


def run_import(folder: Path, inputs: dict[str, Any], **settings: Any) -> tuple[dict[str, Any], Particles]:
    summary = run_job(JOB, inputs, settings, RunOptions(folder / "imported"))
    assert summary["rows_in"] == summary["rows_out"] + summary["rows_rejected"] and summary["images_per_second"] > 0
    return summary, hdf5.read_particles(folder / "imported" / "particles.h5")


def refused(folder: Path, table: Path, message: str, **settings: Any) -> InputError:
    """The import of the table fails with exit code 2 and that message, and leaves nothing behind."""
    with pytest.raises(InputError, match=message) as caught:
        run_import(folder, {"star": table}, **settings)
    assert caught.value.exit_code == 2 and caught.value.expected and caught.value.remedy
    assert not (folder / "imported").exists()
    return caught.value


def rejected(folder: Path) -> list[dict[str, str]]:
    with open(folder / "imported" / "rejected.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_backgrounds_come_out_with_mean_0_and_sd_1(tmp_path: Path) -> None:
    images = noise_images(30, offset=50.0, sd=7.0) * np.linspace(1, 3, 30, dtype=np.float32)[:, None, None]
    _, p = run_import(tmp_path, {"star": write_data_set(tmp_path, plain_rows(30), images)})
    prepared = p.grey_gain[:, None, None] * (StackReader(p.stacks[0].path).read(p.stack_index) - p.grey_offset[:, None, None])
    background = prepared[:, ~inside_circle(BOX, BACKGROUND_RADIUS * BOX)]
    np.testing.assert_allclose(background.mean(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(background.std(axis=1), 1.0, atol=1e-5)


def test_normalisation_off_and_inversion_do_what_they_say(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(4), noise_images(4))
    _, p = run_import(tmp_path, {"star": table}, normalise=False, invert_contrast=True)
    assert p.grey_gain.tolist() == [-1.0] * 4 and p.grey_offset.tolist() == [0.0] * 4


@pytest.mark.parametrize("invert", [False, True])
def test_particles_that_come_out_dark_are_warned_of_and_white_ones_are_not(tmp_path: Path, invert: bool) -> None:
    images = noise_images(12)
    images[:, inside_circle(BOX, 5)] += 2.0
    for name, sign in (("white", 1.0), ("dark", -1.0)):
        (tmp_path / name).mkdir()
        table = write_data_set(tmp_path / name, plain_rows(12), sign * images)
        summary, _ = run_import(tmp_path / name, {"star": table}, invert_contrast=invert)
        told = [warning["text"] for warning in summary["warnings"] if warning["code"] == "dark_images"]
        assert len(told) == ((sign < 0) != invert) and all(("off" if invert else "on") in text.split()[-1] for text in told)


@pytest.mark.parametrize(("tag", "value", "said"), [("rlnVoltage", 300000, "the voltage 300000"),
                                                    ("rlnSphericalAberration", 2.7e7, "the spherical aberration"),
                                                    ("rlnAmplitudeContrast", 10, "the amplitude contrast 10")])
def test_optics_in_another_unit_are_refused_where_images_use_them(tmp_path: Path, tag: str, value: float, said: str) -> None:
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "first", "rlnVoltage": 300, "rlnSphericalAberration": 2.7,
              "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_A, "rlnImageSize": BOX}
    odd = {**optics, "rlnOpticsGroup": 2, "rlnOpticsGroupName": "odd", tag: value}
    rows = plain_rows(6)
    summary, _ = run_import(tmp_path, {"star": write_data_set(tmp_path, rows, noise_images(6), [optics, odd])})
    assert summary["rows_out"] == 6
    shutil.rmtree(tmp_path / "imported")
    rows[0]["rlnOpticsGroup"] = 2
    refused(tmp_path, write_data_set(tmp_path, rows, noise_images(6), [optics, odd]), said)


def test_one_defocus_without_the_other_is_refused_and_micrometres_are_warned_of(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "rlnDefocusU"} for row in plain_rows(6)]
    refused(tmp_path, write_data_set(tmp_path, rows, noise_images(6)), "rlnDefocusV and not the other")
    rows = [{**row, "rlnDefocusU": 1.5, "rlnDefocusV": 1.48} for row in plain_rows(6)]
    summary, _ = run_import(tmp_path, {"star": write_data_set(tmp_path, rows, noise_images(6))})
    assert [warning["code"] for warning in summary["warnings"]] == ["defocus"]


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(20), noise_images(20))
    files = []
    for threads in (1, 3):
        run_job(JOB, {"star": table}, {}, RunOptions(tmp_path / f"t{threads}", threads=threads))
        files.append((tmp_path / f"t{threads}" / "particles.h5").read_bytes())
    assert files[0] == files[1]


def test_halves_and_poses_of_the_table_are_kept(tmp_path: Path) -> None:
    rows = [{**row, **ANGLES, "rlnOriginXAngst": i, "rlnOriginYAngst": 0} for i, row in enumerate(plain_rows(4))]
    _, p = run_import(tmp_path, {"star": write_data_set(tmp_path, rows, noise_images(4))})
    assert p.has_poses and p.half.tolist() == [0, 1, 0, 1] and p.shift_A[:, 0].tolist() == [0, 1, 2, 3]


def without_halves(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k != "rlnRandomSubset"} for row in rows]


def test_halves_are_drawn_by_image_whatever_the_order_or_company_of_the_rows(tmp_path: Path) -> None:
    rows = without_halves(plain_rows(40))
    drawn = []
    for name, chosen in (("all", rows), ("some", rows[::-1][:25])):
        (tmp_path / name).mkdir()
        _, p = run_import(tmp_path / name, {"star": write_data_set(tmp_path / name, chosen, noise_images(40))})
        drawn.append(dict(zip(p.stack_index.tolist(), p.half.tolist(), strict=True)))
    assert set(drawn[0].values()) == {0, 1} and all(drawn[0][image] == half for image, half in drawn[1].items())


@pytest.mark.parametrize("split_by", ["micrograph", "filament"])
def test_what_shares_a_micrograph_or_filament_shares_a_half(tmp_path: Path, split_by: str) -> None:
    rows = [{**row, "rlnMicrographName": f"m{i // 6}.mrc", "rlnHelicalTubeID": i // 3 % 2 + 1}
            for i, row in enumerate(without_halves(plain_rows(60)))]
    _, p = run_import(tmp_path, {"star": write_data_set(tmp_path, rows, noise_images(60))}, split_by=split_by)
    size = 6 if split_by == "micrograph" else 3
    groups = p.half.reshape(-1, size)
    assert (groups == groups[:, :1]).all() and set(groups[:, 0].tolist()) == {0, 1}


def test_splitting_by_a_filament_that_the_table_does_not_name_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, write_data_set(tmp_path, without_halves(plain_rows(4)), noise_images(4)), "not every row", split_by="filament")


def test_binning_sets_box_and_pixel_size(tmp_path: Path) -> None:
    _, p = run_import(tmp_path, {"star": write_data_set(tmp_path, plain_rows(4), noise_images(4))}, bin=1.6)
    assert (p.optics_groups[0].box, p.optics_groups[0].pixel_size_A) == (10, PIXEL_A * 1.6)
    refused(tmp_path / "..", tmp_path / "particles.star", "leaves 2 of 16", bin=8.0)


def bad_stack(kind: str) -> np.ndarray:
    images = noise_images(6)
    if kind == "NaN":
        images[2, 3, 4] = np.nan
    elif kind == "infinite":
        images[2, 3, 4] = np.inf
    elif kind == "constant":
        images[2] = 4.5
    return images


@pytest.mark.parametrize("kind", ["NaN", "infinite", "constant"])
def test_a_bad_image_is_named_by_stack_and_index(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, write_data_set(tmp_path, plain_rows(6), bad_stack(kind)), rf"row 3, 3@.*images\.mrcs: .*{kind}")


@pytest.mark.parametrize("kind", ["NaN", "constant"])
def test_bad_images_are_listed_and_left_out_on_request(tmp_path: Path, kind: str) -> None:
    table = write_data_set(tmp_path, plain_rows(6), bad_stack(kind))
    summary, p = run_import(tmp_path, {"star": table}, bad_images="reject")
    assert p.stack_index.tolist() == [0, 1, 3, 4, 5] and summary["rows_rejected"] == 1
    assert [(line["row"], line["image"]) for line in rejected(tmp_path)] == [("3", f"3@{tmp_path / 'images.mrcs'}")]
    assert kind in rejected(tmp_path)[0]["reason"]


def test_images_of_a_truncated_stack_are_named(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(6), noise_images(6))
    stack = tmp_path / "images.mrcs"
    stack.write_bytes(stack.read_bytes()[:-int(1.5 * BOX * BOX * 4)])
    refused(tmp_path, table, r"2 of 6 rows .*\n.*row 5, 5@.*truncated")
    _, p = run_import(tmp_path, {"star": table}, bad_images="reject")
    assert p.stack_index.tolist() == [0, 1, 2, 3]


def test_rows_past_the_stack_and_stacks_that_do_not_exist_leave_nothing_behind(tmp_path: Path) -> None:
    refused(tmp_path, write_data_set(tmp_path, plain_rows(7), noise_images(6)), "row 7 wants image 7")
    refused(tmp_path, write_data_set(tmp_path, plain_rows(6, "gone.mrcs"), noise_images(6)), "do not exist")


def test_half_sets_that_are_all_equal_or_incomplete_are_refused_unless_they_may_be_redrawn(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, [{**row, **ANGLES, "rlnRandomSubset": 2} for row in plain_rows(20)], noise_images(20))
    assert "redraw_halves" in refused(tmp_path, table, "all 20 rows are in half-set 2").remedy
    summary, p = run_import(tmp_path, {"star": table}, redraw_halves=True)
    assert set(p.half.tolist()) == {0, 1} and "halves" in {w["code"] for w in summary["warnings"]}
    other = tmp_path / "incomplete"
    other.mkdir()
    rows = plain_rows(4)
    rows[1]["rlnRandomSubset"] = 0
    refused(other, write_data_set(other, rows, noise_images(4)), "1 of 4 rows have no half-set")


def test_copies_torn_between_half_sets_are_refused_unless_they_may_be_redrawn(tmp_path: Path) -> None:
    rows = [{**row, **ANGLES, "rlnAngleRot": 10 * i} for i, row in enumerate(plain_rows(6))]
    rows += [{**row, "rlnAngleRot": 180, "rlnRandomSubset": 1} for row in rows]
    table = write_data_set(tmp_path, rows, noise_images(6))
    refused(tmp_path, table, "both half-sets")
    summary, p = run_import(tmp_path, {"star": table}, redraw_halves=True)
    assert p.is_expanded and p.copy.tolist() == [0] * 6 + [1] * 6 and "copies" in {w["code"] for w in summary["warnings"]}
    np.testing.assert_array_equal(p.half[:6], p.half[6:])


def test_rows_that_repeat_image_and_pose_are_refused_or_listed(tmp_path: Path) -> None:
    rows = [{**row, **ANGLES, "rlnOriginXAngst": 1, "rlnOriginYAngst": 2} for row in plain_rows(4)]
    table = write_data_set(tmp_path, [*rows, dict(rows[1]), {**rows[2], "rlnAngleRot": 370}], noise_images(4))
    refused(tmp_path, table, r"2 of 6 rows .*\n.*row 5, 2@.*repeats")  # 370 degrees are 10 degrees
    _, p = run_import(tmp_path, {"star": table}, bad_images="reject")
    assert len(p) == 4 and not p.is_expanded and [line["row"] for line in rejected(tmp_path)] == ["5", "6"]


def test_zero_defocus_is_refused_listed_or_accepted_as_told(tmp_path: Path) -> None:
    rows = plain_rows(4)
    rows[0].update(rlnDefocusU=0, rlnDefocusV=0)
    table = write_data_set(tmp_path, rows, noise_images(4))
    assert "allow_zero_defocus" in refused(tmp_path, table, r"row 1, 1@.*the defocus is zero").remedy
    _, p = run_import(tmp_path, {"star": table}, bad_images="reject")
    assert len(p) == 3
    shutil.rmtree(tmp_path / "imported")
    _, p = run_import(tmp_path, {"star": table}, allow_zero_defocus=True)
    assert len(p) == 4


def test_a_number_that_is_nan_in_the_table_is_named(tmp_path: Path) -> None:
    rows = plain_rows(4)
    rows[3]["rlnDefocusU"] = "nan"
    refused(tmp_path, write_data_set(tmp_path, rows, noise_images(4)), r"row 4, 4@.*number of the row is NaN")


def test_a_table_of_which_nothing_is_usable_is_refused_even_when_rejecting(tmp_path: Path) -> None:
    refused(tmp_path, write_data_set(tmp_path, plain_rows(3), np.ones((3, BOX, BOX), np.float32)), "3 of 3 rows", bad_images="reject")


def test_pixel_sizes_that_disagree_are_said_and_the_table_wins(tmp_path: Path) -> None:
    optics = [{"rlnOpticsGroup": i + 1, "rlnOpticsGroupName": f"g{i}", "rlnVoltage": 300, "rlnSphericalAberration": 2.7,
               "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": size, "rlnImageSize": BOX} for i, size in enumerate((3.0, 3.5))]
    rows = [{**row, "rlnOpticsGroup": i % 2 + 1} for i, row in enumerate(plain_rows(4))]
    summary, p = run_import(tmp_path, {"star": write_data_set(tmp_path, rows, noise_images(4), optics)})
    said = [w["text"] for w in summary["warnings"] if w["code"] == "pixel_size"]
    assert [g.pixel_size_A for g in p.optics_groups] == [3.0, 3.5]
    assert len(said) == 2 and "says 2 Å" in said[0] and "3 to 3.5 Å" in said[1]


def test_agreeing_pixel_sizes_are_not_worth_a_word(tmp_path: Path) -> None:
    summary, _ = run_import(tmp_path, {"star": write_data_set(tmp_path, plain_rows(4), noise_images(4))})
    assert summary["warnings"] == []


def test_a_bare_stack_with_a_table_of_its_ctf(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", noise_images(8), PIXEL_A)
    lines = ["image,defocus_u_A,defocus_v_A,defocus_angle_deg,voltage_kV", *(f"{i},{10000 + i},9000,45,200" for i in range(8, 0, -1))]
    (tmp_path / "ctf.csv").write_text("\n".join(lines) + "\n")
    _, p = run_import(tmp_path, {"stack": tmp_path / "s.mrcs", "ctf": tmp_path / "ctf.csv"})
    assert p.stack_index.tolist() == list(range(7, -1, -1)) and p.defocus_u_A.tolist() == [10000 + i for i in range(8, 0, -1)]
    assert p.optics_groups[0].voltage_V == 2e5 and p.optics_groups[0].pixel_size_A == pytest.approx(PIXEL_A)


@pytest.mark.parametrize(("text", "message"), [
    ("defocus_u_A,defocus_v_A,voltage_kV\n1,2,300\n", "1 lines for 3 images"), ("u,v\n1,2\n", "columns u, v"),
    ("image,defocus_u_A,defocus_v_A,voltage_kV\n4,1,2,300\n", "names image 4"),
    ("image,defocus_u_A,defocus_v_A,voltage_kV\n1,x,2,300\n", "defocus_u_A is 'x'")])
def test_a_ctf_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_stack(tmp_path / "s.mrcs", noise_images(3), PIXEL_A)
    (tmp_path / "ctf.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        run_import(tmp_path, {"stack": tmp_path / "s.mrcs", "ctf": tmp_path / "ctf.csv"})


def test_none_or_two_tables_are_refused(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(2), noise_images(2))
    for inputs in ({}, {"star": table, "stack": tmp_path / "images.mrcs"}):
        with pytest.raises(InputError, match="import was given"):
            run_import(tmp_path, inputs)


def test_a_dry_run_predicts_and_writes_nothing(tmp_path: Path) -> None:
    table = write_data_set(tmp_path, plain_rows(4), noise_images(4))
    before = sorted(tmp_path.iterdir())
    plan = plan_job(JOB, {"star": table}, {}, 1, 2)
    assert plan.memory_bytes > 0 and plan.seconds > 0 and sorted(tmp_path.iterdir()) == before


def test_the_real_tilt_stack_imports_with_its_pixel_size_overridden(shared_data: Path, tmp_path: Path) -> None:
    table = shared_data / "real_particles" / "ribosome_tilts_64_220" / "sta_testing_bin8.star"
    summary, p = run_import(tmp_path, {"star": table}, pixel_size="14.6A")
    assert (summary["rows_in"], summary["rows_out"], p.has_poses) == (219, 219, True)
    assert p.optics_groups[0].pixel_size_A == 14.6 and p.optics_groups[0].box == 64
    raw = StackReader(p.stacks[0].path).read(p.stack_index)
    prepared = p.grey_gain[:, None, None] * (raw - p.grey_offset[:, None, None])
    assert prepared[:, inside_circle(64, 8)].mean() > 0.1  # white particles, in the middle
    assert json.loads((tmp_path / "imported" / "summary.json").read_text())["rows_in"] == 219


def test_dark_particles_of_a_cs_file_turn_white_as_those_of_the_star_file_do_on_request(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "real_particles" / "empiar10076_50S_320_7"
    results = []
    for kind, settings in (("star", {"invert_contrast": True}), ("cs", {})):
        (tmp_path / kind).mkdir()
        results.append(run_import(tmp_path / kind, {kind: folder / f"empiar_10076_7.{kind}"}, **settings)[1])
    a, b = results
    (tmp_path / "as it is").mkdir()
    as_it_is, _ = run_import(tmp_path / "as it is", {"star": folder / "empiar_10076_7.star"})
    assert [warning["code"] for warning in as_it_is["warnings"]].count("dark_images") == 1
    order = np.argsort(b.stack_index)
    for name in ("image_uid", "grey_gain", "grey_offset", "half"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[order])
    raw = StackReader(a.stacks[0].path).read(a.stack_index)
    assert (a.grey_gain[:, None, None] * (raw - a.grey_offset[:, None, None]))[:, inside_circle(320, 38)].mean() > 0.05


def test_a_signal_stops_an_import_after_the_block_at_hand_and_resume_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_data_set(tmp_path, plain_rows(4), noise_images(4))
    read = StackReader.read

    def read_then_signal(self: StackReader, indices: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGUSR1)
        return read(self, indices)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="from the beginning"):
        patch.setattr(StackReader, "read", read_then_signal)
        run_job(JOB, {"star": table}, {}, RunOptions(tmp_path / "imported"))
    assert {path.name for path in (tmp_path / "imported").iterdir()} == {"settings.yaml", "log.jsonl"}
    assert run_job(JOB, {"star": table}, {}, RunOptions(tmp_path / "imported", resume=True))["rows_out"] == 4
