"""Posteriors mean what they say: the fit finds known numbers, and calibrates poses found with the true map and with a refined one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from protomer.engine.confidence import (
    PARAMETERS,
    WITHIN_ONE_COVARIANCE,
    Confidence,
    TriedPoses,
    calibration_table,
    full_covariance,
    log_odds,
)
from protomer.engine.rehearsal import possible_truth
from protomer.formats.hdf5 import read_particles
from protomer.jobs.simulate import DEFAULT_BFACTOR_A2, DEFAULT_MODEL
from protomer.simulation.dataset import simulate_dataset
from protomer.simulation.draws import SimulationDesign
from protomer.simulation.files import read_truth
from protomer.simulation.pose_trial import PoseTrial, try_poses
from protomer.simulation.scatterers import read_atom_model
from protomer.simulation.truth import pose_errors
from protomer_kernels.fourier import low_pass
from protomer_kernels.rotations import matrices_from_quaternions, rotation_errors
from protomer_kernels.shells import shell_cross_sums
from refinement_runs import protomer, refine_words, simulate_and_import

EDGES = (0.0, 0.8, 0.95, 1.01)


def drawn(number: int, odds: tuple[float, float], spread: tuple[float, float]) -> TriedPoses:
    """Poses that err as eqs. (1) and (2) of confidence.py say with these numbers."""
    random = np.random.default_rng(4)
    weight = 1 / (1 + np.exp(-random.uniform(-2, 8, number)))
    x = log_odds(weight)
    right = random.random(number) < 1 / (1 + np.exp(-odds[0] - odds[1] * x))
    root = np.diag([0.006, 0.004, 0.008, 1.0, 2.0]) @ np.tril(np.ones((5, 5)))
    error = random.standard_normal((number, 5)) @ root.T * np.exp(0.5 * (spread[0] + spread[1] * x))[:, None]
    error[~right, :3] += 1.0
    return TriedPoses(error, np.tile(root @ root.T, (number, 1, 1)), weight)


def test_one_covariance_holds_the_stated_share_of_a_gaussian() -> None:
    assert pytest.approx(chi2.cdf(PARAMETERS, PARAMETERS), abs=1e-5) == WITHIN_ONE_COVARIANCE


def test_the_fit_finds_by_how_much_poses_claim_too_much() -> None:
    found = Confidence.fit(drawn(20000, (-0.8, 0.7), (0.6, -0.05)))
    np.testing.assert_allclose(found.odds, (-0.8, 0.7), atol=0.08)
    np.testing.assert_allclose(found.spread, (0.6, -0.05), atol=0.08)
    weight = np.array([0.2, 0.5, 0.9, 0.999])
    expected = 1 / (1 + np.exp(0.8 - 0.7 * log_odds(weight)))
    np.testing.assert_allclose(found.posterior(weight), expected, atol=0.02)


def test_poses_that_are_all_right_and_as_wide_as_stated_keep_their_covariance() -> None:
    found = Confidence.fit(drawn(4000, (50.0, 0.0), (0.0, 0.0)))
    assert found.lost == 0.0 and np.all(np.abs(np.log(found.covariance_factor(np.array([0.5, 0.9, 0.999])))) < 0.1)
    assert found.posterior(np.array([0.999]))[0] > 0.99


def test_nothing_to_fit_to_is_an_error() -> None:
    with pytest.raises(ValueError, match="no poses"):
        Confidence.fit(TriedPoses(np.zeros((0, 5)), np.zeros((0, 5, 5)), np.zeros(0)))


def test_a_possible_truth_leaves_the_reference_its_best_guess_and_has_the_power_that_the_fsc_says() -> None:
    random = np.random.default_rng(2)
    signal, noise = low_pass(random.standard_normal((32, 32, 32)), 9.0, 4.0), random.standard_normal((2, 32, 32, 32))
    a, b = ((signal + 0.7 * low_pass(n, 12.0, 4.0)).astype(np.float32) for n in noise)
    fsc = np.linspace(0.95, 0.2, 15)
    cross, power, true_power = shell_cross_sums(np.fft.rfftn(a), np.fft.rfftn(possible_truth(a, b, fsc))).T
    inside = slice(2, 11)  # beyond, the two hardly agree and the agreement is held above its least
    np.testing.assert_allclose(cross[inside] / power[inside], 1.0, atol=0.04)
    np.testing.assert_allclose(power[inside] / true_power[inside], fsc[inside], atol=0.04)


def tried(trial: PoseTrial) -> TriedPoses:
    return TriedPoses(trial.error, trial.covariance, trial.top_weight)


def require_calibrated(poses: TriedPoses, confidence: Confidence) -> None:
    """Stated and observed agree within 5 points, or twice the binomial error where a bin has few images."""
    table = calibration_table(poses, confidence.posterior(poses.weight), confidence.covariance_factor(poses.weight), EDGES)
    for low, images, *shares in table:
        print(f"from {low}: {images:.0f} images; right {shares[0]:.3f} {shares[1]:.3f}, 1 sd {shares[2]:.3f} {shares[3]:.3f}")
        for stated, observed in (shares[:2], shares[2:]):
            assert abs(stated - observed) < max(0.05, 2 * np.sqrt(0.25 / images))


@pytest.mark.slow
def test_with_the_true_map_what_one_set_of_images_shows_holds_for_another() -> None:
    model = read_atom_model(DEFAULT_MODEL, DEFAULT_BFACTOR_A2)
    first, second = (try_poses(simulate_dataset(model, SimulationDesign(400, 48, 6.0, 0.06, seed=seed)), model) for seed in (3, 4))
    confidence = Confidence.fit(tried(first))
    raw = calibration_table(tried(second), second.top_weight, np.ones(400), EDGES)
    assert raw[-1][4] - raw[-1][5] > 0.03  # left as they are, covariances are too small
    require_calibrated(tried(second), confidence)


@pytest.mark.slow
def test_a_refinement_states_how_far_its_poses_may_be_believed(tmp_path: Path) -> None:
    folder = simulate_and_import(tmp_path, number=400, snr=0.1)
    protomer(*refine_words(folder, tmp_path / "refined"))
    particles = read_particles(tmp_path / "refined/particles.h5")
    truth = read_truth(folder / "simulated/truth.h5").take(particles.stack_index)
    motion = pose_errors(particles.rotation, particles.shift_A, truth.rotation, truth.shift_A).frame
    turn = rotation_errors(motion.rotation @ truth.rotation_matrix, matrices_from_quaternions(particles.rotation), np.eye(3)[None])
    covariance = full_covariance(particles.pose_covariance, 1.0)[:, :3, :3]
    distance = np.einsum("ni,nij,nj->n", turn, np.linalg.inv(covariance), turn)
    right = np.linalg.norm(turn, axis=1) < np.deg2rad(10)
    observed, stated = np.mean(right & (distance <= 3)), chi2.cdf(3, 3) * particles.pose_posterior.mean()
    print(f"right {right.mean():.3f}, stated {particles.pose_posterior.mean():.3f}; within {observed:.3f}, stated {stated:.3f}")
    assert abs(right.mean() - particles.pose_posterior.mean()) < 0.05
    assert -0.05 < observed - stated < 0.15  # of few images the half maps tell little: then rather too wide than too narrow
