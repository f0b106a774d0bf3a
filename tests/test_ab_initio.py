"""ab-initio: the particle found from random poses, with and without symmetry, the same bits on any number of ranks, and bad input."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.errors import InputError
from protomer.formats.hdf5 import read_any_volume, read_map_record, read_particles, write_particles
from protomer.maps.fsc_curves import first_crossing
from protomer.simulation.dataset import SimulatedData, simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.truth import pose_errors, truth_fsc
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.symmetry.point_groups import operators
from reconstructions import as_particles
from refinement_runs import protomer, running, values
from simulated import chain_model, symmetric_model

BOX, PIXEL_A, NUMBER = 32, 4.5, 240
QUICK = [word for pair in ("starts=2", "batch_first=64", "batch_last=64", "final_resolution=18") for word in ("--set", pair)]


def write_images(folder: Path, data: SimulatedData) -> None:
    """folder/particles.h5, without poses."""
    particles = as_particles(data, folder).with_columns(rotation=np.tile([0.0, 0.0, 0.0, 1.0], (len(data.images), 1)),
                                                        shift_A=np.zeros((len(data.images), 2)))
    write_particles(folder / "particles.h5", replace(particles, has_poses=False))


def words_of(folder: Path, *more: object) -> list[object]:
    return ["ab-initio", "--particles", folder / "particles.h5", *QUICK, *more]


def resolution_A(folder: Path, data: SimulatedData, group: str) -> float:
    """Where the FSC of class 1 with the truth falls below 0.5."""
    found = read_particles(folder / "particles.h5")
    errors = pose_errors(found.rotation, found.shift_A, data.truth.rotation, data.truth.shift_A, operators(group), both_hands=True)
    curve = truth_fsc(read_any_volume(folder / "class_1/volume.h5"), data.volume, errors.frame)
    print(f"{group}: median error {np.median(errors.angle_deg):.1f} deg, FSC {curve[1:12].round(2)}")
    return float(BOX * PIXEL_A / first_crossing(curve, 0.5))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A particle without symmetry."""
    folder = tmp_path_factory.mktemp("found")
    write_images(folder, asymmetric())
    protomer(*words_of(folder), "--output", folder / "out")
    return folder


def asymmetric() -> SimulatedData:
    return simulate_dataset(chain_model(), SimulationDesign(NUMBER, BOX, PIXEL_A, 0.8, seed=7))


def test_a_particle_is_found_from_random_poses(found: Path) -> None:
    assert resolution_A(found / "out", asymmetric(), "C1") < 21.0


def test_a_particle_of_d2_symmetry_is_found_on_its_axes(tmp_path: Path) -> None:
    data = simulate_dataset(symmetric_model("D2", residues=150, radius_A=24.0), SimulationDesign(240, BOX, PIXEL_A, 0.8, seed=8))
    write_images(tmp_path, data)
    protomer(*words_of(tmp_path, "--symmetry", "D2", "--set", "starts=3"), "--output", tmp_path / "out")
    assert resolution_A(tmp_path / "out", data, "D2") < 21.0
    volume = read_any_volume(tmp_path / "out/class_1/volume.h5").data
    turned = volume[1:, :0:-1, :0:-1]  # about z, of the voxels that have a mate
    assert np.corrcoef(volume[1:, 1:, 1:].ravel(), turned.ravel())[0, 1] > 0.99


def test_nothing_is_lost_halves_stay_and_no_resolution_is_claimed(found: Path) -> None:
    given, after = read_particles(found / "particles.h5"), read_particles(found / "out/particles.h5")
    np.testing.assert_array_equal(after.image_uid, given.image_uid)
    np.testing.assert_array_equal(after.half, given.half)
    assert after.has_poses and set(after.class_number) == {1} and np.all(after.class_posterior > 0.99)
    summary = json.loads((found / "out/summary.json").read_text())
    assert summary["particles_in"] == summary["particles_out"] == NUMBER and summary["resolution_A"] is None
    assert summary["starts"] and len(summary["starts"]) == 2
    page = (found / "out/report.html").read_text()
    assert "Viewing directions of the images in this class." in page and "no half maps" in page and "attempt" in page


