"""What an image may show: Bayes' rule over classes and noise alone, and evidence where maps are weak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protomer.classes.match import matched
from protomer.engine.alignment import Poses
from protomer.engine.confidence import full_covariance
from protomer.engine.hypotheses import Hypotheses, class_posterior, evidence
from protomer.engine.pose_table import PoseTable
from protomer.maps.volumes import Halves

EXTENT_PX = 3.0
ALL_POSES = 8 * np.pi**2 * np.pi * EXTENT_PX**2  # rotations times a disc of shifts
LOWER = np.tril_indices(5)


def poses_of_curvature(curvature: np.ndarray, log_likelihood: np.ndarray) -> Poses:
    """One mode for each image with H (n, 5, 5), and log odds by Laplace's approximation alone."""
    number = len(curvature)
    log_odds = log_likelihood + 2.5 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(curvature)[1] - np.log(ALL_POSES)
    covariance = np.linalg.inv(curvature)[:, LOWER[0], LOWER[1]]
    empty = PoseTable.empty(number).take(np.arange(number))
    return replace(empty, log_likelihood=log_likelihood, covariance=covariance, log_odds=log_odds)


@pytest.mark.parametrize("null", [0.0, 0.2])
def test_the_posterior_is_bayes_rule_and_what_is_left_is_noise_alone(null: float) -> None:
    random = np.random.default_rng(1)
    log_odds, prior = random.normal(0, 3, (50, 3)), np.array([0.5, 0.2, 0.3]) * (1 - null)
    allowed = random.random((50, 3)) < 0.7
    allowed[:, 0] = True
    joint = prior * np.exp(log_odds) * allowed
    expected = joint / (joint.sum(axis=1, keepdims=True) + null)
    with np.errstate(divide="ignore"):
        found = class_posterior(log_odds, np.log(prior), float(np.log(null)), allowed)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_evidence_of_thousands_of_units_and_images_without_a_regular_mode_give_no_nan() -> None:
    log_odds = np.array([[3000.0, -3000.0], [-np.inf, -np.inf], [-np.inf, 2.0], [1e4, 1e4]])
    found = class_posterior(log_odds, np.log([0.5, 0.5]), -np.inf)
    np.testing.assert_allclose(found, [[1, 0], [0.5, 0.5], [0, 1], [0.5, 0.5]], atol=1e-12)
    assert np.all(class_posterior(log_odds[:, :1], np.zeros(1), -np.inf) == 1.0)


def test_evidence_is_the_mean_likelihood_over_poses_for_weak_maps_too() -> None:
    random = np.random.default_rng(2)
    factors = random.normal(size=(40, 5, 5)) * np.geomspace(1e-4, 300.0, 40)[:, None, None]
    curvature = factors @ factors.transpose(0, 2, 1) + 1e-9 * np.eye(5)
    turn_sd = (8 * np.pi**2) ** (1 / 3) / np.sqrt(2 * np.pi)  # Gaussians whose integrals are the volumes of rotations and shifts
    before = np.diag([turn_sd**-2] * 3 + [2 / EXTENT_PX**2] * 2)
    assert np.isclose((2 * np.pi) ** 2.5 / np.sqrt(np.linalg.det(before)), ALL_POSES)
    expected = 0.5 * (np.linalg.slogdet(before)[1] - np.linalg.slogdet(curvature + before)[1])  # of a likelihood whose best is 1
    found = evidence(poses_of_curvature(curvature, np.zeros(40)), EXTENT_PX)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(found[0]) < 1e-4, "a map that says nothing of poses is as likely as noise alone"
    sharp = poses_of_curvature(curvature[-1:] + 1e5 * np.eye(5), np.array([20.0]))
    assert abs(evidence(sharp, EXTENT_PX)[0] - sharp.log_odds[0]) < 1e-3


def test_the_covariance_triangle_is_read_as_it_is_written() -> None:
    curvature = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])[None]
    np.testing.assert_allclose(full_covariance(poses_of_curvature(curvature, np.zeros(1)).covariance, 1.0)[0], np.linalg.inv(curvature[0]))


def test_hard_images_count_in_their_likeliest_class_alone_and_nowhere_where_that_is_noise() -> None:
    posterior = np.array([[0.5, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.1]])
    hard = Hypotheses(np.zeros(3), hard=True).counted(posterior)
    np.testing.assert_array_equal(hard, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert Hypotheses(np.zeros(3)).counted(posterior) is posterior


def test_classes_of_two_halves_are_paired_by_what_sets_them_apart() -> None:
    random = np.random.default_rng(3)
    common, apart = 10 * random.standard_normal((8, 8, 8)), random.standard_normal((3, 8, 8, 8))
    seen = [[common + apart[k] + 0.5 * random.standard_normal((8, 8, 8)) for k in order] for order in ((0, 1, 2), (2, 0, 1))]
    order, correlation = matched([Halves(a, b) for a, b in zip(*seen, strict=True)])
    np.testing.assert_array_equal(order, [1, 2, 0])
    assert min(correlation[k][order[k]] for k in range(3)) > 0.5
