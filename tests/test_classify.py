"""classify: two states told apart, junk drawn off, the same bits on any number of ranks and after a kill, and bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from protomer.config.chain import parse_chain
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.maps.volumes import Volume
from refinement_runs import killed_and_resumed, protomer, values
from two_states import BOX, PIXEL_A, SHARE_OF_SECOND, mixed, posterior_by_bayes, write_files

NUMBER, SNR, JUNK = 360, 0.8, 0.15
QUICK = ["--set", "final_iterations=0", "--set", "class_change=0.2"]
START_SHELL = BOX * PIXEL_A / 20.0


def classify_words(folder: Path, *volumes: object) -> list[object]:
    """The command line of a classification of write_files's particles."""
    return ["classify", "--particles", folder / "particles.h5", *(word for volume in volumes for word in ("--volume", volume)), *QUICK]


@pytest.fixture(scope="module")
def sorted_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two states and junk among two volumes and a decoy."""
    folder = tmp_path_factory.mktemp("states")
    data, maps = mixed(NUMBER, SNR, JUNK)
    write_files(folder, data, maps)
    protomer(*classify_words(folder, folder / "state1.mrc", folder / "state2.mrc", "sphere:70"), "--set", "rehearse=off", "--output",
             folder / "out")
    return folder


def test_states_are_told_apart_nearly_as_well_as_the_true_maps_tell_them(sorted_states: Path) -> None:
    data, maps = mixed(NUMBER, SNR, JUNK)
    truth, found = data.truth, read_particles(sorted_states / "out/particles.h5")
    real = truth.junk == 0
    best = posterior_by_bayes(data, maps, (1 - SHARE_OF_SECOND, SHARE_OF_SECOND))[real]
    limit = float(np.mean(best.argmax(axis=1) + 1 == truth.class_number[real]))
    right = float(np.mean(found.class_number[real] == truth.class_number[real]))
    print(f"right {right:.3f}; by the true maps {limit:.3f}")
    # 45 images of the smaller state in each half: no map of theirs tells as much as the true one
    assert limit > 0.97 and right > 0.82


def test_images_of_noise_are_drawn_off_and_class_sizes_are_right(sorted_states: Path) -> None:
    truth, found = mixed(NUMBER, SNR, JUNK)[0].truth, read_particles(sorted_states / "out/particles.h5")
    real, in_states = truth.junk == 0, np.isin(found.class_number, (1, 2))
    print(f"noise in states {in_states[truth.junk == 1].mean():.3f}, debris {in_states[truth.junk == 2].mean():.3f}")
    assert np.mean(in_states[truth.junk == 1]) < 0.1 and np.mean(~in_states[real]) < 0.1
    share = np.mean(found.class_number[in_states & real] == 2)
    assert abs(share - SHARE_OF_SECOND) < 0.15  # of so few images the smaller class loses some to the larger one: 0.20 in place of 0.30


def test_nothing_is_lost_and_each_class_has_its_folder(sorted_states: Path) -> None:
    summary, given = json.loads((sorted_states / "out/summary.json").read_text()), read_particles(sorted_states / "particles.h5")
    found = read_particles(sorted_states / "out/particles.h5")
    np.testing.assert_array_equal(found.image_uid, given.image_uid)
    np.testing.assert_array_equal(found.half, given.half)
    assert found.has_poses and summary["particles_in"] == summary["particles_out"] == NUMBER
    assert sum(c["images"] for c in summary["classes"]) + summary["images_of_none"] == NUMBER
    for k in (1, 2, 3):
        record = read_map_record(sorted_states / f"out/class_{k}/volume.h5")
        assert record.map.box == BOX and (sorted_states / f"out/class_{k}/half_a.mrc").exists()
    with (sorted_states / "out/classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    posterior = np.array([[float(row[name]) for name in ("class_1", "class_2", "class_3", "none")] for row in rows])
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0, atol=1e-4)
    np.testing.assert_array_equal(np.append(np.arange(1, 4), 0)[posterior.argmax(axis=1)], found.class_number)
    np.testing.assert_allclose(posterior.max(axis=1), found.class_posterior, atol=1e-4)
    page = (sorted_states / "out/report.html").read_text()
    assert "Class flow" in page and "lost to decoys" in page and "Viewing directions of the images in this class." in page


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few images of one state: the same volume twice, and noise."""
    folder = tmp_path_factory.mktemp("small")
    data, maps = mixed(120, 0.5, 0.0, 0.0)
    write_files(folder, data, maps)
    protomer(*small_words(folder), "--output", folder / "one")
    return folder


def test_a_decoy_is_a_word_in_a_chain(small: Path) -> None:
    volumes = ["state1.mrc", "sphere:120", f"phase-randomised:{small / 'state1.mrc'}"]
    (step,) = parse_chain({"jobs": {"sorted": {"job": "classify", "particles": "particles.h5", "volume": volumes}}}, small).steps
    words = step.arguments()
    assert [words[n + 1] for n, word in enumerate(words) if word == "--volume"] == [str(small / "state1.mrc"), *volumes[1:]]
    assert step.paths == [small / "particles.h5", small / "state1.mrc"]


