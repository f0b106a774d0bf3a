"""classify-fixed: states told apart at known poses and posteriors that can be believed; bits, resume, copies, bad input."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.catalogue import declaration
from protomer.errors import ProtomerError
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import sphere_mask
from reconstructions import as_particles
from refinement_runs import killed_and_resumed, protomer, values
from two_states import BOX, PIXEL_A, mixed

NUMBER, SNR, SECOND = 700, 0.6, 0.4
SMALL = 160


def write_posed(folder: Path, number: int, snr: float, second: float) -> np.ndarray:
    """folder/particles.h5 with the true poses, the true maps, and masks; the true classes."""
    data, maps = mixed(number, snr, 0.0, second)
    write_particles(folder / "particles.h5", as_particles(data, folder))
    for n, volume in enumerate(maps, 1):
        write_volume(folder / f"state{n}.mrc", volume)
    differs = np.abs(maps[1].data - maps[0].data)
    centre = np.array([np.average(np.arange(BOX), weights=differs.sum(axis=others)) for others in ((1, 2), (0, 2), (0, 1))])
    write_volume(folder / "focus.mrc", Volume(sphere_mask(BOX, 8.0, 4.0, tuple(centre)), PIXEL_A))
    return np.asarray(data.truth.class_number)


def words(folder: Path, *more: object) -> list[object]:
    return ["classify-fixed", "--particles", folder / "particles.h5", "--set", "target_resolution=9.6A", *more]


def right(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the images in their class, whichever of the two names it was given."""
    share = float(np.mean(found == true))
    return max(share, 1.0 - share)


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, dict[str, Any]]:
    """Two states: folder, true classes, summary."""
    folder = tmp_path_factory.mktemp("states")
    true = write_posed(folder, NUMBER, SNR, SECOND)
    protomer(*words(folder), "--output", folder / "out")
    return folder, true, json.loads((folder / "out/summary.json").read_text())


Ran = tuple[Path, np.ndarray, dict[str, Any]]


def test_states_are_told_apart_and_the_posterior_says_how_surely(told_apart: Ran) -> None:
    folder, true, said = told_apart
    found = read_particles(folder / "out/particles.h5")
    share = right(found.class_number, true)
    print(f"right {share:.3f}, stated {found.class_posterior.mean():.3f}, rehearsed {said['reliability']}")
    assert share > 0.85 and abs(found.class_posterior.mean() - share) < 0.06
    assert abs(said["reliability"]["right"] - share) < 0.08
    sure = found.class_posterior > 0.95
    assert sure.mean() > 0.2 and right(found.class_number[sure], true[sure]) > 0.93


