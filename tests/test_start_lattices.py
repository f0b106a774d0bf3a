"""Start lattices of a helical refinement: which are tried, how they are scored, and what is said of those that look alike."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.errors import SettingsError
from protomer.formats.hdf5 import read_particles
from protomer.helical.lattice import Lattice, Winding
from protomer.helical.start_lattice import StartLattice, described, ends_of, lead, shared_pitch_A, warn_of_starts
from protomer.helical.starts import Starts, are_tried, chosen_rows, filament_numbers, spaced, starts_of
from protomer.helical.trials import Scores, kept, load, save
from protomer.maps.volumes import Volume
from protomer.running.checkpoints import Checkpoint
from protomer.running.events import Events
from protomer.running.ranks import Team
from refinement_runs import environment, protomer, values

TWIST_DEG, RISE_A = 100.0, 18.0
ASKED = HelicalRefineSettings(helical_twist=96.0, helical_rise=18.2)
WINDING = Winding((90.0, 102.0), (16.4, 20.0), 0.5, 70.0)
GIVEN = Lattice(96.0, 18.2)


def test_start_lattices_lie_about_the_given_one_as_far_as_the_ranges_go_and_no_farther_apart_than_asked() -> None:
    starts = starts_of(replace(ASKED, start_detail=16.0), WINDING, GIVEN, 224.0)
    assert starts.twists_deg == pytest.approx([90, 93, 96, 99, 102]) and starts.rises_A == pytest.approx([16.4, 17.3, 18.2, 19.1, 20.0])
    subunits = 0.25 * 224 / 18.2
    assert subunits * np.deg2rad(3.0) * 70 < 16 < subunits * np.deg2rad(6.0) * 70
    assert starts.lattices[7].tolist() == [93.0, 18.2] and len(starts) == 25
    assert spaced(5.0, 4.0, 7.0, 1.6) == pytest.approx([4, 5, 6, 7])
    near = starts.winding(WINDING, Lattice(90.0, 19.1))
    assert near.twist_deg[0] == 90.0 and 90 < near.twist_deg[1] < 102 and near.rise_A[0] > 16.4 and near.rise_A[1] == 20.0


def test_too_many_start_lattices_and_contradicting_settings_are_refused_with_a_remedy() -> None:
    with pytest.raises(SettingsError, match="at most 400") as caught:
        starts_of(replace(ASKED, start_detail=16.0, start_twist_step=0.1, start_rise_step=0.05), WINDING, GIVEN, 224.0)
    assert "narrow twist_range or rise_range" in str(caught.value)
    with pytest.raises(SettingsError, match="refine_lattice off"):
        are_tried(replace(ASKED, start_lattices="many", refine_lattice=False), True)
    assert are_tried(ASKED, False) and not are_tried(ASKED, True) and are_tried(replace(ASKED, start_lattices="many"), True)
    assert not are_tried(replace(ASKED, start_lattices="one"), False) and not are_tried(replace(ASKED, refine_lattice=False), False)


def test_a_lead_has_the_standard_error_of_filaments_not_of_images() -> None:
    random = np.random.default_rng(0)
    filament = np.repeat(np.arange(50), 4)
    leads = [lead(np.repeat(random.normal(1.0, 2.0, 50), 4), np.zeros(200), filament) for _ in range(200)]
    assert np.mean([found for found, _ in leads]) == pytest.approx(1.0, abs=0.1)
    assert np.mean([sd for _, sd in leads]) == pytest.approx(2.0 / np.sqrt(50), rel=0.05)


def tried(log_odds: np.ndarray, ends: np.ndarray) -> Scores:
    first = log_odds.mean(axis=1)
    return Scores(np.where(np.isnan(first), -50.0, first), ends, log_odds, np.zeros((4, 4, 4), np.float32))


def test_starts_that_end_together_are_one_lattice_and_rivals_that_images_do_not_tell_are_warned_of() -> None:
    random, filament = np.random.default_rng(1), np.repeat(np.arange(20), 5)
    hard = random.normal(0, 20, 100)  # how hard an image is, the same for all lattices
    level = np.array([60.0, 30.0, 58.8, 59.2, np.nan])
    log_odds = level[:, None] + hard + random.normal(0, 3, (5, 100))
    ends = np.array([[100.0, 18.0], [95.0, 16.5], [100.1, 18.02], [94.0, 20.0], [np.nan, np.nan]])
    found = ends_of(tried(log_odds, ends), filament, 16.0, WINDING, 224.0)
    assert [end.starts for end in found] == [2, 1, 1] and found[0].what == "the best"
    assert found[0].twist_deg == pytest.approx(100, abs=0.2) and found[1].twist_deg == 94.0 and "-6." in found[1].what
    assert found[2].behind == pytest.approx(30, abs=2) and found[2].behind_sd < 1.0
    assert found[0].spread == pytest.approx(1.2, abs=1.0) and found[1].spread == 0.0
    starts = Starts(np.linspace(90, 102, 5), np.linspace(16.4, 20, 5), (4.5, 1.35), 16.0)
    chosen = StartLattice(Lattice(100.0, 18.0), found, starts, tried(log_odds, ends), Volume(np.zeros((4, 4, 4), np.float32), 7.0), 100)
    events = Events(None)
    warn_of_starts(chosen, {"twist": WINDING.twist_deg, "rise": WINDING.rise_A}, events)
    assert [w["code"] for w in events.warnings] == ["start_lattice_not_told"] and "94.00° and 20.00 Å" in events.warnings[0]["text"]
    assert chosen.summary()["is_told"] is False and chosen.rivals == [found[1]]
    scattered = replace(chosen, ends=[replace(found[0], spread=35.0), *found[1:]])
    assert len(scattered.rivals) == 2  # scores of one lattice differ by more than its lead
    alone = replace(chosen, ends=[replace(end, starts=1) for end in found])
    assert len(alone.rivals) == 2  # and where no two starts end together, nothing says by how much
    edge = replace(chosen, ends=[replace(found[0], twist_deg=101.9), found[2]])
    events = Events(None)
    warn_of_starts(edge, {"twist": WINDING.twist_deg, "rise": WINDING.rise_A}, events)
    assert [w["code"] for w in events.warnings] == ["start_lattice_at_edge"] and "widen twist_range" in events.warnings[0]["text"]


def test_a_lattice_with_the_same_helix_and_another_number_of_subunits_in_a_turn_is_named() -> None:
    best, other = Lattice(-162.255, 9.15), Lattice(-152.32, 9.61)
    pitch_A = shared_pitch_A(other, best)
    assert pitch_A == pytest.approx(360 * 9.15 / (360 - 162.255), abs=0.01)
    assert f"pitch {pitch_A:.1f} Å" in described(other, best, 1)
    assert shared_pitch_A(Lattice(-156.3, 8.24), best) is None


def test_the_best_third_is_refined_longer_and_scores_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    scores = Scores.none(9, 3)
    assert scores.left() == (False, list(range(9)))
    first = np.array([1.0, 7, 3, 9, 2, 8, 0, 5, 4])
    assert kept(first) == [3, 5, 1, 7]
    half_done = replace(scores, first=first, ends=np.where(np.arange(9)[:, None] == 5, 1.0, np.nan))
    assert half_done.left() == (True, [3, 1, 7])
    checkpoint = Checkpoint(tmp_path / "checkpoint_starts.h5", "this run", Team())
    assert load(checkpoint) is None
    save(half_done, checkpoint)
    back = load(checkpoint)
    assert back is not None and all(np.array_equal(getattr(back, n), getattr(half_done, n), equal_nan=True) for n in ("first", "ends"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fibre of haemoglobin, its tilts known, in 24 filaments of 4 segments each."""
    folder = tmp_path_factory.mktemp("starts")
    design = {"number": 96, "box": 32, "pixel_size": "7A", "snr": 0.4, "symmetry_radius": "40A", "helical_twist": TWIST_DEG,
              "helical_rise": RISE_A, "filament_segments": 4, "segment_step": "54A", "max_shift": "5A", "tilt_spread": 0, "prior_error": 1,
              "seed": 3}
    protomer("simulate", "--model", "5ni1", "--output", folder / "simulated",
             *(word for name, value in design.items() for word in ("--set", f"{name}={value}")))
    protomer("import", "--star", folder / "simulated/particles.star", "--set", "split_by=filament", "--output", folder / "imported")
    return folder


