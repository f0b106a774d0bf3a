"""The half plane of Fourier coefficients, and the transforms of images to it."""

from __future__ import annotations

import numpy as np
import pytest

from protomer_kernels.half_plane import HalfPlane, largest_radius, transform_images


@pytest.mark.parametrize("box", [16, 17])
def test_the_half_plane_and_its_mates_cover_the_disc_once(box: int) -> None:
    plane = HalfPlane(box, largest_radius(box))
    own = [tuple(k) for k in plane.coordinates.tolist()]
    mates = [(-x, -y) for x, y in own[1:]]
    r = plane.radius
    disc = {(x, y) for x in range(-r, r + 1) for y in range(-r, r + 1) if x * x + y * y <= r * r}
    assert own[0] == (0, 0) and set(own) | set(mates) == disc and len(own) + len(mates) == len(disc) == plane.multiplicity.sum()
    np.testing.assert_array_equal(plane.shell, np.floor(np.hypot(plane.kx.astype(float), plane.ky) + 0.5))


@pytest.mark.parametrize("box", [16, 17])
def test_a_lower_resolution_is_a_prefix(box: int) -> None:
    plane = HalfPlane(box, largest_radius(box))
    length = np.hypot(*plane.coordinates.T.astype(float))
    for radius in range(1, plane.radius + 1):
        count = plane.prefix(radius)
        assert length[:count].max() <= radius < length[count:].min(initial=np.inf)
        np.testing.assert_array_equal(HalfPlane(box, radius).coordinates, plane.coordinates[:count])


@pytest.mark.parametrize("radius", [0, 8])
def test_a_radius_past_nyquist_or_of_nothing_is_refused(radius: int) -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.7"):
        HalfPlane(16, radius)


@pytest.mark.parametrize(("size", "box"), [(16, 16), (17, 17), (24, 16), (21, 16), (22, 17), (23, 17)])
def test_image_transforms_equal_a_direct_sum_about_the_centre_pixel(size: int, box: int) -> None:
    images = np.random.default_rng(1).standard_normal((3, size, size)).astype(np.float32)
    plane = HalfPlane(box, largest_radius(box))
    r = np.arange(size) - size // 2
    along_x = np.exp(-2j * np.pi * np.outer(plane.coordinates[:, 0], r) / size)
    along_y = np.exp(-2j * np.pi * np.outer(plane.coordinates[:, 1], r) / size)
    expected = np.einsum("nyx,kx,ky->nk", images.astype(float), along_x, along_y, optimize=True) * box / size**2
    np.testing.assert_allclose(transform_images(images, plane), expected, atol=3e-6)