def test_poses_stay_and_every_class_has_what_a_refinement_needs(told_apart: Ran) -> None:
    folder, _, said = told_apart
    given, found = read_particles(folder / "particles.h5"), read_particles(folder / "out/particles.h5")
    for name in ("image_uid", "half", "rotation", "shift_A"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    rows = [read_particles(folder / f"out/class_{k}/particles.h5") for k in (1, 2)]
    assert [len(part) for part in rows] == [c["images"] for c in said["classes"]] and sum(len(part) for part in rows) == NUMBER
    assert all(set(part.class_number) == {k} and part.has_poses for k, part in enumerate(rows, 1))
    for k in (1, 2):
        record = read_map_record(folder / f"out/class_{k}/volume.h5")
        assert record.map.box == BOX and record.fsc is not None and (folder / f"out/class_{k}/half_b.mrc").exists()
    with (folder / "out/classes.csv").open() as file:
        posterior = np.array([[float(row["class_1"]), float(row["class_2"])] for row in csv.DictReader(file)])
    np.testing.assert_array_equal(posterior.argmax(axis=1) + 1, found.class_number)
    page = (folder / "out/report.html").read_text()
    assert "Reliability of posteriors" in page and "differs by" in page and "Class flow" in page


def test_each_class_map_is_its_own_state(told_apart: Ran) -> None:
    folder, _, _ = told_apart
    true = [read_volume(folder / f"state{k}.mrc").data for k in (1, 2)]
    apart = low_pass(true[1] - true[0], BOX * PIXEL_A / 20.0, 2.0)
    halves = [read_map_record(folder / f"out/class_{k}/volume.h5").half_maps for k in (1, 2)]
    found = [low_pass(halves[1][half].data - halves[0][half].data, BOX * PIXEL_A / 20.0, 2.0) for half in (0, 1)]
    correlation = [float(np.corrcoef(each.ravel(), apart.ravel())[0, 1]) for each in found]
    print(f"difference of the states in either half: correlation {np.round(correlation, 3)}")
    assert min(np.abs(correlation)) > 0.5 and correlation[0] * correlation[1] > 0, "classes have one name in both halves"


def test_of_one_structure_the_posterior_says_that_it_does_not_know(tmp_path: Path) -> None:
    write_posed(tmp_path, 400, 0.3, 0.0)
    done = protomer(*words(tmp_path), "--output", tmp_path / "out")
    said = json.loads((tmp_path / "out/summary.json").read_text())
    print(said["mean_posterior"], said["chance"])
    assert said["mean_posterior"] < said["chance"] + 0.05 and said["mean_posterior"] < 0.65
    assert "do not tell these classes apart" in done.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few images in three blocks of online EM."""
    folder = tmp_path_factory.mktemp("small")
    write_posed(folder, SMALL, 1.5, SECOND)
    protomer(*small_words(folder), "--output", folder / "one")
    return folder


def small_words(folder: Path) -> list[object]:
    return words(folder, "--focus-mask", folder / "focus.mrc", "--set", "images_per_block=16", "--set", "epochs=2", "--set",
                 "cross_fit_folds=1", "--set", "class_change=0.1")


@pytest.mark.slow
def test_three_ranks_give_the_same_bits(small: Path) -> None:
    protomer(*small_words(small), "--output", small / "three", ranks=3)
    one, three = values(small / "one/particles.h5"), values(small / "three/particles.h5")
    assert one.keys() == three.keys() and all(one[name] == three[name] for name in one)
    for name in ("class_1/half_a.mrc", "class_2/map.mrc"):
        assert np.array_equal(read_volume(small / "one" / name).data, read_volume(small / "three" / name).data)


def test_a_run_that_was_killed_ends_in_the_same_bits_after_resume(small: Path) -> None:
    killed_and_resumed(small_words(small), small / "killed")
    one, killed = values(small / "one/particles.h5"), values(small / "killed/particles.h5")
    assert all(one[name] == killed[name] for name in one)
    assert (small / "one/classes.csv").read_text() == (small / "killed/classes.csv").read_text()


def test_given_volumes_keep_their_order_and_a_focus_mask_is_enough(small: Path) -> None:
    true = mixed(SMALL, 1.5, 0.0, SECOND)[0].truth.class_number
    protomer(*words(small, "--focus-mask", small / "focus.mrc", "--volume", small / "state1.mrc", "--volume", small / "state2.mrc", "--set",
                    "rehearse=off"), "--output", small / "given")
    found = read_particles(small / "given/particles.h5")
    print(f"right {np.mean(found.class_number == true):.3f}")
    assert np.mean(found.class_number == true) > 0.9


def test_copies_of_an_image_are_classified_one_by_one(small: Path, tmp_path: Path) -> None:
    protomer("symmetry-expand", "--particles", small / "particles.h5", "--symmetry", "C2", "--output", tmp_path / "copies")
    protomer("classify-fixed", "--particles", tmp_path / "copies", "--set", "start=random", "--set", "similarity=0.3", "--set", "epochs=2",
             "--set", "target_resolution=12A", "--output", tmp_path / "out")
    copies, found = read_particles(tmp_path / "copies/particles.h5"), read_particles(tmp_path / "out/particles.h5")
    np.testing.assert_array_equal(found.copy, copies.copy)
    assert len(found) == 2 * SMALL and found.is_expanded
    assert json.loads((tmp_path / "out/summary.json").read_text())["images"] == SMALL


def refused(folder: Path, settings: dict[str, Any], **inputs: Any) -> str:
    """What is said where the job is refused and leaves nothing."""
    given = {"particles": str(folder / "particles.h5"), **{name.replace("_", "-"): value for name, value in inputs.items()}}
    with pytest.raises(ProtomerError) as caught:
        run_job(declaration("classify-fixed"), given, settings, RunOptions(folder / "refused", threads=1))
    assert not (folder / "refused").exists()
    return str(caught.value)


def test_bad_input_is_refused_with_its_remedy(small: Path, tmp_path: Path) -> None:
    assert "protomer reconstruct" in refused(small, {"classes": 1})
    write_particles(tmp_path / "unposed.h5", replace(read_particles(small / "particles.h5"), has_poses=False))
    assert "protomer classify" in refused(small, {}, particles=str(tmp_path / "unposed.h5"))
    first = [str(small / "state1.mrc")]
    assert "start=pca" in refused(small, {}, volume=first)
    assert "volumes alone" in refused(small, {"start": "pca"}, volume=first)
    assert "all the same" in refused(small, {}, volume=first * 2)
    assert "as many as volumes" in refused(small, {"classes": 3}, volume=[*first, str(small / "state2.mrc")])
    write_volume(tmp_path / "nothing.mrc", Volume(np.zeros((BOX,) * 3, np.float32), PIXEL_A))
    assert "mask" in refused(small, {}, focus_mask=str(tmp_path / "nothing.mrc"))
    write_volume(tmp_path / "corner.mrc", Volume(sphere_mask(BOX, 3.0, 1.0, (3.0, 3.0, 3.0)), PIXEL_A))
    assert "focus mask" in refused(small, {}, focus_mask=str(tmp_path / "corner.mrc"))


def test_a_mask_of_another_box_is_resampled_and_said_and_the_plan_grows_with_the_classes(small: Path, tmp_path: Path) -> None:
    write_particles(tmp_path / "particles.h5", read_particles(small / "particles.h5").take(np.arange(60)))
    write_volume(tmp_path / "wide.mrc", Volume(np.pad(read_volume(small / "focus.mrc").data, 4), PIXEL_A))
    done = protomer("classify-fixed", "--particles", tmp_path / "particles.h5", "--focus-mask", tmp_path / "wide.mrc", "--set", "epochs=1",
                    "--set", "class_change=1", "--set", "final_passes=0", "--set", "rehearse=off", "--output", tmp_path / "out")
    assert "40 voxels" in done.stderr and "pixels can hold" in done.stderr
    plans = [protomer(*words(small, "--set", f"classes={k}"), "--output", tmp_path / "plan", "--dry-run").stdout for k in (2, 6)]
    assert plans[0] != plans[1] and "6 classes" in plans[1]
