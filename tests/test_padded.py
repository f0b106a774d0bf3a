"""Padded transforms without the padded box, against NumPy's transform of the padded box in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from protomer_kernels.padded import LAYERS, PADDING, map_of_transform, padded_transform

INSIDE_NYQUIST = [(12, 5), (13, 5), (12, 11), (20, LAYERS // 2 + 2), (LAYERS + 3, 7)]
AT_NYQUIST_AND_BEYOND = [(12, 12), (13, 13), (13, 14), (12, 15)]


def random_map(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)


def oracle_transform(volume: np.ndarray, reach: int) -> np.ndarray:
    """Coefficients |k| <= reach, x >= 0, of the map in a box of zeros, about the voxel box // 2."""
    box = len(volume)
    padded = np.zeros((PADDING * box,) * 3)
    padded[:box, :box, :box] = volume
    spectrum = np.fft.fftn(np.roll(padded, -(box // 2), axis=(0, 1, 2)))
    signed = np.arange(-reach, reach + 1) % (PADDING * box)
    return spectrum[np.ix_(signed, signed, signed[reach:])]


def oracle_map(spectrum: np.ndarray, box: int) -> np.ndarray:
    """The real map of the coefficients inside Nyquist and of their Friedel mates; the plane x = 0, which holds both, is averaged."""
    centre, padded = (len(spectrum) - 1) // 2, PADDING * box
    reach = min(centre, box - 1)
    whole = np.zeros((padded,) * 3, complex)
    inside = np.arange(-reach, reach + 1)
    core = spectrum[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1, : reach + 1]
    whole[np.ix_(inside % padded, inside % padded, inside[reach:] % padded)] += core
    whole[np.ix_(-inside % padded, -inside % padded, -inside[reach:] % padded)] += core.conj()
    whole[:, :, 0] /= 2
    found = np.fft.ifftn(whole)
    assert np.abs(found.imag).max() < 1e-12 * np.abs(found).max()
    return np.roll(found.real, box // 2, axis=(0, 1, 2))[:box, :box, :box]


@pytest.mark.parametrize(("box", "reach"), INSIDE_NYQUIST + AT_NYQUIST_AND_BEYOND)
def test_a_padded_transform_equals_numpys_in_double_precision(box: int, reach: int) -> None:
    volume = random_map(box, 33)
    found = padded_transform(volume, reach)
    assert found.dtype == np.complex64 and found.shape == (2 * reach + 1, 2 * reach + 1, reach + 1)
    expected = oracle_transform(volume, reach)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(padded_transform(volume, reach, workers=2), found)


@pytest.mark.parametrize(("box", "reach"), INSIDE_NYQUIST + AT_NYQUIST_AND_BEYOND)
def test_the_map_of_a_transform_equals_numpys_in_double_precision(box: int, reach: int) -> None:
    rng = np.random.default_rng(34)
    shape = (2 * reach + 1, 2 * reach + 1, reach + 1)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    found = map_of_transform(spectrum, box)
    assert found.dtype == np.float32
    expected = oracle_map(spectrum.astype(complex), box)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(map_of_transform(spectrum, box, workers=2), found)


@pytest.mark.parametrize(("box", "reach"), [(12, 7), (13, 12), (20, 19)])
def test_the_way_back_is_the_adjoint_of_the_way_there(box: int, reach: int) -> None:
    rng = np.random.default_rng(35)
    volume = random_map(box, 35)
    shape = (2 * reach + 1, 2 * reach + 1, reach + 1)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    there = padded_transform(volume, reach).astype(complex)
    back = map_of_transform(spectrum, box).astype(float)
    for_both = np.full(reach + 1, 2.0)  # a coefficient with x > 0 stands for its mate too
    for_both[0] = 1.0
    forward = (for_both * (there.conj() * spectrum).real).sum()
    backward = (PADDING * box) ** 3 * (volume * back).sum()
    assert abs(forward - backward) < 1e-6 * np.linalg.norm(there) * np.linalg.norm(spectrum)
