"""The job join: what select took apart comes together, stacks, optics groups and columns are united, and what is no one set is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.declarations.join import JOB
from protomer.errors import InputError
from protomer.formats.cs import read_cs_particles, write_cs_particles
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.formats.star import read_star_particles, write_star_particles
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.subtraction.table import BEFORE, ORIGINAL, subtracted
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import COLUMNS, Particles, Stack
from protomer.tables.shared_columns import SharedColumns
from refinement_runs import environment
from stack_files import noise_images, plain_rows, write_data_set
from test_select import classified, select
from test_symmetry_expand import images, warned


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are drawn in the test of the report alone."""
    if "report" not in request.node.name:
        monkeypatch.setattr("protomer.jobs.join.report_of", lambda *_: "")
        monkeypatch.setattr("protomer.jobs.select.report_of", lambda *_: "")


def join(folder: Path, *tables: Particles | Path, **settings: Any) -> tuple[Particles, dict[str, Any]]:
    """Run the job in folder/joined on tables or files; what it made, and its summary."""
    paths = []
    for number, table in enumerate(tables):
        paths.append(table if isinstance(table, Path) else folder / f"set_{number}.h5")
        if isinstance(table, Particles):
            write_particles(paths[-1], table)
    summary = run_job(JOB, {"particles": tuple(map(str, paths))}, settings, RunOptions(folder / "joined", overwrite=True, threads=1))
    return read_particles(folder / "joined/particles.h5"), summary


def assert_same_rows(a: Particles, b: Particles) -> None:
    """That two tables have the same rows, bit for bit, up to their order, and the same beside them."""
    order = [np.lexsort((table.columns["copy"], table.image_uid)) for table in (a, b)]
    assert len(a) == len(b) and list(a.extra) == list(b.extra)
    for name in COLUMNS:
        np.testing.assert_array_equal(a.columns[name][order[0]], b.columns[name][order[1]], err_msg=name)
    for name in a.extra:
        np.testing.assert_array_equal(a.extra[name][order[0]], b.extra[name][order[1]], err_msg=name)
    assert (a.optics_groups, a.stacks, a.has_poses) == (b.optics_groups, b.stacks, b.has_poses)
    assert a.operators.name == b.operators.name
    np.testing.assert_array_equal(a.operators.rotations, b.operators.rotations)


def renamed(particles: Particles, start: int, **stack: Any) -> Particles:
    """Other images: of another stack, with other identities."""
    uid = particles.image_uid + np.uint64(start)
    return replace(particles.with_columns(image_uid=uid), stacks=(replace(particles.stacks[0], path=f"{start}.mrcs", **stack),))


@pytest.mark.parametrize("asked", [{"half": "a"}, {"class": "2"}, {"number": 50}])
def test_what_select_took_apart_comes_together_bit_for_bit(tmp_path: Path, asked: dict[str, Any]) -> None:
    given, inputs = classified(), {name: value for name, value in asked.items() if name == "class"}
    select(tmp_path, given, inputs, **{name: value for name, value in asked.items() if name != "class"})
    together, summary = join(tmp_path, tmp_path / "out/particles.h5", tmp_path / "out/rest.h5")
    assert_same_rows(together, given)
    assert (summary["rows_in"], summary["rows_out"], summary["rows_dropped"]) == (300, 300, 0)
    given_sets = together.provenance["inputs"]["particles"]
    assert len(given_sets) == 2 and all("sha256" in each for each in given_sets)


def test_copies_that_were_taken_apart_come_together_and_share_what_their_images_have_in_common(tmp_path: Path) -> None:
    copies = expanded(images(30), OperatorSet.of_group("D3"))
    select(tmp_path, copies, copy="0-2")
    together, _ = join(tmp_path, tmp_path / "out/particles.h5", tmp_path / "out/rest.h5")
    assert_same_rows(together, copies)
    assert isinstance(together.columns, SharedColumns) and len(together.columns.shared["defocus_u_A"]) == 30
    select(tmp_path, copies, copy="0")
    assert_same_rows(join(tmp_path, tmp_path / "out/particles.h5", tmp_path / "out/rest.h5")[0], copies)


def test_an_image_of_which_two_sets_say_different_things_is_not_taken_for_one(tmp_path: Path) -> None:
    copies = expanded(images(6), OperatorSet.of_group("C2"))
    first, second = (copies.take(np.flatnonzero(copies.columns["copy"] == number)) for number in (0, 1))
    assert isinstance(second.columns, SharedColumns)
    other = {**second.columns.shared, "scale": second.columns.shared["scale"] + np.array([0, 0, 1, 0, 0, 0])}
    together, _ = join(tmp_path, first, replace(second, columns=SharedColumns(second.columns.own, other, second.columns.image_row)))
    np.testing.assert_array_equal(together.scale, [*copies.scale[::2], *other["scale"]])
    np.testing.assert_array_equal(together.image_uid, np.tile(copies.image_uid[::2], 2))


