"""Views under CTF and shift, and back to images: against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest

from protomer_kernels.half_plane import HalfPlane, largest_radius, transform_images
from protomer_kernels.seen_views import images_of, seen_coefficients


def test_seen_coefficients_are_the_slice_times_amplitude_and_the_phase_of_the_shift() -> None:
    random, plane = np.random.default_rng(5), HalfPlane(24, 11)
    slices = random.standard_normal((3, 2, len(plane))).astype(np.float32)
    amplitude = random.standard_normal((3, len(plane))).astype(np.float32)
    shift = random.uniform(-9, 9, (3, 2))
    out = np.empty((3, len(plane), 2), np.float32)
    seen_coefficients(slices, shift, amplitude, plane.arrays(len(plane)), out)
    turns = shift @ plane.coordinates.T / plane.box
    expected = amplitude * (slices[:, 0].astype(np.float64) + 1j * slices[:, 1]) * np.exp(2j * np.pi * turns)
    np.testing.assert_allclose(out[..., 0] + 1j * out[..., 1], expected, atol=2e-5)


def test_a_positive_shift_is_what_moves_the_centre_of_the_view_to_minus_it() -> None:
    """The shift is added to an image to centre it: a point at the centre of the map is seen at -shift."""
    plane = HalfPlane(16, 7)
    slices = np.zeros((1, 2, len(plane)), np.float32)
    slices[:, 0] = 1.0
    out = np.empty((1, len(plane), 2), np.float32)
    seen_coefficients(slices, np.array([[3.0, -2.0]]), np.ones((1, len(plane)), np.float32), plane.arrays(len(plane)), out)
    image = images_of(out.view(np.complex64)[..., 0], plane)[0]
    assert np.unravel_index(image.argmax(), image.shape) == (8 + 2, 8 - 3)


@pytest.mark.parametrize("box", [15, 16])
def test_images_come_back_from_their_coefficients_and_a_prefix_gives_the_low_passed_image(box: int) -> None:
    random, plane = np.random.default_rng(6), HalfPlane(box, largest_radius(box))
    images = random.standard_normal((4, box, box)).astype(np.float32)
    coefficients = transform_images(images, plane)
    again = images_of(coefficients, plane)
    np.testing.assert_allclose(transform_images(again, plane), coefficients, atol=1e-5)
    length = plane.prefix(3)
    y, x = np.indices((box, box)) - box // 2
    low = np.zeros((4, box, box))
    for k, (kx, ky) in enumerate(plane.coordinates[:length]):
        wave = np.exp(2j * np.pi * (kx * x + ky * y) / box) / box
        low += plane.multiplicity[k] * (coefficients[:, k, None, None] * wave).real
    np.testing.assert_allclose(images_of(coefficients[:, :length], plane), low, atol=1e-5)