def small_words(folder: Path) -> list[object]:
    return [*classify_words(folder, folder / "state1.mrc", folder / "state1.mrc", "noise"), "--set", "random_iterations=2"]


@pytest.mark.slow
def test_two_ranks_give_the_same_bits(small: Path) -> None:
    protomer(*small_words(small), "--output", small / "two", ranks=2)
    one, two = values(small / "one/particles.h5"), values(small / "two/particles.h5")
    assert one.keys() == two.keys() and all(one[name] == two[name] for name in one)
    for name in ("class_1/half_a.mrc", "class_2/map.mrc", "class_3/half_b.mrc"):
        assert np.array_equal(read_volume(small / "one" / name).data, read_volume(small / "two" / name).data)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_in_the_same_bits_after_resume(small: Path) -> None:
    killed_and_resumed(small_words(small), small / "killed")
    one, killed = values(small / "one/particles.h5"), values(small / "killed/particles.h5")
    assert all(one[name] == killed[name] for name in one)
    assert (small / "one/classes.csv").read_text() == (small / "killed/classes.csv").read_text()


def test_of_one_structure_given_twice_the_posterior_says_that_it_does_not_know(small: Path) -> None:
    with (small / "one/classes.csv").open() as file:
        posterior = np.array([[float(row["class_1"]), float(row["class_2"])] for row in csv.DictReader(file)])
    among = posterior.max(axis=1) / posterior.sum(axis=1)
    larger = float(posterior.mean(axis=0).max() / posterior.mean(axis=0).sum())  # how the two share the images is arbitrary
    print(f"mean posterior of the likelier of two classes that are the same: {among.mean():.3f}; the larger has {larger:.3f}")
    assert among.mean() < larger + 0.05 and larger < 0.85


def test_a_class_of_noise_has_no_fsc_beyond_the_start(tmp_path: Path) -> None:
    data, maps = mixed(96, 0.0)
    write_files(tmp_path, data, maps)
    for number, volume in enumerate(maps, 1):
        write_volume(tmp_path / f"state{number}.mrc", Volume(volume.data, PIXEL_A))
    done = protomer(*classify_words(tmp_path, tmp_path / "state1.mrc", "noise"), "--output", tmp_path / "out")
    for k in (1, 2):
        fsc = read_map_record(tmp_path / f"out/class_{k}/volume.h5").fsc
        if fsc is not None:
            assert fsc.shell_at("spherical", 0.143) <= START_SHELL + 3
            assert abs(np.mean(fsc.spherical[int(START_SHELL) + 4:])) < 0.1
    assert "do not believe the map" in done.stderr or "tell these classes apart" in done.stderr


def refused(folder: Path, *volumes: object) -> str:
    """What is said where the command ends with 2, whether it is a dry run or not."""
    words = [*classify_words(folder, *volumes), "--output", folder / "refused"]
    result, dry = protomer(*words, check=False), protomer(*words, "--dry-run", check=False)
    assert result.returncode == dry.returncode == 2 and not (folder / "refused").exists(), result.stderr
    assert dry.stderr in result.stderr
    return result.stderr


def test_bad_input_is_refused_with_its_remedy(small: Path) -> None:
    good = small / "state1.mrc"
    assert "protomer refine" in refused(small, good)
    assert "sphere:DIAMETER" in refused(small, good, "sphere:wide")
    assert "sphere:DIAMETER" in refused(small, good, "shell:40,80")
    assert "phase-randomised" in refused(small, good, "phase-randomised:gone.mrc")
    assert "no such file" in refused(small, good, "spere:120")


def test_a_volume_of_another_box_is_resampled_and_said_and_the_plan_grows_with_the_classes(small: Path, tmp_path: Path) -> None:
    write_particles(tmp_path / "particles.h5", read_particles(small / "particles.h5").take(np.arange(40)))
    write_volume(tmp_path / "other.mrc", Volume(np.pad(read_volume(small / "state1.mrc").data, 4), PIXEL_A))
    done = protomer(*classify_words(tmp_path, small / "state1.mrc", tmp_path / "other.mrc"), "--output", tmp_path / "out", "--set",
                    "box=24")
    assert "40 voxels" in done.stderr and "24 voxels" in done.stderr
    assert read_map_record(tmp_path / "out/class_1/volume.h5").map.box == 24
    assert read_particles(tmp_path / "out/particles.h5").optics_groups[0].box == BOX
    plans = [protomer(*classify_words(tmp_path, *["noise"] * k), "--output", tmp_path / "plan", "--dry-run").stdout for k in (2, 6)]
    assert plans[0] != plans[1] and "6 classes" in plans[1]