def test_copies_held_in_full_and_copies_that_share_are_joined(tmp_path: Path) -> None:
    sharing = expanded(images(10), OperatorSet.of_group("C2"))
    full = renamed(sharing, 1000)
    full = replace(full, columns={name: full.columns[name] for name in COLUMNS}, extra={name: full.extra[name] for name in full.extra})
    together, _ = join(tmp_path, sharing, full)
    for name in set(COLUMNS) - {"stack"}:
        np.testing.assert_array_equal(together.columns[name], np.concatenate([sharing.columns[name], full.columns[name]]), err_msg=name)
    np.testing.assert_array_equal(together.extra["rlnGroupName"], np.tile(sharing.extra["rlnGroupName"], 2))


def test_stacks_and_optics_groups_that_are_the_same_become_one_and_others_get_names_of_their_own(tmp_path: Path) -> None:
    one, two = images(10), renamed(images(10), 1000)
    other = replace(one.optics_groups[0], amplitude_contrast=0.07)
    two = replace(two.with_columns(optics=np.arange(10) % 2, stack=np.arange(10) % 2), optics_groups=(other, one.optics_groups[0]),
                  stacks=(two.stacks[0], one.stacks[0]))
    together, summary = join(tmp_path, one, two)
    assert [group.name for group in together.optics_groups] == ["one", "one_2"] == summary["optics_groups"]
    assert [group.amplitude_contrast for group in together.optics_groups] == [0.1, 0.07]
    np.testing.assert_array_equal(together.optics, [*np.zeros(10), *(np.arange(10) + 1) % 2])
    assert [stack.path for stack in together.stacks] == ["a.mrcs", "1000.mrcs"]
    np.testing.assert_array_equal(together.stack, [*np.zeros(10), *(np.arange(10) + 1) % 2])
    assert warned(summary) >= {"optics_renamed"}


def test_columns_are_united_and_what_a_set_lacks_is_filled_and_said(tmp_path: Path) -> None:
    one, two = images(4), renamed(images(4), 1000)
    extra_one = {"rlnNumber": np.array([b"1.5", b"2", b"3", b"4"]), "rlnText": np.array([b"x"] * 4), "same": np.array([b"a"] * 4)}
    extra_two = {"same": np.array([b"longer"] * 4), "measured": np.arange(4.0), "counted": np.arange(4)}
    together, summary = join(tmp_path, replace(one, extra=extra_one), replace(two, extra=extra_two))
    assert together.extra["rlnNumber"].tolist() == [b"1.5", b"2", b"3", b"4", *[b"0"] * 4]
    assert together.extra["rlnText"].tolist() == [b"x"] * 4 + [b"None"] * 4
    assert together.extra["same"].tolist() == [b"a"] * 4 + [b"longer"] * 4
    np.testing.assert_array_equal(together.extra["measured"], [*[np.nan] * 4, 0, 1, 2, 3])
    np.testing.assert_array_equal(together.extra["counted"], [0, 0, 0, 0, 0, 1, 2, 3])
    assert set(summary["filled_columns"]) == {"rlnNumber", "rlnText", "measured", "counted"} and warned(summary) >= {"filled_columns"}


def posed(folder: Path, seed: int) -> Particles:
    """A STAR file of images on disk, with poses, as it is read."""
    folder.mkdir()
    angles = Rotation.random(8, random_state=seed).as_euler("ZYZ", degrees=True)
    rows = [{**row, "rlnAngleRot": a, "rlnAngleTilt": b, "rlnAnglePsi": c, "rlnOriginXAngst": seed, "rlnOriginYAngst": -1}
            for row, (a, b, c) in zip(plain_rows(8), angles, strict=True)]
    return read_star_particles(write_data_set(folder, rows, noise_images(8, seed=seed)))


def test_sets_from_star_and_from_cs_are_joined_and_exported_to_both_as_they_were(tmp_path: Path) -> None:
    star, other = posed(tmp_path / "a", 1), posed(tmp_path / "b", 2)
    write_cs_particles(tmp_path / "other.cs", other)
    cs = read_cs_particles(tmp_path / "other.cs")
    for first, second in ((star, cs), (cs, star)):
        together, _ = join(tmp_path, first, second)
        write_star_particles(tmp_path / "out.star", together)
        write_cs_particles(tmp_path / "out.cs", together)
        for again in (read_star_particles(tmp_path / "out.star"), read_cs_particles(tmp_path / "out.cs")):
            np.testing.assert_array_equal(again.image_uid, together.image_uid)
            np.testing.assert_array_equal(again.half, together.half)
            np.testing.assert_allclose(again.shift_A, together.shift_A, atol=1e-5)
            np.testing.assert_allclose(again.defocus_u_A, together.defocus_u_A, rtol=1e-6)
            turn = Rotation.from_quat(again.rotation) * Rotation.from_quat(together.rotation).inv()
            assert turn.magnitude().max() < 1e-5
            assert {group.voltage_V for group in again.optics_groups} == {3e5}