def test_whole_filaments_are_chosen_as_many_of_each_half(data: Path) -> None:
    particles = read_particles(data / "imported/particles.h5")
    rows = chosen_rows(particles, 40, 0)
    chosen, filament = particles.take(rows), filament_numbers(particles)
    assert np.bincount(chosen.half).tolist() == [20, 20] and np.all(np.bincount(filament[rows])[np.unique(filament[rows])] == 4)
    turned = particles.take(np.arange(96)[::-1])
    assert set(turned.take(chosen_rows(turned, 40, 0)).image_uid.tolist()) == set(chosen.image_uid.tolist())
    assert set(chosen_rows(particles, 10_000, 0).tolist()) == set(range(96))


def words_of(data: Path, output: Path) -> list[object]:
    asked = {"helical_twist": "96deg", "helical_rise": "18.2A", "outer_diameter": "140A", "start_detail": "16A", "twist_range": "5deg",
             "rise_range": "1A", "start_twist_step": "5deg", "start_rise_step": "1A", "start_images": 48, "start_passes": 5,
             "tilt_prior": "1deg", "psi_prior": "3deg", "cross_fit_folds": 1, "rehearse": "off"}
    return ["helical-refine", "--particles", data / "imported", "--output", output,
            *(word for name, value in asked.items() for word in ("--set", f"{name}={value}"))]


