"""Sums of CTF refinement against explicit images, their derivatives against finite differences, and the fits made from them."""

from __future__ import annotations

import numpy as np
import pytest

from protomer.ctf_refinement.changes import (
    Asked,
    changed_group,
    even_terms,
    odd_terms,
    stretched_group,
    with_adapted_defocus,
    with_defocus_change,
)
from protomer.imaging.aberrations import odd_correction
from protomer.imaging.images import contrast_transfer
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles, Stack, empty_columns
from protomer_kernels.ctf_fit import (
    even_likelihood,
    even_slope,
    fit_one_number,
    fit_terms,
    odd_likelihood,
    odd_slope,
    pixel_driver,
    ring_driver,
)
from protomer_kernels.half_plane import HalfPlane

NUMBER, BOX, PIXEL_A = 5, 32, 1.5
PLANE = HalfPlane(BOX, 15)
K = len(PLANE)
GROUP = OpticsGroup("one", 300e3, 2.7e7, 0.1, PIXEL_A, BOX)
ALL = Asked(True, True, True, True)


def random_batch(seed: int = 1, number: int = NUMBER) -> tuple[np.ndarray, ...]:
    """Data, slices (n, K) complex128, gamma and a (n, K)."""
    random = np.random.default_rng(seed)
    data, slices = (random.normal(size=(number, K)) + 1j * random.normal(size=(number, K)) for _ in range(2))
    return data, slices, random.uniform(0, 20, (number, K)), random.uniform(0.5, 1.0, (number, K))


def parts(values: np.ndarray) -> np.ndarray:
    return np.stack([values.real, values.imag], axis=1).astype(np.float32)


def driver_arguments(data: np.ndarray, slices: np.ndarray, gamma: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, ...]:
    return parts(data), parts(slices), (-a * np.sin(gamma)).astype(np.float32), (a * np.cos(gamma)).astype(np.float32)


def model(slices: np.ndarray, gamma: np.ndarray, a: np.ndarray, theta: np.ndarray, chi: np.ndarray) -> np.ndarray:
    """Eq. (1), written out."""
    return np.asarray(-a * np.sin(gamma + theta) * np.exp(1j * chi) * slices)


def pixels(batch: tuple[np.ndarray, ...]) -> np.ndarray:
    out = np.zeros((K, 6))
    pixel_driver(*driver_arguments(*batch), out)
    return out


def test_sums_give_the_likelihood_of_any_phase_as_images_written_out_do() -> None:
    batch = data, slices, gamma, a = random_batch()
    random = np.random.default_rng(2)
    theta, chi, none = random.uniform(-9, 9, K), random.uniform(-9, 9, K), np.zeros(K)
    sums = pixels(batch)
    for at_theta, at_chi, found in ((theta, none, even_likelihood(sums, theta).sum()), (none, chi, odd_likelihood(sums, chi).sum())):
        made = model(slices, gamma, a, at_theta, at_chi)
        expected = (data.conj() * made).real.sum() - (0.5 * (np.abs(made) ** 2).sum() if at_theta.any() else 0.0)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
    ring = np.rint(np.hypot(PLANE.kx, PLANE.ky)).astype(np.int64)
    rings = np.zeros((NUMBER, 16, 5))
    ring_driver(*driver_arguments(*batch), ring, rings)
    by_ring = random.uniform(-3, 3, 16)
    made = model(slices, gamma, a, by_ring[ring], none)
    expected = (data.conj() * made).real.sum(axis=1) - 0.5 * (np.abs(made) ** 2).sum(axis=1)
    np.testing.assert_allclose(even_likelihood(rings, by_ring).sum(axis=1), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("likelihood", "slope_of"), [(even_likelihood, even_slope), (odd_likelihood, odd_slope)])
def test_slopes_are_the_finite_differences_of_the_likelihood_and_information_its_curvature_without_noise(likelihood: object,
                                                                                                        slope_of: object) -> None:
    sums, phase, step = pixels(random_batch(3)), np.random.default_rng(4).uniform(-5, 5, K), 1e-5
    slope, _ = slope_of(sums, phase)  # type: ignore[operator]
    difference = (likelihood(sums, phase + step) - likelihood(sums, phase - step)) / (2 * step)  # type: ignore[operator]
    np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-5)
    _, slices, gamma, a = random_batch(5, 400)
    exact = pixels((model(slices, gamma, a, np.zeros(K), np.zeros(K)), slices, gamma, a))
    slope, information = slope_of(exact, np.zeros(K))  # type: ignore[operator]
    second = (likelihood(exact, np.full(K, 1e-3)) - 2 * likelihood(exact, np.zeros(K)) + likelihood(exact, np.full(K, -1e-3))) / 1e-6  # type: ignore[operator]
    np.testing.assert_allclose(slope, 0, atol=1e-3)
    np.testing.assert_allclose(-second, information, rtol=1e-3)


