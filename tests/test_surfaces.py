"""Maps as surfaces: where they lie, which way they face, how many triangles they have, and what a page restores of them."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from protomer.maps.volumes import Volume
from protomer.report.surface_pictures import MARGIN, PIXELS, still_picture
from protomer.report.surfaces import level_by_rule, packed, surface_of, unpacked

BALL_A = np.array([9.0, -6.0, 15.0])  # x, y, z of its centre; radius 12 Å


def ball(box: int = 32, voxel_size_A: float = 3.0, noise: float = 0.0) -> Volume:
    """A ball of density 1 with an edge one voxel wide."""
    z, y, x = np.indices((box,) * 3) - box // 2
    distance_A = np.sqrt(sum((voxel_size_A * axis - at) ** 2 for axis, at in zip((x, y, z), BALL_A, strict=True)))
    data = np.clip((12.0 - distance_A) / voxel_size_A + 0.5, 0.0, 1.0)
    return Volume((data + noise * np.random.default_rng(0).standard_normal(data.shape)).astype(np.float32), voxel_size_A)


def enclosed_A3(vertices: np.ndarray, faces: np.ndarray) -> float:
    """The signed volume inside a closed surface: positive where its faces turn anticlockwise seen from outside."""
    a, b, c = (vertices[faces[:, corner]].astype(float) for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


def test_a_surface_lies_where_the_density_is_and_faces_outwards() -> None:
    surface = surface_of(ball(), 0.5, 100_000)
    np.testing.assert_allclose(surface.vertices.mean(axis=0), BALL_A, atol=0.2)
    np.testing.assert_allclose(np.linalg.norm(surface.vertices - BALL_A, axis=1), 12.0, atol=0.5)
    assert enclosed_A3(surface.vertices, surface.faces) == pytest.approx(4 / 3 * np.pi * 12.0**3, rel=0.05)


def test_density_that_the_box_cuts_off_is_closed_there() -> None:
    half_space = np.zeros((16, 16, 16), np.float32)
    half_space[:, :, 8:] = 1.0
    surface = surface_of(Volume(half_space, 1.0), 0.5, 100_000)
    assert enclosed_A3(surface.vertices, surface.faces) == pytest.approx(16 * 16 * 8, rel=0.02)


def test_too_many_triangles_are_made_fewer_by_a_coarser_map_that_lies_at_the_same_place() -> None:
    many, few = (surface_of(ball(64, 1.5), 0.5, most) for most in (100_000, 800))
    assert len(many.faces) > 2000 and 200 < len(few.faces) <= 800
    assert few.voxel_size_A > many.voxel_size_A == 1.5
    np.testing.assert_allclose(few.vertices.mean(axis=0), BALL_A, atol=0.6)


def test_specks_are_left_out_and_an_empty_map_has_no_triangle() -> None:
    speckled = ball()
    speckled.data[2, 2:4, 2] = 1.0
    assert len(surface_of(speckled, 0.5, 100_000).faces) == len(surface_of(ball(), 0.5, 100_000).faces)
    assert len(surface_of(Volume(np.zeros((16,) * 3, np.float32), 1.0), 0.5, 100).faces) == 0


def test_the_level_lies_above_the_noise_and_inside_the_density() -> None:
    assert level_by_rule(ball()) == pytest.approx(0.3, abs=0.01)
    assert 0.4 < level_by_rule(ball(noise=0.12)) < 0.6
    assert level_by_rule(Volume(5 + 10 * ball().data, 3.0)) == pytest.approx(5 + 10 * level_by_rule(ball()), rel=1e-4)


def test_a_packed_surface_comes_back_to_a_part_in_65000() -> None:
    surface = surface_of(ball(), 0.5, 100_000)
    text = packed(surface)
    vertices, faces = unpacked(text, len(surface.faces), surface.reach_A)
    assert np.array_equal(faces, surface.faces)
    np.testing.assert_allclose(vertices, surface.vertices, atol=surface.reach_A / 65000)
    assert len(text) < 0.7 * (surface.vertices.nbytes + surface.faces.nbytes)


def test_the_still_picture_shows_the_surface_from_the_positive_end_of_z() -> None:
    surface = surface_of(ball(), 0.5, 100_000)
    picture = matplotlib.image.imread(io.BytesIO(still_picture(surface, "#3b82c4", 48.0)))
    assert picture.shape == (PIXELS, PIXELS, 4)
    up, across = np.nonzero(picture[..., 3])
    centre_A = (np.array([across.mean(), PIXELS - 1 - up.mean()]) / PIXELS - 0.5) * 2 * 48.0 * MARGIN
    np.testing.assert_allclose(centre_A, BALL_A[:2], atol=0.5)
    assert len(up) / PIXELS**2 == pytest.approx(np.pi * 12**2 / (2 * 48 * MARGIN) ** 2, rel=0.05)
    lit = picture[..., 2][picture[..., 3] > 0]
    assert lit.max() > 1.5 * lit.min() > 0