def test_rows_of_relion_3_0_beside_others_are_exported_with_an_optics_table_that_says_what_each_group_has(tmp_path: Path) -> None:
    plain, other = posed(tmp_path / "a", 1), posed(tmp_path / "b", 2)
    old = {name: np.array([text] * 8) for name, text in (("rlnVoltage", b"300"), ("rlnMagnification", b"5000"), ("rlnMine", b"7"))}
    old |= {name: plain.extra[name] for name in plain.extra if name != "rlnOpticsGroup"}
    group = replace(plain.optics_groups[0], name="aberrated", odd_zernike=(0.0, 0.0, 0.5, 0.0, 0.0, 0.25), beam_tilt_rad=(1e-3, 0.0),
                    magnification=(1.01, 0.0, 0.0, 0.99))
    together, _ = join(tmp_path, replace(plain, extra=old), replace(other, optics_groups=(group,)))
    write_star_particles(tmp_path / "out.star", together)
    again = read_star_particles(tmp_path / "out.star")
    assert "data_optics" in (tmp_path / "out.star").read_text() and again.extra["rlnMine"].tolist() == [b"7"] * 8 + [b"0"] * 8
    for name in ("odd_zernike", "beam_tilt_rad", "magnification", "pixel_size_A", "voltage_V"):
        assert [getattr(g, name) for g in again.optics_groups] == [getattr(g, name) for g in together.optics_groups], name
    np.testing.assert_array_equal(again.shift_A, together.shift_A)


def test_duplicates_are_refused_or_the_first_or_the_best_row_is_kept(tmp_path: Path) -> None:
    one = images(10)
    likelihood = one.log_likelihood[4:] + np.array([1, -1, 1, -1, np.nan, 0])
    two = one.take(np.arange(4, 10)).with_columns(log_likelihood=likelihood, scale=np.ones(6))
    with pytest.raises(InputError, match=r"6 rows repeat an image of another row, most of them in .*set_1"):
        join(tmp_path, one, two)
    first, summary = join(tmp_path, one, two, duplicates="first")
    assert_same_rows(first, one)
    assert [each["duplicates_dropped"] for each in summary["sets"]] == [0, 6] and summary["rows_dropped"] == 6
    best, summary = join(tmp_path, one, two, duplicates="best")
    assert sorted(best.image_uid[best.scale == 1].tolist()) == sorted(one.image_uid[[4, 6]].tolist()) and len(best) == 10
    assert [each["duplicates_dropped"] for each in summary["sets"]] == [2, 4]
    with pytest.raises(InputError, match="have the same log-likelihood"):
        join(tmp_path, *(table.with_columns(log_likelihood=np.zeros(len(table))) for table in (one, two)), duplicates="best")


def test_an_image_that_changed_its_half_is_refused_whatever_is_kept(tmp_path: Path) -> None:
    one = images(10)
    two = one.with_columns(half=np.where(np.arange(10) == 3, 1 - one.half, one.half))
    for duplicates in ("refuse", "first", "best"):
        with pytest.raises(InputError, match=r"(?s)1 images are in one half-set in .*set_0.* no gold standard"):
            join(tmp_path, one, two, duplicates=duplicates)
    assert not (tmp_path / "joined").exists()


def test_copies_are_not_joined_with_images_nor_with_copies_of_other_operators(tmp_path: Path) -> None:
    one, copies = images(10), expanded(images(10), OperatorSet.of_group("C2"))
    with pytest.raises(InputError, match=r"set_1.h5 is symmetry-expanded, and .*set_0.h5 is not"):
        join(tmp_path, one, copies)
    with pytest.raises(InputError, match="expanded under C2"):
        join(tmp_path, copies, renamed(expanded(images(10), OperatorSet.of_group("C3")), 1000))
    with pytest.raises(InputError, match="or about other axes"):
        join(tmp_path, copies, renamed(replace(copies, operators=copies.operators.moved(np.eye(3), np.array([1.0, 0, 0]))), 1000))


