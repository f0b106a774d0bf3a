"""variability: a swinging domain is found in expanded images and a rigid set yields nothing; bits, resume, files, bad input."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protomer.catalogue import declaration
from protomer.config.job_command import Call
from protomer.config.job_inputs import resolve_inputs
from protomer.declarations.export import JOB as EXPORT
from protomer.declarations.export import ExportSettings
from protomer.errors import ProtomerError
from protomer.formats.cs import read_cs_particles
from protomer.formats.hdf5 import read_map_record, read_particles, write_particles
from protomer.formats.mrc import read_volume, write_volume
from protomer.jobs.export import execute
from protomer.maps.volumes import Volume
from protomer.running.job_run import RunOptions, run_job
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer_kernels.masks import sphere_mask
from reconstructions import as_particles
from refinement_runs import killed_and_resumed, protomer, values
from two_domains import known_mode, moving

BOX, PIXEL_A, SNR, SWING_DEG = 32, 5.0, 2.0, 6.0
REACH_A = 12.0
NUMBER, SMALL = 500, 120


def write_copies(folder: Path, number: int, swing_deg: float) -> np.ndarray:
    """folder/particles.h5 with both copies of every image at the true poses, and the mask of one protomer; the amplitude of each row."""
    made = moving(number, BOX, PIXEL_A, SNR, swing_deg)
    particles = expanded(as_particles(made.data, folder), OperatorSet.of_group("C2"))
    write_particles(folder / "particles.h5", particles)
    write_volume(folder / "mask.mrc", made.mask)
    return np.asarray(made.amplitude[particles.stack_index, particles.copy])


def words(folder: Path, *more: object) -> list[object]:
    return ["variability", "--particles", folder / "particles.h5", "--mask", folder / "mask.mrc", "--set",
            f"filter_resolution={REACH_A}A", *more]


Ran = tuple[Path, np.ndarray, dict[str, Any]]


@pytest.fixture(scope="module")
def swinging(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Folder, true amplitudes, summary."""
    folder = tmp_path_factory.mktemp("swinging")
    amplitude = write_copies(folder, NUMBER, SWING_DEG)
    protomer(*words(folder, "--set", "modes=2", "--set", "iterations=12", "--set", "frames=5", "--set", "clusters=2", "--set",
                    "intermediates=3"), "--output", folder / "out")
    return folder, amplitude, json.loads((folder / "out/summary.json").read_text())


def test_the_first_mode_is_the_swing_and_coordinates_follow_its_amplitude(swinging: Ran) -> None:
    folder, amplitude, said = swinging
    found = read_particles(folder / "out/particles.h5")
    coordinate, error = (np.asarray(found.extra[f"components_mode_0/{name}"], float) for name in ("value", "error"))
    correlation = float(np.corrcoef(coordinate, amplitude)[0, 1])
    known = known_mode(moving(NUMBER, BOX, PIXEL_A, SNR, SWING_DEG), int(BOX * PIXEL_A / REACH_A))
    print(f"correlation {correlation:.3f}, of the known mode {known:.3f}, mean error {error.mean():.3f}, excess {said['modes']}")
    assert abs(known - 0.95) < 0.01 and abs(correlation) > max(0.9, known - 0.02)
    assert said["modes"][0]["is_real"] and said["modes"][0]["excess"] > 5 * said["modes"][0]["control_excess"]
    # errors are right: what coordinates miss of the truth (on their own scale) is as large as stated, and so is how far they vary
    sign = np.sign(correlation)
    within = np.abs(sign * coordinate - amplitude) < 2 * error
    assert within.mean() > 0.85 and abs(np.mean(coordinate**2 + error**2) - 1.0) < 0.1


