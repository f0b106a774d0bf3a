"""Posteriors over a grid of rotations, shifts and classes against direct sums in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from kernel_oracles import BOX, as_pairs
from protomer_kernels import grid_posterior as kernel
from protomer_kernels.grid_scores import shift_ramps
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import shift_grid
from test_tf32 import in_tf32

CLASSES, ROTATIONS, IMAGES, SHARED = 2, 70, 9, 0.2


def problem() -> tuple[np.ndarray, ...]:
    """Images y, amplitudes, views of both classes to a lower radius, shifts, priors."""
    rng, plane = np.random.default_rng(5), HalfPlane(BOX, 4)
    compared = plane.prefix(3)
    y = rng.standard_normal((IMAGES, len(plane))) + 1j * rng.standard_normal((IMAGES, len(plane)))
    views = rng.standard_normal((CLASSES, ROTATIONS, compared)) + 1j * rng.standard_normal((CLASSES, ROTATIONS, compared))
    amplitude = rng.uniform(-0.4, 0.4, (IMAGES, len(plane))).astype(np.float32)
    shifts = shift_grid(2.0, 1.0)
    prior = -0.2 * (shifts**2).sum(axis=1)
    return y, amplitude, views, shifts, prior - logsumexp(prior), np.log([0.3, 0.7])


def found(at_once: int, monkeypatch: pytest.MonkeyPatch) -> kernel.GridPosterior:
    monkeypatch.setattr(kernel, "SCORES_AT_ONCE", at_once)
    y, amplitude, views, shifts, shift_prior, class_prior = problem()
    plane = HalfPlane(BOX, 4)
    slices = np.stack([as_pairs(of_class) for of_class in views])
    ramps = shift_ramps(shifts, plane.kx, plane.ky, BOX)
    return kernel.grid_posterior(as_pairs(y), amplitude, slices, ramps, shift_prior, class_prior, SHARED)


def test_posteriors_and_sums_are_those_of_bayes_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    y, amplitude, views, shifts, shift_prior, class_prior = problem()
    plane, compared = HalfPlane(BOX, 4), views.shape[2]
    wave = np.exp(-2j * np.pi * shifts.astype(float) @ plane.coordinates.T / BOX)
    moved = amplitude[:, None].astype(float) * y[:, None] * wave
    log_l = np.einsum("nsk,cgk->ncsg", moved[:, :, :compared].conj(), views).real
    log_l -= 0.5 * np.einsum("nk,cgk->ncg", amplitude[:, :compared].astype(float) ** 2, np.abs(views) ** 2)[:, :, None]
    log_joint = log_l + shift_prior[:, None] + class_prior[:, None, None] - np.log(ROTATIONS)
    evidence = logsumexp(log_joint, axis=(1, 2, 3))
    joint = np.exp(log_joint - evidence[:, None, None, None])
    posterior = joint.sum(axis=(2, 3))
    counted = joint / posterior[:, :, None, None] * ((1 - SHARED) * posterior + SHARED / CLASSES)[:, :, None, None]
    result = found(2**21, monkeypatch)
    np.testing.assert_allclose(result.log_evidence, evidence, atol=1e-4)
    np.testing.assert_allclose(result.posterior, posterior, atol=1e-4)
    np.testing.assert_allclose(result.highest, joint.max(axis=(1, 2, 3)), atol=1e-4)
    numerator = np.einsum("ncsg,nsk->cgk", counted, moved)
    np.testing.assert_allclose(result.numerator[:, :, 0] + 1j * result.numerator[:, :, 1], numerator, atol=1e-4)
    np.testing.assert_allclose(result.weight, np.einsum("ncsg,nk->cgk", counted, amplitude.astype(float) ** 2), atol=1e-5)
    np.testing.assert_allclose(result.mass.sum(), IMAGES, rtol=1e-5)


def test_parts_of_the_images_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = found(2**21, monkeypatch), found(CLASSES * ROTATIONS * 13 * 2, monkeypatch)
    np.testing.assert_allclose(parts.numerator, whole.numerator, atol=1e-5)
    np.testing.assert_allclose(parts.log_evidence, whole.log_evidence, atol=1e-5)


def test_an_image_that_one_class_cannot_explain_counts_there_by_what_is_shared_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    y, amplitude, views, shifts, shift_prior, _ = problem()
    plane = HalfPlane(BOX, 4)
    slices = np.stack([as_pairs(of_class) for of_class in views])
    result = kernel.grid_posterior(as_pairs(y), amplitude, slices, shift_ramps(shifts, plane.kx, plane.ky, BOX), shift_prior,
                                   np.array([0.0, -500.0]), SHARED)
    assert np.isfinite(result.numerator).all()
    np.testing.assert_allclose(result.mass.sum(axis=1), [IMAGES * (1 - SHARED / 2), IMAGES * SHARED / 2], rtol=1e-5)


class Tf32Array(np.ndarray):
    """An array whose matrix products are those of a device: factors rounded to TF32, added up in float32."""

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        factors = (in_tf32(np.asarray(factor)) for factor in (self, other))
        return np.matmul(*factors).view(Tf32Array)


def test_posteriors_and_sums_with_products_in_tf32_are_nearly_those_with_float32() -> None:
    y, amplitude, views, shifts, shift_prior, class_prior = problem()
    plane = HalfPlane(BOX, 4)
    ramps, slices = shift_ramps(shifts, plane.kx, plane.ky, BOX), np.stack([as_pairs(3.0 * of_class) for of_class in views])
    exact, rounded = (kernel.grid_posterior(as_pairs(y).view(kind), amplitude.view(kind), slices, ramps, shift_prior, class_prior, SHARED)
                      for kind in (np.ndarray, Tf32Array))
    assert exact.highest.max() > 0.2 and not np.array_equal(exact.posterior, rounded.posterior)  # told apart, and rounded
    np.testing.assert_allclose(rounded.log_evidence, exact.log_evidence, atol=0.01)
    np.testing.assert_allclose(rounded.posterior, exact.posterior, atol=0.005)
    for name in ("numerator", "weight", "mass"):
        expected = getattr(exact, name)
        np.testing.assert_allclose(getattr(rounded, name), expected, atol=0.01 * np.abs(expected).max())
