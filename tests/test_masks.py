"""Masks against brute-force distances in float64 and against SciPy's morphology."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from protomer_kernels import masks


def brute_distance(binary: np.ndarray) -> np.ndarray:
    points = np.argwhere(binary).astype(float)
    grid = np.stack(np.meshgrid(*map(np.arange, binary.shape), indexing="ij"), -1).astype(float)
    return np.sqrt(((grid[..., None, :] - points) ** 2).sum(-1)).min(-1)


def cosine(distance: np.ndarray, width: float) -> np.ndarray:
    return np.where(distance <= 0, 1, np.where(distance >= width, 0, (1 + np.cos(np.pi * distance / width)) / 2))


@pytest.fixture
def blobs() -> np.ndarray:
    rng = np.random.default_rng(5)
    binary = rng.random((13, 12, 14)) > 0.997
    binary[3, 4, 5] = True
    return binary


@pytest.mark.parametrize("limit", [0, 1, 4, 40])
def test_distances_are_exact_within_the_limit_and_infinite_beyond(blobs: np.ndarray, limit: int) -> None:
    expected = brute_distance(blobs)
    np.testing.assert_allclose(masks.distance_to(blobs, limit), np.where(expected <= limit, expected, np.inf), rtol=1e-6)


def test_distances_agree_with_scipy_on_a_larger_set() -> None:
    binary = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((40, 40, 40)), 3) > 0.08
    np.testing.assert_allclose(masks.distance_to(binary, 60), ndimage.distance_transform_edt(~binary), rtol=1e-6)


def test_an_empty_set_is_infinitely_far_and_gives_an_empty_mask() -> None:
    nothing = np.zeros((5, 5, 5), bool)
    assert np.isinf(masks.distance_to(nothing, 3)).all()
    assert not masks.soft_edge(nothing, 3).any()
    assert not masks.largest_component(nothing).any()


@pytest.mark.parametrize("width", [0.0, 2.5, 5.0])
def test_a_soft_edge_is_half_a_cosine_of_the_distance(blobs: np.ndarray, width: float) -> None:
    np.testing.assert_allclose(masks.soft_edge(blobs, width), cosine(brute_distance(blobs), max(width, 1e-9)), atol=1e-6)


@pytest.mark.parametrize("box", [15, 16])
def test_spheres_and_discs_have_their_radius_edge_and_centre(box: int) -> None:
    offset = np.arange(box) - box // 2
    radius = np.sqrt(offset[:, None, None] ** 2 + offset[None, :, None] ** 2 + offset[None, None, :] ** 2)
    np.testing.assert_allclose(masks.sphere_mask(box, 3.3, 2.5), cosine(radius - 3.3, 2.5), atol=1e-6)
    np.testing.assert_allclose(masks.disc_mask(box, 3.3, 2.5), cosine(radius[box // 2] - 3.3, 2.5), atol=1e-6)
    moved = masks.sphere_mask(box, 3.3, 2.5, (box // 2 + 1, box // 2 - 2, box // 2))
    np.testing.assert_allclose(moved, np.roll(cosine(radius - 3.3, 2.5), (1, -2), (0, 1)), atol=1e-6)


def test_a_cylinder_stands_along_z_with_its_height_and_radius() -> None:
    mask = masks.cylinder_mask(16, 3, 8, 0)
    assert mask[8 - 4: 8 + 5, 8, 8].all() and not mask[3, 8, 8] and not mask[13, 8, 8]
    assert mask[8, 8, 5: 12].all() and not mask[8, 8, 4] and not mask[8, 12, 8]
    soft = masks.cylinder_mask(16, 3, 8, 4)
    assert soft[8, 8, 13] == pytest.approx(0.5) and soft[14, 8, 8] == pytest.approx(0.5)


def test_dilation_and_erosion_undo_each_other_on_a_ball_and_agree_with_distances() -> None:
    ball = masks.sphere_mask(24, 6, 0) > 0
    grown = masks.dilate(ball, 3.5)
    np.testing.assert_array_equal(grown, ndimage.distance_transform_edt(~ball) <= 3.5)
    np.testing.assert_array_equal(masks.erode(grown, 3.5), ndimage.distance_transform_edt(grown) > 3.5)


def test_the_largest_component_is_kept_and_holes_are_filled() -> None:
    shell = (masks.sphere_mask(24, 7, 0, (11, 11, 11)) > 0) & ~(masks.sphere_mask(24, 4, 0, (11, 11, 11)) > 0)
    with_dust = shell.copy()
    with_dust[0, 0, :5] = True
    np.testing.assert_array_equal(masks.largest_component(with_dust), shell)
    np.testing.assert_array_equal(masks.fill_holes(shell), ndimage.binary_fill_holes(shell))
    assert masks.fill_holes(shell)[11, 11, 11]
    np.testing.assert_array_equal(masks.fill_holes(with_dust), ndimage.binary_fill_holes(with_dust))


def test_the_dynamic_mask_is_one_to_near_and_zero_from_far() -> None:
    volume = masks.sphere_mask(32, 4, 0) * np.float32(3)
    volume[16, 16, 16] = 10
    mask = masks.dynamic_mask(volume, 0.2, 3, 7)
    distance = brute_distance(volume >= 2)
    np.testing.assert_allclose(mask, cosine(distance - 3, 4), atol=1e-6)
    assert masks.dynamic_mask(volume, 0.5, 3, 7).sum() < mask.sum()


def test_a_dynamic_mask_of_an_impossible_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="near <= far"):
        masks.dynamic_mask(np.ones((4, 4, 4), np.float32), 0.2, 5, 3)
    with pytest.raises(ValueError, match="positive maximum"):
        masks.dynamic_mask(np.zeros((4, 4, 4), np.float32), 0.2, 1, 3)
