"""Something unknown as a hypothesis: its evidence is that of complex Gaussian noise of the structures' power."""

from __future__ import annotations

import numpy as np
import pytest

from protomer.engine.alignment import IDENTITY, Reference
from protomer.engine.hypotheses import class_posterior
from protomer.engine.schedule import Band
from protomer.engine.unknown import FIRST_SHELL, can_be_told, projected_power, unknown_log_odds
from protomer.imaging.images import Transfer, Whitened, whiten
from protomer_kernels.half_plane import HalfPlane, largest_radius

BOX = 24


def images(plane: HalfPlane, power: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (n, K) of noise plus C times a random density of this power; C (n, K); the variance of the noise by shell."""
    random, length = np.random.default_rng(seed), len(plane)
    noise = 0.5 + random.random(plane.radius + 1)
    transfer = random.uniform(-1, 1, (number, length)).astype(np.float32)
    variance = noise[plane.shell] + transfer**2 * power[plane.shell]
    normal = random.standard_normal((2, number, length))
    return (np.sqrt(variance / 2) * (normal[0] + 1j * normal[1])).astype(np.complex64), transfer, noise


def whitened(
    plane: HalfPlane, number: int, power: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Whitened]:
    """The same, and as the E-step takes it."""
    data, transfer, noise = images(plane, power, number, seed)
    root_weight = np.sqrt(plane.multiplicity / noise[plane.shell]).astype(np.float32)
    return data, transfer, noise, whiten(data, Transfer(transfer, None), root_weight[None], np.zeros(len(data), np.int64))


def test_the_evidence_is_the_ratio_of_two_complex_gaussian_densities() -> None:
    plane = HalfPlane(BOX, largest_radius(BOX))
    power = np.linspace(3.0, 0.1, plane.radius + 1)
    data, transfer, noise, batch = whitened(plane, 5, power)
    kept = plane.shell >= FIRST_SHELL
    low, high = noise[plane.shell], noise[plane.shell] + transfer.astype(np.float64) ** 2 * power[plane.shell]
    log_density = [-np.log(np.pi * v) - np.abs(data.astype(np.complex128)) ** 2 / v for v in (low, high)]
    expected = ((log_density[1] - log_density[0]) * plane.multiplicity * kept).sum(axis=1)
    np.testing.assert_allclose(unknown_log_odds(batch, power, plane), expected, rtol=1e-4)


def test_what_has_the_power_is_likelier_unknown_and_noise_is_not() -> None:
    plane = HalfPlane(BOX, largest_radius(BOX))
    power = np.full(plane.radius + 1, 1.0)
    assert np.mean(unknown_log_odds(whitened(plane, 200, power)[3], power, plane) > 0) > 0.95
    assert np.mean(unknown_log_odds(whitened(plane, 200, 0 * power)[3], power, plane) > 0) < 0.05


def test_the_power_is_that_of_a_volume_s_projections() -> None:
    plane, random = HalfPlane(BOX, largest_radius(BOX)), np.random.default_rng(1)
    search = Band.at(BOX, plane.radius).search(2.0)
    volume = random.standard_normal((BOX,) * 3).astype(np.float32)
    power = projected_power([Reference.prepare(volume * scale, plane, plane.radius, IDENTITY, search) for scale in (1.0, 2.0)],
                            np.array([1.0, 1.0]), 8)
    # white in three dimensions: |F|^2 of a unitary transform of a projection is D times the variance
    np.testing.assert_allclose(power[2:] / BOX, 0.5 * (1.0 + 4.0), rtol=0.2)
    alone = projected_power([Reference.prepare(volume * scale, plane, plane.radius, IDENTITY, search) for scale in (1.0, 2.0)],
                            np.array([1.0, 0.0]), 8)
    np.testing.assert_allclose(alone / power, 1.0 / 2.5, rtol=1e-3)


@pytest.mark.parametrize("unknown", [-50.0, 0.0, 50.0])
def test_none_of_the_classes_is_noise_and_something_unknown_by_halves(unknown: float) -> None:
    null = 0.4 * 0.5 * (1.0 + np.exp(unknown))
    found = class_posterior(np.zeros((1, 1)), np.log([0.6]), np.log(0.4) + np.logaddexp(0.0, unknown) - np.log(2.0))
    np.testing.assert_allclose(found[0, 0], 0.6 / (0.6 + null), rtol=1e-9)


def test_where_a_part_of_the_particles_would_be_taken_for_something_unknown_nothing_is() -> None:
    random, zero = np.random.default_rng(2), np.zeros(1000)
    clear = np.where(random.random(1000) < 0.2, -60.0, 27.0 + 8.0 * random.standard_normal(1000))  # a fifth is junk
    assert can_be_told(clear, zero) and not can_be_told(16.0 + 20.0 * random.standard_normal(1000), zero)
