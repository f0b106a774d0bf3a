"""Slices of a Fourier volume against plain trilinear reading and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_oracles import BOX, PLANE, blob_map, blob_model, blob_transform, extract, oracle_slice, random_rotations
from protomer_kernels import slices
from protomer_kernels.half_plane import HalfPlane, largest_radius


@pytest.fixture(scope="module")
def model() -> np.ndarray:
    return blob_model()


def test_slices_equal_trilinear_reading_in_double_precision(model: np.ndarray) -> None:
    turns = random_rotations(6, 4)
    expected = np.array([oracle_slice(model, turn) for turn in turns])
    np.testing.assert_allclose(extract(model, turns), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("box", [16, 17])
def test_a_delta_at_the_centre_stays_there_under_100_rotations(box: int) -> None:
    volume = np.zeros((box,) * 3, np.float32)
    volume[(box // 2,) * 3] = 3.0
    plane = HalfPlane(box, largest_radius(box))
    views = extract(slices.transform_volume(volume, plane.radius, 2.0), random_rotations(100, 5), plane)
    np.testing.assert_allclose(views, 6.0 / box, atol=1e-6)


def test_slices_have_friedel_symmetry(model: np.ndarray) -> None:
    turns = np.concatenate([random_rotations(20, 6), np.eye(3)[None]]).astype(np.float32)
    out = np.empty((2, len(turns), 2, len(PLANE)), np.float32)
    slices.extract_slices(model, turns, PLANE.kx, PLANE.ky, out[0])
    slices.extract_slices(model, turns, -PLANE.kx, -PLANE.ky, out[1])
    np.testing.assert_allclose(out[1, :, 0], out[0, :, 0], atol=1e-5)
    np.testing.assert_allclose(out[1, :, 1], -out[0, :, 1], atol=1e-5)


def test_slices_of_a_gaussian_equal_the_closed_form_of_its_projections() -> None:
    box, blob = 24, ((1.2, -0.8, 0.5, 1.3, 2.0),)
    plane = HalfPlane(box, largest_radius(box))
    turns = random_rotations(50, 7)
    expected = blob_transform(np.einsum("nij,kj->nki", turns[:, :, :2], plane.coordinates.astype(float)), box, blob)
    found = extract(slices.transform_volume(blob_map(box, blob), plane.radius), turns, plane)
    # Linear reading of a wave from r px away, at padding 2, is wrong by at most (pi r / 2 box)^2 / 3; here <r^2> = 7.4 px^2.
    assert np.abs(found - expected).max() < 0.015 * np.abs(expected).max()
    assert np.linalg.norm(found - expected) < 0.006 * np.linalg.norm(expected)


def test_a_slice_at_identity_is_the_transform_of_the_sum_along_z(model: np.ndarray) -> None:
    image = blob_map().sum(0, dtype=np.float64)
    r = np.arange(BOX) - BOX // 2
    k = PLANE.coordinates
    waves = [np.exp(-2j * np.pi * np.outer(k[:, axis], r) / BOX) for axis in (0, 1)]
    expected = np.einsum("yx,kx,ky->k", image, waves[0], waves[1]) / BOX
    # Points on the lattice are read exactly, so what is left is the division by sinc^2, which is undone only off the lattice.
    assert np.linalg.norm(extract(model, np.eye(3)[None])[0] - expected) < 0.06 * np.linalg.norm(expected)