def test_a_number_far_away_is_found_among_many_maxima_and_a_prior_holds_it_back() -> None:
    _, slices, gamma, a = random_batch(6)
    square = (PLANE.kx**2 + PLANE.ky**2).astype(float)
    truth, per_unit = np.array([-870.0, -300.0, 5.0, 410.0, 930.0]), -0.01 * square / square.max()
    data = model(slices, gamma, a, truth[:, None] * per_unit, np.zeros(K))
    sums = np.zeros((NUMBER, K, 5))
    ring_driver(*driver_arguments(data, slices, gamma, a), np.arange(K), sums)
    rates = np.tile(per_unit, (NUMBER, 1))
    found, information = fit_one_number(sums, rates, 1000.0, np.zeros(NUMBER), 0.0)
    np.testing.assert_allclose(found, truth, atol=0.1)
    held, _ = fit_one_number(sums, rates, 1000.0, np.zeros(NUMBER), 1e4)
    assert (information > 0).all() and np.abs(held).max() < 1


@pytest.mark.parametrize("is_odd", [True, False])
def test_planted_terms_are_found_from_sums_over_images(is_odd: bool) -> None:
    make = odd_terms if is_odd else even_terms
    terms = make(GROUP, PLANE, K, ALL)
    basis = np.stack(list(terms.values()))
    planted = np.array([0.9, -1.1, 0.8, 1.2, -0.7, 1.0])[: len(basis)] / np.sqrt(np.mean(basis**2, axis=1))
    phase = planted @ basis
    _, slices, gamma, a = random_batch(7, 60)
    data = model(slices, gamma, a, np.zeros(K) if is_odd else phase, phase if is_odd else np.zeros(K))
    found, covariance = fit_terms(pixels((data, slices, gamma, a)), basis, is_odd)
    np.testing.assert_allclose(found @ basis, phase, atol=0.02)
    assert (np.diag(covariance) > 0).all()


def table(number: int = 6) -> Particles:
    random, columns = np.random.default_rng(8), empty_columns(number)
    columns["defocus_u_A"][:] = random.uniform(8e3, 2e4, number)
    columns["defocus_v_A"][:] = columns["defocus_u_A"] + random.normal(0, 400, number)
    columns["defocus_angle_rad"][:] = random.uniform(0, np.pi, number)
    columns["image_uid"][:], columns["half"][:] = np.arange(number), 0
    return Particles(columns, (GROUP,), (Stack("x.mrcs", number, BOX, 0, 0, ""),), True)


def gammas(particles: Particles) -> np.ndarray:
    """exp(i gamma) (n, K) of particles' CTFs."""
    rows = np.arange(len(particles))
    sine = -contrast_transfer(particles, rows, PLANE, K, PIXEL_A).values
    turned = particles.with_columns(phase_shift_rad=particles.phase_shift_rad + np.pi / 2)
    return np.asarray(contrast_transfer(turned, rows, PLANE, K, PIXEL_A).values + 1j * sine)


def test_a_change_of_optics_and_defocus_turns_the_ctf_by_the_terms_that_were_fitted() -> None:
    particles, terms = table(), even_terms(GROUP, PLANE, K, ALL)
    change = {"defocus": 80.0, "astigmatism_0": -60.0, "astigmatism_1": 45.0, "spherical_aberration": 3e5, "tetrafoil_0": 4.0,
              "tetrafoil_1": -3.0}
    form = np.array([change["defocus"] + change["astigmatism_0"], change["astigmatism_1"], change["defocus"] - change["astigmatism_0"]])
    after = with_defocus_change(particles, np.arange(6), np.tile(form, (6, 1)))
    after = Particles(after.columns, (changed_group(GROUP, {}, change),), after.stacks, True)
    theta = sum(value * terms[name] for name, value in change.items())
    np.testing.assert_allclose(gammas(after), gammas(particles) * np.exp(1j * theta), atol=2e-4)


def test_odd_terms_turn_the_phase_as_the_optics_group_that_has_them_says_also_without_spherical_aberration() -> None:
    change = {"coma_x": 12000.0, "coma_y": -8000.0, "trefoil_0": 3.0, "trefoil_1": -2.0}
    for group in (GROUP, OpticsGroup("corrected", 300e3, 0.0, 0.1, PIXEL_A, BOX)):
        terms = odd_terms(group, PLANE, K, ALL)
        chi = sum(value * terms[name] for name, value in change.items())
        correction = odd_correction(changed_group(group, change, {}), PLANE)
        assert correction is not None and np.abs(chi).max() > 0.5
        np.testing.assert_allclose(correction, np.exp(-1j * chi), atol=1e-4)


def test_defocus_is_adapted_to_a_new_magnification_so_that_ctfs_stay_what_they_were() -> None:
    particles, stretched = table(), stretched_group(GROUP, np.array([0.006, -0.004]))
    adapted = with_adapted_defocus(particles, np.arange(6), GROUP, stretched)
    after = Particles(adapted.columns, (stretched,), adapted.stacks, True)
    low = np.hypot(PLANE.kx, PLANE.ky) < 10  # beyond, spherical aberration sees the stretch
    np.testing.assert_allclose(gammas(after)[:, low], gammas(particles)[:, low], atol=0.02)
    assert np.abs(adapted.defocus_u_A - particles.defocus_u_A).max() > 30
