"""The job select: what each criterion keeps, counts, order, copies, halves, pictures, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protomer.config.chain import parse_chain
from protomer.declarations.select import JOB
from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles, write_particles
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.symmetry.expansion import expanded, one_row_per_image
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particle_matching import row_keys, rows_of, turns_rad
from protomer.tables.particles import COLUMNS, Particles
from refinement_runs import protomer
from test_symmetry_expand import images, warned

NUMBER = 300


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are drawn in the test of the report alone: they take most of a run's time."""
    if "report" not in request.node.name:
        monkeypatch.setattr("protomer.jobs.select.report_of", lambda *_: "")


def classified(number: int = NUMBER) -> Particles:
    """Images of three classes and two optics groups, with probabilities, likelihoods and defoci of their own."""
    random, particles = np.random.default_rng(12), images(number)
    defocus_A = random.uniform(8e3, 3e4, number)
    columns = {"class_number": random.integers(1, 4, number), "class_posterior": random.uniform(0.3, 1, number),
               "pose_posterior": random.uniform(0, 1, number), "log_likelihood": random.normal(0, 50, number),
               "defocus_u_A": defocus_A + 100, "defocus_v_A": defocus_A - 100, "optics": np.arange(number) % 2}
    one = particles.optics_groups[0]
    return replace(particles.with_columns(**columns), optics_groups=(replace(one, name="grid1_a"), replace(one, name="grid2_a")))


def select(folder: Path, particles: Particles, inputs: dict[str, Any] | None = None, **settings: Any) -> tuple[Particles, dict[str, Any]]:
    """Run the job in folder/out on a table; what it kept, and its summary."""
    write_particles(folder / "particles.h5", particles)
    given = {"particles": str(folder / "particles.h5"), **(inputs or {})}
    summary = run_job(JOB, given, settings, RunOptions(folder / "out", overwrite=True, threads=1))
    return read_particles(folder / "out/particles.h5"), summary


def assert_rows(found: Particles, given: Particles, rows: np.ndarray) -> None:
    """That a table is these rows of another, bit for bit and in their order."""
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    for name in COLUMNS:
        np.testing.assert_array_equal(found.columns[name], given.columns[name][rows], err_msg=name)
    for name in given.extra:
        np.testing.assert_array_equal(found.extra[name], given.extra[name][rows], err_msg=name)
    assert (found.optics_groups, found.stacks, found.has_poses) == (given.optics_groups, given.stacks, given.has_poses)


