"""Fourier crops, filters, phase randomisation and resampling against direct sums and analytic maps."""

from __future__ import annotations

import numpy as np
import pytest

from protomer_kernels import fourier
from protomer_kernels.shells import shell_power


def waves(box: int, coordinates: np.ndarray, seed: int = 2, highest: int = 3) -> np.ndarray:
    """A sum of plane waves of up to `highest` cycles per field of view, at (..., d) fractions of the field from the centre."""
    rng = np.random.default_rng(seed)
    out = np.full(coordinates.shape[:-1], 0.7)
    for _ in range(12):
        k = rng.integers(-highest, highest + 1, coordinates.shape[-1])
        out = out + rng.standard_normal() * np.cos(2 * np.pi * coordinates @ k + rng.uniform(0, 6))
    return out


def grid(box: int, ndim: int) -> np.ndarray:
    axis = (np.arange(box) - box // 2) / box
    return np.stack(np.meshgrid(*[axis] * ndim, indexing="ij"), -1)


@pytest.mark.parametrize("old", [16, 17])
@pytest.mark.parametrize("new", [8, 9, 16, 17, 24, 25])
def test_resizing_samples_the_same_band_limited_field_about_the_same_centre(old: int, new: int) -> None:
    image, volume = waves(old, grid(old, 2)), waves(old, grid(old, 3))
    resize_images = fourier.crop_images if new <= old else fourier.pad_images
    resize_volume = fourier.crop_volume if new <= old else fourier.pad_volume
    np.testing.assert_allclose(resize_images(np.stack([image, 2 * image]), new)[1], 2 * waves(new, grid(new, 2)), atol=1e-12)
    np.testing.assert_allclose(resize_volume(volume, new), waves(new, grid(new, 3)), atol=1e-12)


@pytest.mark.parametrize("small", [8, 9])
@pytest.mark.parametrize("large", [12, 13])
def test_cropping_what_was_padded_gives_back_any_array(small: int, large: int) -> None:
    images = np.random.default_rng(0).standard_normal((3, small, small)).astype(np.float32)
    back = fourier.crop_images(fourier.pad_images(images, large), small)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, images, atol=1e-5)


def test_cropping_white_noise_lowers_its_variance_by_the_ratio_of_pixel_numbers() -> None:
    noise = np.random.default_rng(0).standard_normal((20, 64, 64))
    assert fourier.crop_images(noise, 31).var() == pytest.approx((31 / 64) ** 2, rel=0.05)


def test_cropping_to_a_larger_box_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot crop"):
        fourier.crop_volume(np.zeros((4, 4, 4), np.float32), 6)
    with pytest.raises(ValueError, match="cannot pad"):
        fourier.pad_images(np.zeros((4, 4), np.float32), 2)


