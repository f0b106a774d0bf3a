"""ctf-refine: planted defocus errors, beam tilt and magnification against their Cramér-Rao bounds, copies, files, bad input."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctf_bounds import CtfBound, ctf_bound, seen_without_ctf, transfer
from protomer.ctf_refinement.changes import with_adapted_defocus, with_defocus_change
from protomer.declarations.ctf_refine import JOB
from protomer.errors import InputError, SettingsError
from protomer.formats.hdf5 import read_particles, write_map_record, write_particles
from protomer.formats.star import read_star_particles, write_star_particles
from protomer.maps.volumes import Halves, MapRecord, Volume
from protomer.running.exact_sums import ExactSum
from protomer.running.job_run import RunOptions, plan_job, run_job
from protomer.running.ranks import Team
from protomer.simulation.dataset import SimulatedData
from protomer.simulation.draws import true_ctf
from protomer.simulation.optics import stretching
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import Particles
from reconstructions import as_particles
from refinement_runs import protomer
from simulated import chain_dataset, chain_model, symmetric_dataset
from test_symmetry_expand import warned

NUMBER, BOX, PIXEL_A, SNR = 240, 64, 1.6, 0.3
FINEST_A, COARSEST_A = BOX * PIXEL_A / 29.5, 30.0
TILT_RAD, STRETCH_PERCENT, DEFOCUS_SD_A = (5e-4, -3e-4), 1.0, 300.0


@functools.cache
def tilted_data() -> SimulatedData:
    return chain_dataset(NUMBER, BOX, PIXEL_A, SNR, seed=3, beam_tilt_rad=TILT_RAD)


@functools.cache
def stretched_data() -> SimulatedData:
    return chain_dataset(NUMBER, BOX, PIXEL_A, SNR, seed=4, magnification=stretching(STRETCH_PERCENT, 0.4))


def planted(data: SimulatedData, folder: Path, defocus_sd_A: float = 0.0) -> tuple[Particles, np.ndarray]:
    """Particles that know nothing of aberrations, and of the errors (n,) that their defoci have; the true map as both half maps."""
    particles = as_particles(data, folder)
    error_A = np.random.default_rng(9).normal(0, defocus_sd_A, len(particles)) if defocus_sd_A else np.zeros(len(particles))
    particles = with_defocus_change(particles, np.arange(len(particles)), np.stack([error_A, 0 * error_A, error_A], axis=1))
    write_particles(folder / "particles.h5", particles)
    write_map_record(folder / "volume.h5", MapRecord(Halves.of(data.volume), data.volume))
    return particles, error_A


def refine(folder: Path, **settings: Any) -> tuple[Particles, dict[str, Any]]:
    inputs = {"particles": str(folder / "particles.h5"), "volume": [str(folder / "volume.h5")]}
    chosen = {"defocus": False, "beam_tilt": False, "trefoil": False, "max_resolution": FINEST_A, "min_resolution": COARSEST_A, "rounds": 2}
    summary = run_job(JOB, inputs, chosen | settings, RunOptions(folder / "out", overwrite=True, threads=1))
    return read_particles(folder / "out/particles.h5"), summary


def bound_of(data: SimulatedData) -> CtfBound:
    """Of defocus and tilt."""
    return ctf_bound(chain_model(), data, (COARSEST_A, FINEST_A))


def stretch_bound(data: SimulatedData) -> np.ndarray:
    """(2,) least standard deviations of the two numbers of a stretch, the CTF staying what it is at each coefficient."""
    number = len(data.truth)
    turned = np.tile(np.eye(3), (number, 1, 1))
    turned[:, :2, :2] = np.reshape(data.design.magnification, (2, 2))
    ctf = transfer(data, true_ctf(data.design, data.truth), number)
    slopes = []
    for direction in (np.diag([1.0, -1.0, 0.0]), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])):
        matrices = [data.truth.rotation_matrix @ turned @ (np.eye(3) + sign * 1e-3 * direction) for sign in (1, -1)]
        sides = [seen_without_ctf(chain_model(), data, each, (COARSEST_A, FINEST_A)) for each in matrices]
        slopes.append(ctf * (sides[0][0] - sides[1][0]) / 2e-3)
    weight = sides[0][1]
    information = [[float((weight * (a.conj() * b).real).sum()) for b in slopes] for a in slopes]
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(information))))


def test_planted_errors_of_defocus_are_taken_back_within_their_bound(tmp_path: Path) -> None:
    data = chain_dataset(NUMBER, BOX, PIXEL_A, SNR, seed=3)
    _, planted_A = planted(data, tmp_path, DEFOCUS_SD_A)
    found, summary = refine(tmp_path, defocus=True, defocus_prior=2000.0)
    left_A, bound_A = found.defocus_u_A - data.truth.defocus_u_A, bound_of(data).defocus_A
    ratio = np.sqrt(np.mean((left_A / bound_A) ** 2))
    print("rms over bound", ratio, "bound", np.median(bound_A), "left", left_A.std(), "planted", planted_A.std())
    assert ratio < 1.3 and left_A.std() < 0.3 * planted_A.std()
    assert summary["defocus_error_A"] == pytest.approx(np.median(bound_A), rel=0.15)
    np.testing.assert_allclose(found.defocus_u_A - found.defocus_v_A, data.truth.defocus_u_A - data.truth.defocus_v_A, atol=1e-6)
    assert warned(summary) == set()


def test_the_prior_keeps_the_spread_that_was_planted_however_many_rounds_are_made(tmp_path: Path) -> None:
    _, planted_A = planted(tilted_data(), tmp_path, DEFOCUS_SD_A)
    found, summary = refine(tmp_path, defocus=True, max_resolution=6.0, rounds=5)
    left_A = found.defocus_u_A - tilted_data().truth.defocus_u_A
    print("prior", summary["defocus_prior_A"], "error", summary["defocus_error_A"], "left", left_A.std())
    assert summary["defocus_prior_A"] == pytest.approx(planted_A.std(), rel=0.2) and summary["defocus_error_A"] > 100
    assert left_A.std() < summary["defocus_error_A"]


def test_a_planted_beam_tilt_is_found_within_its_bound_and_written_as_relion_has_it(tmp_path: Path) -> None:
    planted(tilted_data(), tmp_path)
    found, summary = refine(tmp_path, beam_tilt=True)
    error, bound = np.array(found.optics_groups[0].beam_tilt_rad) - TILT_RAD, bound_of(tilted_data()).tilt_rad
    print("tilt error over bound", error / bound, "bound (mrad)", 1e3 * bound)
    assert np.sqrt(np.mean(error**2)) < 1.3 * bound and bound < 0.2 * np.hypot(*TILT_RAD)
    refined = summary["optics_groups"][0]["refined"]
    assert refined["beam tilt x (mrad)"]["error"] == pytest.approx(1e3 * bound, rel=0.2)
    write_star_particles(tmp_path / "out.star", found)
    assert "_rlnBeamTiltX" in (tmp_path / "out.star").read_text()
    back = read_star_particles(tmp_path / "out.star").optics_groups[0]
    np.testing.assert_allclose(back.beam_tilt_rad, found.optics_groups[0].beam_tilt_rad, rtol=1e-5)


def test_a_planted_magnification_is_found_within_its_bound(tmp_path: Path) -> None:
    data = stretched_data()
    particles = as_particles(data, tmp_path)
    truth = replace(particles.optics_groups[0], magnification=data.design.magnification)
    seen = with_adapted_defocus(particles, np.arange(NUMBER), truth, particles.optics_groups[0])  # as a program sees it that ignores it
    planted(data, tmp_path)
    write_particles(tmp_path / "particles.h5", seen)
    found, _ = refine(tmp_path, magnification=True, rounds=3)
    wrong = np.linalg.inv(np.reshape(data.design.magnification, (2, 2))) @ np.reshape(found.optics_groups[0].magnification, (2, 2))
    error, bound = np.array([0.5 * (wrong[0, 0] - wrong[1, 1]), 0.5 * (wrong[0, 1] + wrong[1, 0])]), stretch_bound(data)
    print("stretch error over bound", error / bound, "bound (%)", 200 * bound)
    assert np.sqrt(np.mean((error / bound) ** 2)) < 1.3 and 200 * bound.max() < 0.2 * STRETCH_PERCENT


def test_defocus_and_tilt_together_and_the_report(tmp_path: Path) -> None:
    planted(tilted_data(), tmp_path, DEFOCUS_SD_A)
    found, summary = refine(tmp_path, defocus=True, beam_tilt=True, trefoil=True, tetrafoil=True, rounds=2)
    left_A = found.defocus_u_A - tilted_data().truth.defocus_u_A
    assert left_A.std() < 0.3 * DEFOCUS_SD_A and 150 < summary["defocus_prior_A"] < 450
    assert np.linalg.norm(np.array(found.optics_groups[0].beam_tilt_rad) - TILT_RAD) < 0.4 * np.hypot(*TILT_RAD)
    text = (tmp_path / "out/report.html").read_text()
    assert text.count("<svg") == 3 and "beam tilt x (mrad)" in text and summary["particles_out"] == NUMBER


def test_copies_of_an_image_keep_one_defocus(tmp_path: Path) -> None:
    data = symmetric_dataset("C2", 60, 48, 2.4, 0.5)
    particles = as_particles(data, tmp_path)
    planted(data, tmp_path)
    write_particles(tmp_path / "particles.h5", expanded(particles.with_columns(
        defocus_u_A=particles.defocus_u_A + 250, defocus_v_A=particles.defocus_v_A + 250), OperatorSet.of_group("C2", "relion")))
    found, _ = refine(tmp_path, defocus=True, max_resolution=5.0, defocus_prior=1000.0, rounds=1)
    pairs = found.defocus_u_A.reshape(60, 2)
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert abs(np.median(pairs[:, 0] - data.truth.defocus_u_A)) < 80


def test_groups_of_few_images_keep_their_aberrations_and_it_is_said(tmp_path: Path) -> None:
    given, _ = planted(tilted_data(), tmp_path)
    few = replace(given.optics_groups[0], name="few", beam_tilt_rad=(1e-3, 0.0))
    write_particles(tmp_path / "particles.h5", replace(given.with_columns(optics=(np.arange(NUMBER) < 20).astype(int)),
                                                       optics_groups=(given.optics_groups[0], few)))
    found, summary = refine(tmp_path, beam_tilt=True, rounds=1)
    assert found.optics_groups[1].beam_tilt_rad == (1e-3, 0.0) and found.optics_groups[0].beam_tilt_rad != (0.0, 0.0)
    assert "few_images" in warned(summary) and "few (20)" in next(w["text"] for w in summary["warnings"] if w["code"] == "few_images")


def test_what_cannot_be_refined_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    given, _ = planted(tilted_data(), tmp_path)
    with pytest.raises(SettingsError, match="nothing to refine"):
        refine(tmp_path)
    with pytest.raises(InputError, match="resolutions from 30"):
        refine(tmp_path, defocus=True, max_resolution=25.0)
    for table, said in ((replace(given, has_poses=False), "without poses"), (given.with_columns(half=np.full(NUMBER, -1)), "half-sets")):
        write_particles(tmp_path / "particles.h5", table)
        with pytest.raises(InputError, match=said):
            refine(tmp_path, defocus=True)
    write_particles(tmp_path / "particles.h5", given)
    small = Volume(np.ascontiguousarray(tilted_data().volume.data[8:56, 8:56, 8:56]), PIXEL_A)
    write_map_record(tmp_path / "volume.h5", MapRecord(Halves.of(small), small))
    with pytest.raises(InputError, match="half maps of box 48"):
        refine(tmp_path, defocus=True)
    dark = Volume(-tilted_data().volume.data, PIXEL_A)
    write_map_record(tmp_path / "volume.h5", MapRecord(Halves.of(dark), dark))
    with pytest.raises(InputError, match="do not agree with the half maps"):
        refine(tmp_path, defocus=True)
    assert not (tmp_path / "out").exists()


def test_defoci_that_want_to_leave_the_range_are_counted(tmp_path: Path) -> None:
    planted(tilted_data(), tmp_path, DEFOCUS_SD_A)
    _, summary = refine(tmp_path, defocus=True, defocus_range=100.0, rounds=1, defocus_prior=2000.0)
    assert "defocus_range" in warned(summary) and summary["at_range"] > 100


@pytest.mark.slow
def test_two_ranks_find_the_same_bits_as_one(tmp_path: Path) -> None:
    planted(tilted_data(), tmp_path, DEFOCUS_SD_A)
    one, _ = refine(tmp_path, defocus=True, beam_tilt=True, magnification=True, rounds=1)
    words = [f"--set={name}={value}" for name, value in {
        "defocus": "on", "beam_tilt": "on", "magnification": "on", "trefoil": "off", "rounds": 1, "max_resolution": FINEST_A,
        "min_resolution": COARSEST_A}.items()]
    protomer("ctf-refine", "--particles", tmp_path / "particles.h5", "--volume", tmp_path / "volume.h5", "--output", tmp_path / "two",
             *words, ranks=2)
    two = read_particles(tmp_path / "two/particles.h5")
    assert one.optics_groups == two.optics_groups and one.optics_groups[0].beam_tilt_rad != (0.0, 0.0)
    for name in one.columns:
        np.testing.assert_array_equal(one.columns[name], two.columns[name], err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_exact_sums_have_the_same_bits_in_any_order_and_are_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms = rng.standard_normal((50, 4, 3)) * 10.0 ** rng.integers(-6, 9, (50, 1, 1))
    found = []
    for order in (np.arange(50), rng.permutation(50)):
        total = ExactSum((4, 3))
        for n in order:
            total.add(terms[n])
        found.append(total.over(Team()))
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], [[math.fsum(terms[:, i, j]) for j in range(3)] for i in range(4)], rtol=1e-12, atol=1e-12)


def test_the_plan_grows_with_rounds(tmp_path: Path) -> None:
    planted(tilted_data(), tmp_path)
    inputs = {"particles": str(tmp_path / "particles.h5"), "volume": [str(tmp_path / "volume.h5")]}
    one, many = (plan_job(JOB, inputs, {"rounds": rounds}, 1, 1) for rounds in (1, 20))
    assert many.seconds > one.seconds > 0