@pytest.mark.parametrize(("asked", "passes"), [
    ({"class": "1,3"}, lambda p: p.class_number != 2),
    ({"class": ["1", "3"]}, lambda p: p.class_number != 2),
    ({"class": "2-3"}, lambda p: p.class_number >= 2),
    ({"min_posterior": 0.8}, lambda p: p.class_posterior >= 0.8),
    ({"min_pose_posterior": "0.5"}, lambda p: p.pose_posterior >= 0.5),
    ({"half": "b"}, lambda p: p.half == 1),
    ({"optics": "grid2*"}, lambda p: p.optics == 1),
    ({"micrograph": "mic_1?.mrc,mic_2.mrc"}, lambda p: np.isin(np.arange(NUMBER) // 9, [2, *range(10, 20)])),
    ({"defocus_min": "10000A", "defocus_max": 20000}, lambda p: abs((p.defocus_u_A + p.defocus_v_A) / 2 - 15000) <= 5000),
    ({"min_log_likelihood": -20, "max_log_likelihood": 60}, lambda p: (p.log_likelihood >= -20) & (p.log_likelihood <= 60)),
    ({"keep_best": 0.25}, lambda p: p.log_likelihood >= np.sort(p.log_likelihood)[-75]),
])
def test_a_criterion_keeps_the_rows_that_pass_it_in_their_order_and_the_rest_is_all_others(tmp_path: Path, asked: dict[str, Any],
                                                                                          passes: Any) -> None:
    given, inputs = classified(), {name: value for name, value in asked.items() if name == "class"}
    kept, summary = select(tmp_path, given, inputs, **{name: value for name, value in asked.items() if name != "class"})
    expected = passes(given)
    assert 0 < expected.sum() < NUMBER
    assert_rows(kept, given, expected)
    assert_rows(read_particles(tmp_path / "out/rest.h5"), given, ~expected)
    dropped = sum(criterion["failed_in_order"] for criterion in summary["criteria"])
    assert (summary["rows_in"], summary["rows_out"], dropped) == (NUMBER, expected.sum(), (~expected).sum())


def test_criteria_are_combined_by_and_and_say_what_each_drops_alone_and_in_order(tmp_path: Path) -> None:
    given = classified()
    kept, summary = select(tmp_path, given, {"class": "1"}, min_posterior=0.6, defocus_max=15000.0, keep_best=0.5)
    of_class, sure = given.class_number == 1, given.class_posterior >= 0.6
    near = given.defocus_u_A / 2 + given.defocus_v_A / 2 <= 15000
    all_three = of_class & sure & near
    threshold = np.sort(given.log_likelihood[all_three])[-round(all_three.sum() / 2)]
    assert_rows(kept, given, all_three & (given.log_likelihood >= threshold))
    found = [(c["name"], c["drops_alone"], c["failed_in_order"]) for c in summary["criteria"]]
    assert found == [("class", (~of_class).sum(), (~of_class).sum()), ("min_posterior", (~sure).sum(), (of_class & ~sure).sum()),
                     ("defocus", (~near).sum(), (of_class & sure & ~near).sum()),
                     ("keep_best", NUMBER // 2, all_three.sum() - round(all_three.sum() / 2))]
    assert summary["rows_dropped"] == sum(in_order for _, _, in_order in found)
    events = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert next(event for event in events if event["event"] == "selected")["rows_out"] == len(kept)


def test_inverted_the_same_criteria_keep_what_they_dropped(tmp_path: Path) -> None:
    given = classified()
    straight, _ = select(tmp_path, given, {"class": "1"}, min_posterior=0.6, number=20)
    inverted, summary = select(tmp_path, given, {"class": "1"}, min_posterior=0.6, number=20, invert=True, rest=False)
    assert_rows(inverted, given, ~np.isin(given.image_uid, straight.image_uid))
    assert len(inverted) == NUMBER - 20 == sum(c["failed_in_order"] for c in summary["criteria"])
    assert not (tmp_path / "out/rest.h5").exists()


def test_a_random_subset_is_the_same_images_for_any_order_of_rows_and_part_of_a_larger_one(tmp_path: Path) -> None:
    given = classified()
    order = np.random.default_rng(2).permutation(NUMBER)
    uids = {name: set(select(tmp_path, table, number=number, seed=seed)[0].image_uid.tolist())
            for name, table, number, seed in (("one", given, 40, 3), ("shuffled", given.take(order), 40, 3), ("larger", given, 90, 3),
                                              ("other seed", given, 40, 4))}
    assert len(uids["one"]) == 40 and uids["shuffled"] == uids["one"] and uids["one"] < uids["larger"]
    assert len(uids["one"] & uids["other seed"]) < 15


def test_the_best_rows_are_the_same_for_any_order_of_rows_where_likelihoods_are_equal(tmp_path: Path) -> None:
    given = classified()
    given = given.with_columns(log_likelihood=np.round(given.log_likelihood / 60))
    order = np.random.default_rng(2).permutation(NUMBER)
    one, shuffled = (select(tmp_path, table, keep_best=0.37)[0] for table in (given, given.take(order)))
    assert set(one.image_uid.tolist()) == set(shuffled.image_uid.tolist()) and len(one) == round(0.37 * NUMBER)


def test_pose_changes_are_those_of_scipy_and_rows_are_matched_by_image_whatever_their_order(tmp_path: Path) -> None:
    given, random = classified(), np.random.default_rng(5)
    turn = Rotation.from_rotvec(np.deg2rad(random.uniform(0, 20, (NUMBER, 1))) * np.array([[0.6, 0.0, 0.8]]))
    before = given.with_columns(rotation=(turn * Rotation.from_quat(given.rotation)).as_quat() * random.choice([-1, 1], (NUMBER, 1)),
                                shift_A=given.shift_A + random.uniform(-4, 4, (NUMBER, 2)))
    write_particles(tmp_path / "before.h5", before.take(random.permutation(NUMBER)[:200]))
    there = np.isin(given.image_uid, read_particles(tmp_path / "before.h5").image_uid)
    kept, summary = select(tmp_path, given, {"reference": str(tmp_path / "before.h5")}, max_rotation_change="8deg", max_shift_change=3)
    expected = there & (np.rad2deg(turn.magnitude()) <= 8) & (np.linalg.norm(before.shift_A - given.shift_A, axis=1) <= 3)
    assert_rows(kept, given, expected)
    assert warned(summary) >= {"not_in_reference"}


def test_a_rotation_that_went_to_a_symmetry_mate_has_not_changed() -> None:
    group = OperatorSet.of_group("D3").rotations
    rotation = Rotation.random(50, random_state=1)
    mates = Rotation.from_matrix(group[np.arange(50) % 6]) * rotation
    tiny = Rotation.from_rotvec([0, 1e-6, 0])
    np.testing.assert_allclose(turns_rad(rotation.as_quat(), (tiny * mates).as_quat(), group), 1e-6, rtol=1e-6)
    plain = turns_rad(rotation.as_quat(), mates.as_quat(), group[:1])
    np.testing.assert_allclose(plain, (mates * rotation.inv()).magnitude(), atol=1e-9)
    assert plain.max() > 2


def test_other_sets_are_matched_by_image_or_by_image_and_copy(tmp_path: Path) -> None:
    copies = expanded(images(20), OperatorSet.of_group("C3"))
    write_particles(tmp_path / "some.h5", images(20).take(np.arange(5)))
    write_particles(tmp_path / "a_copy.h5", copies.take(np.array([4])))
    some, a_copy = str(tmp_path / "some.h5"), str(tmp_path / "a_copy.h5")
    assert_rows(select(tmp_path, copies, {"with": some})[0], copies, np.arange(15))
    assert_rows(select(tmp_path, copies, {"with": some, "without": (a_copy,)})[0], copies, np.delete(np.arange(15), 4))
    assert_rows(select(tmp_path, copies, {"without": (a_copy, some)}, match="image")[0], copies, np.arange(15, 60))
    assert_rows(select(tmp_path, copies, {"with": some}, match="copy")[0], copies, np.arange(0, 15, 3))


def test_keys_of_rows_are_equal_exactly_where_image_and_copy_are() -> None:
    plain, copies = images(7), expanded(images(7).take(np.arange(3)), OperatorSet.of_group("C2"))
    by_image, by_copy = row_keys([plain, copies], False), row_keys([plain, copies], True)
    np.testing.assert_array_equal(rows_of(by_image[1], by_image[0]), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(rows_of(by_copy[1], by_copy[0]), [0, -1, 1, -1, 2, -1])
    assert len(np.unique(np.concatenate(by_copy))) == 7 + 3
    np.testing.assert_array_equal(rows_of(by_image[1], by_image[0][:0]), [-1] * 6)


def test_a_part_of_an_expanded_set_keeps_its_operators_says_so_and_can_still_be_undone(tmp_path: Path) -> None:
    copies = expanded(images(40), OperatorSet.of_group("D2"))
    best = copies.with_columns(log_likelihood=np.random.default_rng(1).normal(size=160))
    kept, summary = select(tmp_path, best, keep_best=0.5)
    assert warned(summary) >= {"incomplete_copies"} and kept.operators.name == "D2" and len(kept.operators) == 4
    rows = one_row_per_image(kept, "best")
    uid, highest = best.image_uid, dict.fromkeys(kept.image_uid.tolist(), -np.inf)
    for image, value in zip(uid.tolist(), best.log_likelihood.tolist(), strict=True):
        if image in highest:
            highest[image] = max(highest[image], value)
    assert {image: kept.log_likelihood[row] for image, row in zip(kept.image_uid[rows].tolist(), rows, strict=True)} == highest
    _, whole = select(tmp_path, copies, number=10)
    assert "incomplete_copies" not in warned(whole) and whole["rows_out"] == 40


def test_of_copies_a_random_subset_takes_images_with_all_copies_that_passed(tmp_path: Path) -> None:
    copies = expanded(images(40), OperatorSet.of_group("C4"))
    kept, _ = select(tmp_path, copies, copy="0,2-3", number=10)
    assert len(kept) == 30 and set(kept.columns["copy"].tolist()) == {0, 2, 3}
    assert (np.unique(kept.image_uid, return_counts=True)[1] == 3).all()


def test_halves_stay_and_unequal_or_missing_ones_are_warned_of(tmp_path: Path) -> None:
    given = classified()
    lopsided = given.with_columns(class_number=np.where(given.half == 1, 2, np.arange(NUMBER) % 5 + 1))
    kept, summary = select(tmp_path, lopsided, {"class": "2"})
    np.testing.assert_array_equal(kept.half, given.half[np.isin(given.image_uid, kept.image_uid)])
    assert warned(summary) >= {"unequal_halves", "few_particles"}
    assert summary["halves"] == {"a": (kept.half == 0).sum(), "b": (kept.half == 1).sum()}
    assert warned(select(tmp_path, given, half="a")[1]) == {"one_half"}


def test_the_report_has_a_row_for_each_criterion_a_line_at_each_threshold_and_views_before_and_after(tmp_path: Path) -> None:
    _, summary = select(tmp_path, classified(), {"class": "1,2"}, min_posterior=0.61, defocus_max=23456)
    text = (tmp_path / "out/report.html").read_text()
    for said in ("class 1,2", "0.61", "23456", "log-likelihood", "Before: 300 rows", f"After: {summary['rows_out']} rows"):
        assert said in text
    assert text.count("<svg") == 6  # two thresholds, pose posterior and likelihood, views twice


@pytest.mark.parametrize(("inputs", "settings", "found"), [
    ({}, {}, "no criterion"),
    ({"class": "7"}, {}, "no row has class 7"),
    ({"class": "1.5"}, {}, "class '1.5'"),
    ({"class": "3-1"}, {}, "class 3-1"),
    ({}, {"copy": "2"}, "no row has copy 2"),
    ({}, {"optics": "grid3*"}, "no optics is called 'grid3*'"),
    ({}, {"micrograph": "nothing"}, "no micrograph is called"),
    ({}, {"defocus_min": 9, "defocus_max": 8}, "defocus from 9 to 8"),
    ({}, {"defocus_min": "3mm"}, "unit"),
    ({}, {"max_rotation_change": 5}, "no --reference"),
    ({"reference": "particles.h5"}, {}, "nothing that is compared"),
    ({"symmetry": "D2"}, {"half": "a"}, "no largest change of rotation"),
    ({"reference": "particles.h5", "symmetry": "Q9"}, {"max_rotation_change": 5}, "Q9"),
    ({"with": "strangers.h5"}, {}, "shares no image"),
    ({"reference": "strangers.h5"}, {"max_shift_change": 5}, "shares no image"),
    ({}, {"number": 301}, "the set has 300 images"),
    ({}, {"keep_best": 0}, "keep_best = 0"),
    ({"class": "1"}, {"min_posterior": 1.0, "defocus_max": 1}, "no row passes all criteria: class (class 1) dropped"),
    ({}, {"number": 300, "invert": True}, "inverted nothing is left"),
    ({}, {"half": "1"}, "setting half"),
    ({}, {"duplicate_copies": True}, "duplicate_copies without min_distance"),
    ({}, {"micrograph_pixel_size": 1.0}, "micrograph_pixel_size without min_distance"),
    ({}, {"one_per_image": "best"}, "not symmetry-expanded"),
    ({}, {"one_per_image": "best", "invert": True}, "one_per_image with invert"),
    ({}, {"one_per_image": "worst"}, "setting one_per_image"),
    ({}, {"min_distance": "-3A"}, "min_distance"),
    ({}, {"rebalance": True, "crowding": 0}, "crowding"),
])
def test_what_cannot_be_meant_is_refused_and_nothing_is_left_behind(tmp_path: Path, inputs: dict[str, str], settings: dict[str, Any],
                                                                    found: str) -> None:
    strangers = images(9)
    write_particles(tmp_path / "strangers.h5", strangers.with_columns(image_uid=np.arange(9) + 10**9))
    write_particles(tmp_path / "particles.h5", classified())
    paths = {name: str(tmp_path / value) if value.endswith(".h5") else value for name, value in inputs.items()}
    with pytest.raises(InputError) as error:
        select(tmp_path, classified(), paths, **settings)
    assert found in str(error.value) and not (tmp_path / "out").exists()


def test_columns_that_no_job_has_filled_cannot_be_selected_by(tmp_path: Path) -> None:
    bare = images(30).with_columns(log_likelihood=np.zeros(30), class_posterior=np.ones(30))
    with pytest.raises(InputError, match="no row has a class"):
        select(tmp_path, bare, {"class": "1"})
    with pytest.raises(InputError, match="every row has 0"):
        select(tmp_path, bare, keep_best=0.5)
    kept, summary = select(tmp_path, bare, min_posterior=0.5)
    assert len(kept) == 30 and "posterior_unknown" in warned(summary)
    with pytest.raises(InputError, match="no poses"):
        select(tmp_path, replace(bare, has_poses=False), {"reference": str(tmp_path / "particles.h5")}, max_shift_change=1)
    with pytest.raises(InputError, match="has no rows"):
        select(tmp_path, bare.take(np.arange(0)), half="a")


def test_a_chain_selects_classes_from_a_list_and_the_command_line_says_the_same(tmp_path: Path) -> None:
    write_particles(tmp_path / "p.h5", classified())
    chain = parse_chain({"jobs": {"good": {"job": "select", "particles": "p.h5", "class": [1, 3], "settings": {"min_posterior": 0.5}},
                                  "bad": {"job": "select", "particles": "good/rest.h5", "number": 9}}}, tmp_path)
    words = {step.name: step.arguments() for step in chain.steps}
    assert words["good"][-4:] == ["--class", "1,3", "--set", "min_posterior=0.5"]
    assert Path("good/rest.h5") in chain.outputs["good"]
    protomer(*words["good"][:2], tmp_path / "good", *(tmp_path / w if w == "p.h5" else w for w in words["good"][3:]))
    given, kept = classified(), read_particles(tmp_path / "good/particles.h5")
    assert_rows(kept, given, (given.class_number != 2) & (given.class_posterior >= 0.5))
    config = tmp_path / "again.yaml"
    config.write_text(f"particles: {tmp_path}/p.h5\nclass: 1\nmin_posterior: 0.5\n")
    protomer("select", "--config", config, "--output", tmp_path / "again")
    assert_rows(read_particles(tmp_path / "again/particles.h5"), given, (given.class_number == 1) & (given.class_posterior >= 0.5))


def test_a_plan_reads_the_table_and_writes_nothing(tmp_path: Path) -> None:
    write_particles(tmp_path / "p.h5", classified())
    plan = plan_job(JOB, {"particles": str(tmp_path / "p.h5"), "class": "1"}, {}, 1, 1)
    assert plan.memory_bytes > 2e8 and sorted(path.name for path in tmp_path.iterdir()) == ["p.h5"]