@pytest.mark.parametrize(("old", "new"), [(5, 8), (8, 5), (8, 11), (9, 6), (6, 9), (7, 7)])
def test_cutting_the_field_keeps_the_centre_in_the_centre(old: int, new: int) -> None:
    volume = np.random.default_rng(1).standard_normal((old, old, old)).astype(np.float32)
    out = fourier.resize_field(volume, new, 3, fill=9)
    assert out[new // 2, new // 2, new // 2] == volume[old // 2, old // 2, old // 2]
    assert out[new // 2 - 1, new // 2, new // 2 + 1] == volume[old // 2 - 1, old // 2, old // 2 + 1]
    assert (out == 9).sum() == new**3 - min(old, new) ** 3


def direct_filter(volume: np.ndarray, weight_of_radius) -> np.ndarray:
    box = volume.shape[0]
    k = np.fft.fftfreq(box) * box
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    return np.fft.ifftn(np.fft.fftn(volume) * weight_of_radius(radius)).real


@pytest.mark.parametrize("box", [15, 16])
def test_filters_multiply_the_full_transform_by_their_weights(box: int) -> None:
    volume = np.random.default_rng(4).standard_normal((box, box, box))
    step = lambda r: np.where(r < 3, 1, np.where(r > 5, 0, 0.5 + 0.5 * np.cos(np.pi * (r - 3) / 2)))  # noqa: E731
    np.testing.assert_allclose(fourier.low_pass(volume, 4, 2), direct_filter(volume, step), atol=1e-6)
    np.testing.assert_allclose(fourier.high_pass(volume, 4, 2), direct_filter(volume, lambda r: 1 - step(r)), atol=1e-6)
    np.testing.assert_allclose(fourier.low_pass(volume, 4, 0), direct_filter(volume, lambda r: r <= 4), atol=1e-6)
    b_factor = direct_filter(volume, lambda r: np.exp(-80 / 4 * (r / (box * 1.7)) ** 2))
    np.testing.assert_allclose(fourier.apply_b_factor(volume, 80, 1.7), b_factor, atol=1e-6)
    weights = np.linspace(1, 0.2, box // 2 + 1)
    expected = direct_filter(volume, lambda r: np.interp(r, np.arange(box // 2 + 1), weights, right=0))
    np.testing.assert_allclose(fourier.apply_shell_filter(volume, weights), expected, atol=1e-6)


@pytest.mark.parametrize("box", [15, 16])
def test_randomised_phases_keep_every_amplitude_and_all_low_frequencies(box: int) -> None:
    volume = np.random.default_rng(4).standard_normal((box, box, box)) + 5
    out = fourier.phase_randomise(volume, 4, np.random.default_rng(1))
    before, after = np.fft.fftn(volume), np.fft.fftn(out)
    np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=1e-4, atol=1e-4)
    k = np.fft.fftfreq(box) * box
    low = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2) < 3.5
    np.testing.assert_allclose(after[low], before[low], atol=1e-4)
    turned = np.angle(after[~low] / before[~low])
    assert abs(np.exp(1j * turned).mean()) < 4 / np.sqrt(turned.size / 2)


def test_randomising_phases_depends_on_the_generator_alone() -> None:
    volume = np.random.default_rng(4).standard_normal((12, 12, 12)).astype(np.float32)
    first, again, other = (fourier.phase_randomise(volume, 3, np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert first.dtype == np.float32


@pytest.mark.parametrize(("old", "new"), [(16, 16), (17, 20), (16, 13), (24, 17)])
def test_resampling_onto_a_divided_field_equals_cropping_or_padding(old: int, new: int) -> None:
    volume = waves(old, grid(old, 3))
    np.testing.assert_allclose(fourier.resample_volume(volume, 2.0, new, 2.0 * old / new), waves(new, grid(new, 3)), atol=1e-12)


@pytest.mark.parametrize(("box", "size"), [(40, 1.0), (41, 1.3), (30, 0.83), (25, 2.1)])
def test_resampling_a_gaussian_gives_its_values_at_the_new_voxels(box: int, size: float) -> None:
    def gaussian(n: int, voxel: float) -> np.ndarray:
        axis = (np.arange(n) - n // 2) * voxel
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        return np.exp(-((z - 1) ** 2 + (y + 2) ** 2 + x**2) / (2 * 3.0**2))

    out = fourier.resample_volume(gaussian(36, 1.1), 1.1, box, size)
    expected = gaussian(box, size)
    inside = np.abs((np.arange(box) - box // 2) * size) <= 36 * 1.1 / 2
    expected[~inside] = 0
    expected[:, ~inside] = 0
    expected[:, :, ~inside] = 0
    np.testing.assert_allclose(out, expected, atol=1e-3)


def test_resampling_leaves_out_what_the_new_voxels_cannot_hold() -> None:
    noise = np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)
    coarse = fourier.resample_volume(noise, 1.0, 16, 2.0)
    assert coarse.dtype == np.float32
    assert shell_power(coarse)[1:7].mean() == pytest.approx(shell_power(noise)[1:7].mean() / 64, rel=0.1)