def test_subtracted_images_are_not_joined_with_whole_ones_and_keep_the_way_back(tmp_path: Path) -> None:
    one, number = images(10), 10
    lost = subtracted(one, (Stack("new.mrcs", 10, 32, 1, 1, "ff"),), np.zeros(number, np.int32), np.arange(number), np.zeros((number, 2)))
    with pytest.raises(InputError, match="something was subtracted"):
        join(tmp_path, lost, renamed(one, 1000))
    select(tmp_path, lost, half="a")
    together, _ = join(tmp_path, tmp_path / "out/rest.h5", tmp_path / "out/particles.h5")
    assert_same_rows(together, lost)
    assert "a.mrcs" in [stack.path for stack in together.stacks] and {ORIGINAL, BEFORE} <= set(together.extra)


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    one, two = images(10), renamed(images(10), 1000)
    with pytest.raises(InputError, match="another file when the particles of"):
        join(tmp_path, one, replace(two, stacks=(replace(one.stacks[0], digest="00"),)))
    touched, _ = join(tmp_path, one, replace(two, stacks=(replace(one.stacks[0], mtime_ns=5),)))
    assert len(touched.stacks) == 1


def test_images_of_other_boxes_missing_poses_other_frames_and_missing_halves_are_said(tmp_path: Path) -> None:
    one, two = images(40), renamed(images(40), 1000)
    larger = replace(two, optics_groups=(OpticsGroup("large", 3e5, 2.7e7, 0.1, 1.5, 64),))
    assert warned(join(tmp_path, one, larger)[1]) >= {"different_images"}
    together, summary = join(tmp_path, one, replace(two, has_poses=False))
    assert warned(summary) >= {"poses_missing"} and not together.has_poses
    turned = one.with_columns(rotation=(Rotation.from_rotvec([0, 0, 0.5]) * Rotation.from_quat(one.rotation)).as_quat())
    assert warned(join(tmp_path, one, turned, duplicates="first")[1]) >= {"other_frame"}
    assert "other_frame" not in warned(join(tmp_path, one, one, duplicates="first")[1])
    with pytest.raises(InputError, match="has a half-set for every row"):
        join(tmp_path, one, two.with_columns(half=np.full(40, -1)))
    assert warned(join(tmp_path, one.take(np.flatnonzero(one.half == 1)), two.take(np.flatnonzero(two.half == 1)))[1]) == {"one_half"}


def test_columns_of_other_shapes_and_fewer_than_two_sets_are_refused(tmp_path: Path) -> None:
    one, two = images(5), renamed(images(5), 1000)
    with pytest.raises(InputError, match="the column wide has rows of the shapes"):
        join(tmp_path, replace(one, extra={"wide": np.zeros((5, 2))}), replace(two, extra={"wide": np.zeros((5, 3))}))
    for alone in ((one,), ()):
        with pytest.raises(InputError):
            join(tmp_path, *alone)
    mixed, _ = join(tmp_path, replace(one, extra={"id": np.arange(5, dtype="u8") + 2**63}), replace(two, extra={"id": -np.arange(5)}))
    assert mixed.extra["id"].tolist()[0] == b"9223372036854775808" and mixed.extra["id"].tolist()[-1] == b"-4"


def test_the_report_names_every_set(tmp_path: Path) -> None:
    join(tmp_path, images(40), renamed(images(30), 1000))
    text = (tmp_path / "joined/report.html").read_text()
    assert "set_0.h5" in text and "set_1.h5" in text and "Viewing directions" in text and text.count("<svg") == 1


def test_a_plan_reads_the_tables_and_writes_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_particles(tmp_path / f"{name}.h5", images(9))
    plan = plan_job(JOB, {"particles": (str(tmp_path / "a.h5"), str(tmp_path / "b.h5"))}, {}, 1, 1)
    assert plan.disk_bytes > 0 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_chain_takes_classes_apart_and_puts_them_together(tmp_path: Path) -> None:
    write_particles(tmp_path / "p.h5", classified())
    steps = ("together: {job: join, particles: [good, good/rest.h5]}",
             "good: {job: select, particles: p.h5, class: [1, 3], min_posterior: 0.4}",
             "both: {job: select, particles: p.h5, with: [good, together], without: good/rest.h5, half: a}")
    (tmp_path / "chain.yaml").write_text("jobs:\n" + "".join(f"  {step}\n" for step in steps))
    protomer_run(tmp_path / "chain.yaml", tmp_path / "out")
    assert_same_rows(read_particles(tmp_path / "out/together/particles.h5"), classified())
    good = select(tmp_path / "out/good", classified(), {"class": "1,3"}, min_posterior=0.4, half="a")[0]
    assert_same_rows(read_particles(tmp_path / "out/both/particles.h5"), good)


def protomer_run(chain: Path, folder: Path) -> None:
    """The chain, by Snakemake."""
    subprocess.run([sys.executable, "-m", "protomer", "run", str(chain), "--folder", str(folder)], env=environment(), check=True,
                   capture_output=True, timeout=200)