def test_the_modes_of_the_halves_and_the_true_one_agree(swinging: Ran) -> None:
    folder, _, said = swinging
    mode = read_map_record(folder / "out/mode_1/volume.h5")
    true = moving(NUMBER, BOX, PIXEL_A, SNR, SWING_DEG).mode.data * read_volume(folder / "mask.mrc").data
    correlation = [abs(float(np.corrcoef(half.data.ravel(), true.ravel())[0, 1])) for half in mode.half_maps]
    print(f"modes of the halves with the true one {np.round(correlation, 3)}, with each other {said['modes'][0]['halves_agree']}")
    assert min(correlation) > 0.65 and said["modes"][0]["halves_agree"] > 0.8
    np.testing.assert_allclose(mode.map.data, read_volume(folder / "out/mode_1.mrc").data)
    with (folder / "out/modes_fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[4]["mode_1"]) > 0.7 and float(rows[4]["resolution_A"]) == pytest.approx(BOX * PIXEL_A / 4)


def test_movies_windows_and_clusters_go_from_one_end_to_the_other(swinging: Ran) -> None:
    folder, amplitude, said = swinging
    mode = read_volume(folder / "out/mode_1.mrc").data.astype(float)

    def along(volume: np.ndarray) -> float:
        return float((volume * mode).sum() / (mode * mode).sum())

    frames = [along(read_volume(folder / f"out/mode_1/frame_{n:03d}.mrc").data) for n in range(5)]
    windows = [along(read_map_record(folder / f"out/mode_1/window_{n}/volume.h5").map.data) for n in (1, 2, 3)]
    clusters = [along(read_map_record(folder / f"out/cluster_{n}/volume.h5").map.data) for n in (1, 2)]
    print(np.round(frames, 2), np.round(windows, 2), np.round(clusters, 2))
    steps = np.diff(frames)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert 2.0 < frames[-1] - frames[0] < 5.0 and np.all(np.diff(windows) > 0.4) and clusters[1] - clusters[0] > 0.8
    found = read_particles(folder / "out/particles.h5")
    parts = [read_particles(folder / f"out/cluster_{n}/particles.h5") for n in (1, 2)]
    assert [len(part) for part in parts] == said["clusters"] and sum(said["clusters"]) == len(found) == 2 * NUMBER
    means = [amplitude[found.class_number == n].mean() for n in (1, 2)]
    assert abs(means[1] - means[0]) > 1.0 and all(part.has_poses for part in parts)


def test_all_that_was_given_stays_and_the_tables_say_the_same(swinging: Ran) -> None:
    folder, _, said = swinging
    given, found = read_particles(folder / "particles.h5"), read_particles(folder / "out/particles.h5")
    for name in ("image_uid", "half", "rotation", "shift_A", "copy", "scale"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    with (folder / "out/variability.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["mode_2"]) for row in rows], found.extra["components_mode_1/value"], rtol=1e-4, atol=1e-5)
    assert said["images"] == NUMBER and said["resolution_A"]["corrected"] < 20
    page = (folder / "out/report.html").read_text()
    assert "data:image/gif;base64" in page and f"{2 * NUMBER} copies of {NUMBER} images" in page and "How many modes are real" in page
    again = read_cs_particles(exported(folder))
    np.testing.assert_array_equal(again.extra["components_mode_0/value"], found.extra["components_mode_0/value"])


def exported(folder: Path) -> Path:
    """The particles with coordinates as a .cs file."""
    given = {"particles": folder / "out", "cs": folder / "moved.cs"}
    assert execute(resolve_inputs(EXPORT, given), ExportSettings(), Call(given, {}, None)) == 0
    return folder / "moved.cs"


def test_a_rigid_set_yields_no_mode_above_the_noise_control(tmp_path: Path) -> None:
    write_copies(tmp_path, 300, 0.0)
    done = protomer(*words(tmp_path, "--set", "iterations=8", "--set", "frames=0"), "--output", tmp_path / "out")
    said = json.loads((tmp_path / "out/summary.json").read_text())
    print(said["modes"], said["least_excess"])
    assert said["real_modes"] == 0 and not any(mode["is_real"] for mode in said["modes"])
    assert all(abs(mode["excess"]) < said["least_excess"] for mode in said["modes"])
    assert "nothing was found that varies" in done.stderr and "(noise)" in (tmp_path / "out/report.html").read_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few images, few iterations, with grey scales found too."""
    folder = tmp_path_factory.mktemp("small")
    write_copies(folder, SMALL, SWING_DEG)
    protomer(*small_words(folder), "--output", folder / "one")
    return folder


def small_words(folder: Path) -> list[object]:
    return words(folder, "--set", "modes=2", "--set", "iterations=4", "--set", "particle_scale=optimal", "--set", "frames=2")


def test_two_ranks_give_the_same_bits(small: Path) -> None:
    protomer(*small_words(small), "--output", small / "two", ranks=2)
    one, two = values(small / "one/particles.h5"), values(small / "two/particles.h5")
    assert one.keys() == two.keys() and all(one[name] == two[name] for name in one)
    assert (small / "one/variability.csv").read_text() == (small / "two/variability.csv").read_text()
    for name in ("mode_1.mrc", "mode_2.mrc", "mode_1/frame_001.mrc", "half_a.mrc", "map.mrc"):
        assert np.array_equal(read_volume(small / "one" / name).data, read_volume(small / "two" / name).data), name


def test_a_run_that_was_killed_ends_in_the_same_bits_after_resume(small: Path) -> None:
    killed_and_resumed(small_words(small), small / "killed")
    one, killed = values(small / "one/particles.h5"), values(small / "killed/particles.h5")
    assert all(one[name] == killed[name] for name in one)
    assert (small / "one/modes_fsc.csv").read_text() == (small / "killed/modes_fsc.csv").read_text()


def refused(folder: Path, settings: dict[str, Any], **inputs: Any) -> str:
    """What is said where the job is refused and leaves nothing."""
    given = {"particles": str(folder / "particles.h5"), **inputs}
    with pytest.raises(ProtomerError) as caught:
        run_job(declaration("variability"), given, {"filter_resolution": "12A", **settings}, RunOptions(folder / "refused", threads=1))
    assert not (folder / "refused").exists()
    return str(caught.value)


def test_bad_input_is_refused_with_its_remedy(small: Path, tmp_path: Path) -> None:
    assert "protomer reconstruct" in refused(small, {"modes": 0})
    said = refused(small, {"modes": 9})
    assert "different images in the smaller half-set" in said and "at most 6" in said and "fewer modes" in said
    write_particles(tmp_path / "unposed.h5", replace(read_particles(small / "particles.h5"), has_poses=False))
    assert "protomer refine" in refused(small, {}, particles=str(tmp_path / "unposed.h5"))
    write_volume(tmp_path / "nothing.mrc", Volume(np.zeros((BOX,) * 3, np.float32), PIXEL_A))
    assert "mask" in refused(small, {"modes": 2}, mask=str(tmp_path / "nothing.mrc"))
    write_volume(tmp_path / "corner.mrc", Volume(sphere_mask(BOX, 3.0, 1.0, (3.0, 3.0, 3.0)), PIXEL_A))
    assert "no density in the focus mask corner.mrc" in refused(small, {"modes": 1}, mask=str(tmp_path / "corner.mrc"))
    write_volume(tmp_path / "dot.mrc", Volume(sphere_mask(BOX, 1.0, 1.0, (16.0, 16.0, 20.0)), PIXEL_A))
    assert "independent details" in refused(small, {"modes": 2}, mask=str(tmp_path / "dot.mrc"))
    assert "at least 2" in refused(small, {"modes": 2, "clusters": 1})
    assert "1 to 2" in refused(small, {"modes": 2, "intermediates": 2, "intermediate_mode": 3})


def test_the_plan_grows_with_the_modes_and_the_control(small: Path, tmp_path: Path) -> None:
    plans = [protomer(*words(small, "--set", f"modes={k}"), "--output", tmp_path / "plan", "--dry-run").stdout for k in (1, 2)]
    assert plans[0] != plans[1] and "2 modes down to" in plans[1] and not (tmp_path / "plan").exists()
