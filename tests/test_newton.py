"""Climbing to the best pose: convergence, priors, extents and covariances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kernel_oracles import NORMAL_ROW, PLANE, blob_model, degrees_between, starts, whitened
from protomer_kernels import newton


@pytest.fixture(scope="module")
def model() -> np.ndarray:
    return blob_model()


def climb(model, image, turns, shifts, data, amplitude, steps, priors=newton.NO_PRIOR, extent=newton.NO_EXTENT):  # type: ignore[no-untyped-def]
    turns, shifts, sums = turns.copy(), shifts.copy(), np.empty((len(turns), 21))
    batch = (data, amplitude, np.tile(np.eye(2), (len(data), 1, 1)))
    newton.climb_poses(model, (image, turns, shifts), batch, PLANE.arrays(len(PLANE)), steps, (priors, extent), sums)
    return turns, shifts, sums


def test_climbing_from_five_degrees_and_one_pixel_reaches_the_truth(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(30, 16)
    data, amplitude = whitened(model, true_turns, true_shifts, 16)
    found, found_shifts, sums = climb(model, np.arange(30), turns, shifts, data, amplitude, 20)
    assert degrees_between(true_turns, found).max() < 0.1
    assert np.abs(found_shifts - true_shifts).max() < 0.02
    np.testing.assert_allclose(found @ np.swapaxes(found, 1, 2), np.broadcast_to(np.eye(3), found.shape), atol=1e-12)
    np.testing.assert_allclose(sums[:, 0], 0.5 * (data.astype(float) ** 2).sum((1, 2)), rtol=1e-4)


def test_starts_read_the_image_they_belong_to(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(3, 17)
    data, amplitude = whitened(model, true_turns, true_shifts, 17)
    image = np.array([2, 0, 2, 1])
    found, found_shifts, _ = climb(model, image, turns[image], shifts[image], data, amplitude, 20)
    assert degrees_between(true_turns[image], found).max() < 0.1 and np.abs(found_shifts - true_shifts[image]).max() < 0.02
    np.testing.assert_array_equal(found[0], found[2])


def test_priors_add_a_gaussian_and_pull_towards_their_centre(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(6, 18)
    data, amplitude = whitened(model, true_turns, true_shifts, 18)
    image = np.arange(6)
    precision = np.array([50.0, 50.0, 50.0, 3.0, 4.0])
    priors = np.concatenate([turns.reshape(6, 9), shifts, np.broadcast_to(precision, (6, 5)), np.zeros((6, 3))], axis=1)
    _, _, bare = climb(model, image, true_turns, true_shifts, data, amplitude, 0)
    _, _, sums = climb(model, image, true_turns, true_shifts, data, amplitude, 0, priors)
    away = np.concatenate(
        [Rotation.from_matrix(true_turns @ np.swapaxes(turns, 1, 2)).as_rotvec(), true_shifts - shifts], axis=1
    )
    np.testing.assert_allclose(sums[:, 0] - bare[:, 0], -0.5 * (precision * away**2).sum(1), rtol=1e-6)
    np.testing.assert_allclose(sums[:, 1:6] - bare[:, 1:6], -precision * away, atol=1e-6)
    added = [precision[p] if p == q else 0.0 for p, q in NORMAL_ROW]
    np.testing.assert_allclose(sums[:, 6:] - bare[:, 6:], np.broadcast_to(added, (6, 15)), atol=1e-6)
    distances = []
    for factor in (1e-3, 1e3, 1e8):
        priors[:, 11:16] = precision * factor
        found, found_shifts, _ = climb(model, image, true_turns, true_shifts, data, amplitude, 40, priors)
        distances.append(degrees_between(true_turns, found))
    assert distances[0].max() < 0.1 and np.all(distances[1] > distances[0])
    np.testing.assert_allclose(distances[2], 5.0, atol=0.01)  # a prior of no width leaves nothing but its centre
    assert np.abs(found_shifts - shifts).max() < 0.01


def test_a_prior_at_a_fulcrum_has_the_value_and_derivatives_that_differences_say(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(4, 21)
    data, amplitude = whitened(model, true_turns, true_shifts, 21)
    image, precision, lever = np.arange(4), np.array([50.0, 60.0, 70.0, 3.0, 4.0]), np.array([4.0, -7.0, 9.0])
    same = np.broadcast_to(np.concatenate([precision, lever]), (4, 8))
    priors = np.concatenate([turns.reshape(4, 9), shifts, same], axis=1)

    def added(rotations: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
        with_prior = climb(model, image, rotations, shifts_px, data, amplitude, 0, priors)[2]
        return np.asarray(with_prior - climb(model, image, rotations, shifts_px, data, amplitude, 0)[2])

    def expected(rotations: np.ndarray, shifts_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = Rotation.from_matrix(rotations @ np.swapaxes(turns, 1, 2)).as_rotvec()
        at_fulcrum = shifts_px - shifts - (np.swapaxes(rotations - turns, 1, 2) @ lever)[:, :2]
        away = np.concatenate([turn, at_fulcrum], axis=1)
        return -0.5 * (precision * away**2).sum(1), away

    found = added(true_turns, true_shifts)
    value, away = expected(true_turns, true_shifts)
    np.testing.assert_allclose(found[:, 0], value, rtol=1e-6)
    jacobian, step = np.empty((4, 5, 5)), 1e-5
    for p in range(5):
        turned = Rotation.from_rotvec(step * np.eye(5)[p, :3]).as_matrix() @ true_turns
        jacobian[:, :, p] = (expected(turned, true_shifts + step * np.eye(5)[p, 3:])[1] - away) / step
    jacobian[:, :3, :3] = np.eye(3)  # of the turn itself, to first order
    np.testing.assert_allclose(found[:, 1:6], -np.einsum("nqp,q,nq->np", jacobian, precision, away), rtol=1e-3, atol=2e-3)
    normal = np.einsum("nqp,q,nqr->npr", jacobian, precision, jacobian)
    np.testing.assert_allclose(found[:, 6:], np.stack([normal[:, p, q] for p, q in NORMAL_ROW], axis=1), rtol=1e-3, atol=0.05)


def test_no_pose_leaves_its_extent(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(30, 19)
    data, amplitude = whitened(model, true_turns, true_shifts, 19)
    priors = np.concatenate([turns.reshape(30, 9), shifts, np.zeros((30, 8))], axis=1)
    extent = np.array([np.radians(2.0), 0.4])
    found, found_shifts, sums = climb(model, np.arange(30), turns, shifts, data, amplitude, 20, priors, extent)
    _, _, before = climb(model, np.arange(30), turns, shifts, data, amplitude, 0)
    moved = degrees_between(turns, found)
    assert moved.max() <= 2.0 + 1e-9 and np.linalg.norm(found_shifts - shifts, axis=1).max() <= 0.4 + 1e-12
    assert moved.max() > 0.1 and np.all(sums[:, 0] >= before[:, 0])


def test_covariance_is_the_inverse_and_a_singular_matrix_says_so() -> None:
    rng = np.random.default_rng(20)
    sums = rng.standard_normal((4, 21))
    jacobians = rng.standard_normal((4, 5, 9))
    matrices = jacobians @ np.swapaxes(jacobians, 1, 2)
    matrices[3] = -np.eye(5)
    sums[:, 6:] = [[matrix[p, q] for p, q in NORMAL_ROW] for matrix in matrices]
    out = np.empty((4, 15))
    log_determinant = newton.covariance_and_log_determinant(sums, out)
    for n in range(3):
        inverse = np.linalg.inv(matrices[n])
        np.testing.assert_allclose(out[n], [inverse[p, q] for p, q in NORMAL_ROW], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(log_determinant[n], np.log(np.linalg.eigvalsh(matrices[n])).sum(), rtol=1e-6)
    assert log_determinant[3] == np.inf and np.all(np.isinf(out[3]))