def test_its_volume_has_no_half_maps_which_jobs_that_need_them_say(found: Path) -> None:
    with pytest.raises(InputError, match="no half maps") as refused:
        read_map_record(found / "out/class_1/volume.h5")
    assert "protomer refine" in str(refused.value)


def test_refine_takes_what_it_leaves(found: Path) -> None:
    done = protomer("refine", "--particles", found / "out", "--volume", found / "out/class_1", "--output", found / "refined", "--dry-run")
    assert "memory" in done.stdout and read_any_volume(found / "out/class_1/volume.h5").box == BOX


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of few images, on one rank."""
    folder = tmp_path_factory.mktemp("small")
    write_images(folder, simulate_dataset(chain_model(), SimulationDesign(100, 24, 6.0, 0.8, seed=9)))
    protomer(*two_classes(folder), "--output", folder / "one")
    return folder


def two_classes(folder: Path) -> list[object]:
    sets = ("starts=1", "classes=2", "final_resolution=20", "batch_first=32", "batch_last=32")
    return words_of(folder, *(word for entry in sets for word in ("--set", entry)))


def same(first: Path, second: Path) -> bool:
    one, two = values(first / "particles.h5"), values(second / "particles.h5")
    maps = [values(folder / f"class_{k}/volume.h5")["map"] for folder in (first, second) for k in (1, 2)]
    return one == two and maps[:2] == maps[2:]


@pytest.mark.slow
def test_three_ranks_give_the_same_bits(small: Path) -> None:
    protomer(*two_classes(small), "--output", small / "three", ranks=3)
    assert same(small / "one", small / "three")


def test_a_run_that_was_stopped_and_one_that_was_killed_end_in_the_same_bits(small: Path) -> None:
    words = [*two_classes(small), "--output", small / "stopped"]
    with running(words, small / "stopped") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=200) == 75
    with running([*words, "--resume"], small / "stopped") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=200)
    protomer(*words, "--resume")
    assert same(small / "one", small / "stopped")


def test_classes_of_one_structure_are_said_to_be_or_to_be_empty(small: Path) -> None:
    summary = json.loads((small / "one/summary.json").read_text())
    assert sum(c["images"] for c in summary["classes"]) == 100
    assert abs(sum(c["fraction"] for c in summary["classes"]) - 1) < 1e-3


def refused(folder: Path, *more: object) -> str:
    """What is said where the command ends with 2."""
    result = protomer(*words_of(folder, *more), "--output", folder / "refused", check=False)
    assert result.returncode == 2 and not (folder / "refused").exists(), result.stderr
    return result.stderr


def test_bad_input_is_refused_with_its_remedy(small: Path, tmp_path: Path) -> None:
    assert "at least 32 for each class" in refused(small, "--set", "classes=4")
    assert "unknown point group" in refused(small, "--symmetry", "X7")
    assert "no detail finer than two pixels" in refused(small, "--set", "final_resolution=9")
    assert "a final one that is finer" in refused(small, "--set", "final_resolution=40")
    group = operators("C2")
    copies = expanded(read_particles(small / "one/particles.h5"), OperatorSet("C2", group, np.zeros((2, 3))))
    write_particles(tmp_path / "particles.h5", copies)
    assert "symmetry-expanded" in refused(tmp_path)


def test_the_plan_grows_with_classes_and_too_many_are_refused_before_the_start(small: Path) -> None:
    from protomer.abinitio.setting_up import require_memory

    plans = [protomer(*words_of(small, "--set", f"classes={k}"), "--output", small / "plan", "--dry-run").stdout for k in (1, 2)]
    assert plans[0] != plans[1] and "2 class(es)" in plans[1]
    with pytest.raises(InputError, match="fewer classes"):
        require_memory(10**18, 100, 1)
