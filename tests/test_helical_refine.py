"""helical-refine: twist, rise and poses of simulated filaments, bits on any number of ranks and after a kill, and what is refused."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume
from protomer.simulation.files import read_truth
from protomer.symmetry.point_groups import rotation_about
from protomer_kernels.rotations import matrices_from_quaternions
from protomer_kernels.shells import fourier_shell_correlation
from refinement_runs import protomer, running, values

TWIST_DEG, RISE_A = 100.0, 18.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fibre of haemoglobin in 24 filaments of 4 segments each."""
    folder = tmp_path_factory.mktemp("helix")
    design = {"number": 96, "box": 32, "pixel_size": "7A", "snr": 0.4, "symmetry_radius": "40A", "helical_twist": TWIST_DEG,
              "helical_rise": RISE_A, "filament_segments": 4, "segment_step": "54A", "max_shift": "5A", "seed": 3}
    protomer("simulate", "--model", "5ni1", "--output", folder / "simulated",
             *(word for name, value in design.items() for word in ("--set", f"{name}={value}")))
    protomer("import", "--star", folder / "simulated/particles.star", "--set", "split_by=filament", "--output", folder / "imported")
    return folder


def words_of(data: Path, output: Path, *more: str, twist: str = "96deg", rise: str = "18.2A") -> list[object]:
    return ["helical-refine", "--particles", data / "imported", "--volume", data / "simulated/start.mrc", "--output", output,
            "--set", "cross_fit_folds=1", "--set", f"helical_twist={twist}",
            "--set", f"helical_rise={rise}", *(word for pair in more for word in ("--set", pair))]


@pytest.fixture(scope="module")
def refined(data: Path) -> Path:
    protomer(*words_of(data, data / "one", "rehearse=off"))
    return data / "one"


@pytest.mark.slow
def test_twist_and_rise_are_found_from_4_degrees_and_a_fifth_of_an_angstrom_off(refined: Path) -> None:
    said = json.loads((refined / "summary.json").read_text())
    print({name: said[name] for name in ("twist_deg", "rise_A", "twist_sd_deg", "rise_sd_A", "self_correlation", "resolution_A")})
    assert said["twist_deg"] == pytest.approx(TWIST_DEG, abs=0.15) and said["rise_A"] == pytest.approx(RISE_A, abs=0.15)
    assert said["lattice_told"] and said["start_twist_deg"] == 96.0 and said["hand"] == "right"
    assert said["self_correlation_other_hand"] < 0.3 * said["self_correlation"]
    assert said["self_correlation"] > 0.7 * said["self_correlation_expected"]
    assert said["asymmetric_units_per_image"] == 6 and said["helical_order"] == 3
    assert {w["code"] for w in said["warnings"]}.isdisjoint({"lattice_not_told", "lattice_not_carried", "hand_not_told"})


def test_poses_are_the_true_ones_or_equivalent_along_the_helix_with_shifts_within_half_a_rise(data: Path, refined: Path) -> None:
    particles, truth = read_particles(refined / "particles.h5"), read_truth(data / "simulated/truth.h5")
    found = matrices_from_quaternions(particles.rotation)
    turned = [rotation_about((0, 0, 1), np.deg2rad(n * TWIST_DEG)) @ truth.rotation_matrix for n in (-1, 0, 1)]
    trace = np.max([np.einsum("nij,nij->n", t, found) for t in turned], axis=0)
    assert np.rad2deg(np.median(np.arccos(np.clip((trace - 1) / 2, -1, 1)))) < 3.0
    axis = found[:, 2, :2] / np.linalg.norm(found[:, 2, :2], axis=1, keepdims=True)
    along_A = np.abs(np.sum(axis * particles.shift_A, axis=1))
    assert along_A.max() <= 0.5 * json.loads((refined / "summary.json").read_text())["rise_A"] + 1e-3
    assert np.abs(np.rad2deg(np.arccos(found[:, 2, 2])) - 90).max() < 25


def test_the_map_is_helical_and_near_the_truth(data: Path, refined: Path) -> None:
    record, truth = read_map_record(refined / "volume.h5"), read_volume(data / "simulated/map.mrc")
    assert record.fsc is not None and record.fsc_mask is not None and record.fsc.mask_name == "central cylinder"
    curve = fourier_shell_correlation(record.map.data * record.fsc_mask.data, truth.data * record.fsc_mask.data)
    assert curve[2:15].min() > 0.6
    page = (refined / "report.html").read_text()
    assert "pseudo-lattice" in page and "Twist and rise that were imposed" in page and "asymmetric units per image" in page