@pytest.fixture(scope="module")
def refined(data: Path) -> Path:
    protomer(*words_of(data, data / "one"))
    return data / "one"


@pytest.mark.slow
def test_from_a_cylinder_4_degrees_off_the_right_lattice_is_found_and_told_from_the_others(refined: Path) -> None:
    said = json.loads((refined / "summary.json").read_text())
    print({name: said[name] for name in ("twist_deg", "rise_A", "resolution_A", "seconds", "start_lattices")})
    assert said["twist_deg"] == pytest.approx(TWIST_DEG, abs=0.15) and said["rise_A"] == pytest.approx(RISE_A, abs=0.15)
    told = said["start_lattices"]
    assert told["is_told"] and told["tried"] == 9 and told["refined"] == 4 and told["ends"][0]["log_odds"] > 0
    assert "start_lattice_not_told" not in {w["code"] for w in said["warnings"]}
    page = (refined / "report.html").read_text()
    assert "Start lattices" in page and "log odds of an unseen image" in page
    assert not list(refined.glob("checkpoint*"))


@pytest.mark.slow
def test_killed_among_start_lattices_on_2_ranks_and_resumed_on_one_it_ends_in_the_same_bits(data: Path, refined: Path) -> None:
    output = data / "killed"
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
    command = [*launcher, sys.executable, "-m", "protomer", *map(str, words_of(data, output)), "--threads", "1"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while process.poll() is None and not (output / "checkpoint_starts.h5").exists():
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    for child in [*psutil.Process(process.pid).children(recursive=True), process]:
        child.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert not (output / "checkpoint.h5").exists()
    protomer(*words_of(data, output), "--resume")
    one, other = values(refined / "particles.h5"), values(output / "particles.h5")
    assert one.keys() == other.keys() and all(one[name] == other[name] for name in one)
    assert (refined / "helix.yaml").read_text() == (output / "helix.yaml").read_text()
    assert json.loads((refined / "summary.json").read_text())["start_lattices"] == json.loads(
        (output / "summary.json").read_text())["start_lattices"]


def test_the_plan_says_what_is_tried_and_what_it_takes(data: Path, tmp_path: Path) -> None:
    many = protomer(*words_of(data, tmp_path / "out"), "--dry-run").stdout
    assert "9 start lattices are tried first on about 48 images down to 16 Å: 3 twists from 91 to 101°, 3 rises from 17.2 to 19.2 Å" in many
    one = protomer(*words_of(data, tmp_path / "out"), "--set", "start_lattices=one", "--dry-run").stdout
    assert "start lattices" not in one
