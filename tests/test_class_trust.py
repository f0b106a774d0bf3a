"""How far classes may be believed: reliability of posteriors, stability over seeds, and classes found first in some of the images."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest

from protomer.classes.first_images import first_images
from protomer.classes.reliability import Reliability, drawn_classes
from protomer.classes.replicates import relabelled, stability
from protomer.declarations.classify import ClassifySettings
from protomer.formats.hdf5 import read_particles
from protomer.jobs.classify import first_rows
from protomer.simulation.dataset import simulate_dataset
from protomer.simulation.draws import SimulationDesign
from reconstructions import as_particles
from refinement_runs import protomer, running, values
from simulated import chain_model
from two_states import mixed, write_files

NUMBER, SNR = 240, 0.8


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two states among the same volume twice, from two seeds, first in half of the images."""
    folder = tmp_path_factory.mktemp("trust")
    write_files(folder, *mixed(NUMBER, SNR, 0.0, 0.5))
    protomer(*words(folder), "--output", folder / "out")
    return folder


def words(folder: Path, *more: str) -> list[object]:
    """The command line."""
    volumes = ["--volume", folder / "state1.mrc", "--volume", folder / "state2.mrc"]
    sets = ["final_iterations=0", "class_change=0.2", "replicates=2", "batch_per_class=60", *more]
    return ["classify", "--particles", folder / "particles.h5", *volumes, *(word for each in sets for word in ("--set", each))]


@pytest.mark.slow
def test_stated_posteriors_are_right_as_often_as_they_say(repeated: Path) -> None:
    summary = json.loads((repeated / "out/summary.json").read_text())
    truth, found = mixed(NUMBER, SNR, 0.0, 0.5)[0].truth, read_particles(repeated / "out/particles.h5")
    right = float(np.mean(found.class_number == truth.class_number))
    print(f"stated {summary['mean_posterior']}, right {right:.3f}, rehearsed {summary['rehearsed']}")
    assert abs(summary["mean_posterior"] - right) < 0.1
    assert abs(summary["rehearsed"]["posterior"] - summary["rehearsed"]["right"]) < 0.12
    assert "How sure the classes are" in (repeated / "out/report.html").read_text()


def test_each_image_has_the_share_of_other_seeds_that_agree(repeated: Path) -> None:
    rows = list(csv.DictReader((repeated / "out/classes.csv").open()))
    shares = np.array([float(row["stability"]) for row in rows])
    summary = json.loads((repeated / "out/summary.json").read_text())
    assert len(rows) == NUMBER and set(np.unique(shares)) <= {0.0, 1.0}
    assert summary["stability"] == pytest.approx(shares.mean(), abs=1e-3) and shares.mean() > 0.65


def test_classes_are_found_in_some_images_before_all_and_the_log_says_so(repeated: Path) -> None:
    events = [json.loads(line) for line in (repeated / "out/log.jsonl").read_text().splitlines()]
    sizes = [event["images"] for event in events if event["event"] == "iteration"]
    assert 80 < sizes[0] < 160 and sizes[-1] == NUMBER
    assert [event["event"] for event in events].count("first_images_settled") == 2, "in each replicate"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_killed_in_its_second_replicate_ends_in_the_same_bits(tmp_path: Path) -> None:
    write_files(tmp_path, *mixed(200, SNR, 0.0, 0.5))
    few, output = words(tmp_path, "batch_per_class=50", "rehearse=off"), tmp_path / "killed"
    protomer(*few, "--output", tmp_path / "out")
    with running([*few, "--output", output], output) as process:
        while process.poll() is None and read(output).count("first_images_settled") < 2:
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert not (output / "summary.json").exists()
    assert read(output).count("first_images_settled") == 2
    protomer(*few, "--output", output, "--resume")
    assert values(output / "particles.h5") == values(tmp_path / "out/particles.h5")


def read(output: Path) -> str:
    """The log so far."""
    return (output / "log.jsonl").read_text() if (output / "log.jsonl").exists() else ""


def test_labels_of_another_run_are_put_in_the_order_of_this_one() -> None:
    posterior = np.eye(3)[[0, 0, 1, 2, 2]]
    other = posterior[:, [2, 0, 1]]
    np.testing.assert_array_equal(relabelled(posterior, other), posterior)
    moved = other.copy()
    moved[0] = moved[2]
    np.testing.assert_allclose(stability(posterior, [other, moved]), [0.5, 1, 1, 1, 1])


def test_the_first_images_are_few_only_where_there_are_many(tmp_path: Path) -> None:
    particles = as_particles(simulate_dataset(chain_model(), SimulationDesign(1000, 16, 9.0, 0.1)), tmp_path)
    assert first_images(particles, 2, None, 0) is None and first_images(particles, 2, 300, 0) is None
    rows = first_images(particles, 2, 50, 0)
    assert rows is not None and 60 < len(rows) < 140 and np.all(np.diff(rows) > 0)
    other = first_images(particles, 2, 50, 1)
    assert other is not None and not np.array_equal(rows, other)


def test_images_too_few_for_the_folds_of_all_are_not_begun_with(tmp_path: Path) -> None:
    particles = as_particles(simulate_dataset(chain_model(), SimulationDesign(200, 16, 9.0, 0.1)), tmp_path)
    found = [first_rows(particles, 2, ClassifySettings(batch_per_class=wanted)) for wanted in (20, 50)]
    assert first_images(particles, 2, 20, 0) is not None and found[0] is None and found[1] is not None


def test_the_curve_of_a_calibrated_method_is_the_diagonal() -> None:
    random = np.random.default_rng(0)
    stated = random.uniform(0.5, 1.0, 20_000)
    found = Reliability(stated, random.random(20_000) < stated)
    mean, right, number = found.curve()
    assert number.sum() == 20_000 and np.abs(mean - right).max() < 0.03 and abs(found.mean_stated - found.share_right) < 0.01


def test_classes_are_drawn_by_their_posteriors() -> None:
    posterior = np.tile([0.1, 0.6, 0.2], (30_000, 1))
    share = np.bincount(drawn_classes(posterior, np.random.default_rng(1).random(30_000))) / 30_000
    np.testing.assert_allclose(share, np.array([0.1, 0.6, 0.2]) / 0.9, atol=0.01)