def test_the_lattice_goes_on_to_symmetry_expansion(refined: Path, tmp_path: Path) -> None:
    protomer("symmetry-expand", "--particles", refined, "--volume", refined, "--config", refined / "helix.yaml", "--output",
             tmp_path / "copies")
    said = json.loads((tmp_path / "copies/summary.json").read_text())
    assert said["rows"] == 3 * 96 and "helical_shifts" not in {w["code"] for w in said["warnings"]}


@pytest.mark.slow
def test_three_ranks_give_the_same_bits(data: Path, refined: Path) -> None:
    protomer(*words_of(data, data / "ranks3", "rehearse=off"), ranks=3)
    require_same(refined, data / "ranks3")


@pytest.mark.slow
def test_a_run_that_was_killed_ends_in_the_same_bits_after_resume(data: Path, refined: Path) -> None:
    output = data / "killed"
    with running(words_of(data, output, "rehearse=off"), output) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=200)
    assert not (output / "summary.json").exists()
    protomer(*words_of(data, output, "rehearse=off"), "--resume")
    require_same(refined, output)


def require_same(first: Path, second: Path) -> None:
    one, other = values(first / "particles.h5"), values(second / "particles.h5")
    assert one.keys() == other.keys() and all(one[name] == other[name] for name in one)
    assert (first / "helix.yaml").read_text() == (second / "helix.yaml").read_text()
    for name in ("map.mrc", "half_a.mrc", "half_b.mrc"):
        assert np.array_equal(read_volume(first / name).data, read_volume(second / name).data)


@pytest.mark.parametrize(("changes", "said"), [
    ({"rise": "0"}, "helical_rise = 0 Å"), ({"rise": "27deg"}, "deg"), ({"twist": "4.8A"}, "'4.8A'"), ({"rise": "200A"}, "to average over"),
    ({"twist": "197.7"}, "-162.3"), ({"more": "relaxation=maximise"}, "relaxes no group"), ({"more": "rise_range=30A"}, "rise_range"),
    ({"more": "align_to_symmetry=on"}, "along z"), ({"more": "outer_diameter=230A"}, "larger images"), ({"symmetry": "T"}, "Cn or Dn")])
def test_a_lattice_that_cannot_be_meant_is_refused_and_nothing_is_written(data: Path, tmp_path: Path, changes: dict[str, str],
                                                                          said: str) -> None:
    lattice = {name: changes[name] for name in ("twist", "rise") if name in changes}
    words = words_of(data, tmp_path / "out", *([changes["more"]] if "more" in changes else []), **lattice)
    group = ["--symmetry", changes["symmetry"]] if "symmetry" in changes else []
    done = protomer(*words, *group, check=False)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "out/particles.h5").exists()


def test_rows_without_a_filament_and_filaments_in_both_halves_are_refused_with_a_remedy(data: Path, tmp_path: Path) -> None:
    particles = read_particles(data / "imported/particles.h5")
    torn = (np.arange(96) % 2).astype(np.int8)
    for name, changed, said in (("none", particles.with_columns(filament=np.zeros(96)), "rlnHelicalTubeID"),
                                ("torn", particles.with_columns(half=torn), "split_by=filament")):
        write_particles(tmp_path / f"{name}.h5", replace(changed))
        words = words_of(data, tmp_path / name)
        words[2] = tmp_path / f"{name}.h5"
        done = protomer(*words, check=False)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_the_plan_says_how_many_units_an_image_counts_for_and_a_start_is_asked_for(data: Path, tmp_path: Path) -> None:
    done = protomer(*words_of(data, tmp_path / "out"), "--dry-run")
    assert "96 segments of 24 filaments, each of about 6 asymmetric units" in done.stdout
    words = [w for w in words_of(data, tmp_path / "out") if w not in ("--volume", data / "simulated/start.mrc")]
    done = protomer(*words, "--dry-run", check=False)
    assert done.returncode == 2 and "outer_diameter" in done.stderr
    swapped = protomer(*words_of(data, tmp_path / "out", twist="3.05deg", rise="65.9A"), "--dry-run", check=False)
    assert swapped.returncode == 0
