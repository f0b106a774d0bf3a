"""References of classes about what they have in common."""

from __future__ import annotations

import numpy as np
import scipy.fft

from protomer.classes.consensus import LEAST_TOLD_APART, expected, told_apart
from protomer.maps.volumes import Halves
from protomer_kernels.padded import PADDING
from protomer_kernels.wiener import add_expected, quotient

BOX, SHELLS = 24, 12


def transforms(random: np.random.Generator, signal: np.ndarray, noise: float) -> Halves[np.ndarray]:
    """Transforms of two half maps of a structure."""
    return Halves(*(scipy.fft.rfftn(signal + noise * random.standard_normal(signal.shape)) for _ in range(2)))


def test_share_and_difference_of_a_class_are_found_without_their_noise() -> None:
    random = np.random.default_rng(4)
    common, other = random.standard_normal((2, BOX, BOX, BOX))
    everything = transforms(random, common, 0.3)
    beyond = slice(3, SHELLS)  # shells of enough coefficients
    for share, apart, noise in ((1.0, 0.0, 1.0), (0.5, 0.0, 1.0), (0.0, 0.0, 1.0), (0.8, 1.5, 0.8)):
        found, ratio = expected(transforms(random, share * common + apart * other, noise), everything, SHELLS)
        assert np.abs(found[beyond] - share).mean() < 0.1
        assert np.abs(ratio[beyond] - (apart / noise) ** 2).mean() < 0.1 * max(1.0, (apart / noise) ** 2)


def test_a_class_without_images_is_expected_to_be_nothing() -> None:
    nothing = Halves.of(np.zeros((BOX, BOX, BOX // 2 + 1), complex))
    share, ratio = expected(nothing, transforms(np.random.default_rng(5), np.ones((BOX,) * 3), 1.0), SHELLS)
    assert not share.any() and not ratio.any()


def test_certain_posteriors_tell_classes_apart_and_those_by_class_size_do_not() -> None:
    certain = np.eye(3)[np.random.default_rng(6).integers(0, 3, 90)]
    np.testing.assert_allclose(told_apart(certain), 1.0)
    np.testing.assert_allclose(told_apart(np.tile([0.7, 0.3], (50, 1))), LEAST_TOLD_APART)
    # images of a known mixture: half of them certain, half without any information
    half_certain = np.concatenate([np.eye(2)[np.arange(100) % 2], np.full((100, 2), 0.5)])
    np.testing.assert_allclose(told_apart(half_certain), 0.5)


def test_a_map_is_pulled_towards_what_is_expected_as_the_formula_says() -> None:
    random, side = np.random.default_rng(7), 13
    shape = (side, side, side // 2 + 1)
    numerator, mean = (random.standard_normal((2, *shape)) + 1j * random.standard_normal((2, *shape))).astype(np.complex64)
    weight, ridge, share = random.random(shape).astype(np.float32), np.array([0.5, 1.0, 2.0, 4.0]), np.array([1.0, 0.7, 0.3, 0.0])
    axis = np.arange(side) - side // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(side // 2 + 1) ** 2)
    shell = np.rint(radius / PADDING).astype(int)
    inside, at = shell < 4, np.minimum(shell, 3)
    expected_map = np.where(inside, (numerator + (ridge * share)[at] * mean) / (weight + ridge[at]), 0)
    add_expected(numerator, ridge * share, mean)
    np.testing.assert_allclose(quotient(numerator, weight, ridge), expected_map, rtol=2e-5, atol=1e-6)
