"""Shells and FSC against sums over the full complex transform in float64."""

from __future__ import annotations

import numpy as np
import pytest

from protomer_kernels import shells


def oracle_sums(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per shell sums over every coefficient of the full transform, and how many there are."""
    box = a.shape[0]
    k = np.fft.fftfreq(box) * box
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    shell = np.floor(radius + 0.5).astype(int)
    fa, fb = np.fft.fftn(a.astype(np.float64)), np.fft.fftn(b.astype(np.float64))
    rows, counts = [], []
    for s in range(box // 2 + 1):
        inside = shell == s
        rows.append([np.sum(fa[inside] * fb[inside].conj()).real, np.sum(np.abs(fa[inside]) ** 2), np.sum(np.abs(fb[inside]) ** 2)])
        counts.append(inside.sum())
    return np.array(rows), np.array(counts)


def pair(box: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((box,) * 3).astype(np.float32)
    return a, (0.6 * a + rng.standard_normal((box,) * 3)).astype(np.float32)


@pytest.mark.parametrize("box", [15, 16])
def test_fsc_and_its_sums_equal_those_over_the_full_transform(box: int) -> None:
    a, b = pair(box)
    expected, counts = oracle_sums(a, b)
    np.testing.assert_allclose(shells.shell_cross_sums(np.fft.rfftn(a), np.fft.rfftn(b)), expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(shells.fourier_shell_correlation(a, b), expected[:, 0] / np.sqrt(expected[:, 1] * expected[:, 2]), atol=1e-5)
    np.testing.assert_array_equal(shells.shell_counts(box), counts)
    np.testing.assert_allclose(shells.shell_power(a), expected[:, 1] / counts, rtol=1e-4)
    np.testing.assert_allclose(shells.shell_mean(np.abs(np.fft.rfftn(a)) ** 2), expected[:, 1] / counts, rtol=1e-5)


def test_fsc_does_not_change_with_grey_scale_and_is_one_for_the_same_map() -> None:
    a, b = pair(16)
    np.testing.assert_allclose(shells.fourier_shell_correlation(7 * a, b), shells.fourier_shell_correlation(a, b), atol=1e-6)
    np.testing.assert_allclose(shells.fourier_shell_correlation(a, a), 1, atol=1e-6)
    np.testing.assert_allclose(shells.fourier_shell_correlation(a, -a), -1, atol=1e-6)


def test_a_shell_without_power_has_correlation_zero() -> None:
    flat = np.ones((8, 8, 8), np.float32)
    np.testing.assert_array_equal(shells.fourier_shell_correlation(flat, flat), [1, 0, 0, 0, 0])


def test_fsc_gives_the_same_bits_with_any_number_of_fft_workers() -> None:
    from scipy import fft

    a, b = pair(48)
    one = shells.fourier_shell_correlation(a, b)
    with fft.set_workers(3):
        np.testing.assert_array_equal(shells.fourier_shell_correlation(a, b), one)


@pytest.mark.parametrize("box", [9, 10])
def test_shell_indices_agree_between_half_and_centred_layouts(box: int) -> None:
    centred = shells.centred_shell_index(box, 3)
    half = np.fft.ifftshift(centred)[..., : box // 2 + 1]
    np.testing.assert_array_equal(half, shells.half_shell_index(box, 3))
    assert centred[box // 2, box // 2, box // 2] == 0


def test_spreading_shells_gives_them_back_where_a_coefficient_lies_on_a_shell() -> None:
    per_shell = np.array([5.0, 4.0, 1.0, 0.5, 0.25])
    grid = shells.spread_over_half_grid(per_shell, 8, 3)
    np.testing.assert_allclose(grid[0, 0, :], per_shell)
    np.testing.assert_allclose(grid[0, 1, 1], np.interp(np.sqrt(2), range(5), per_shell), rtol=1e-6)
    assert grid[4, 4, 4] == 0


def test_centred_shell_mean_is_the_mean_over_each_ring() -> None:
    image = np.random.default_rng(3).standard_normal((9, 9)).astype(np.float32)
    y, x = np.mgrid[-4:5, -4:5]
    expected = [image[np.rint(np.hypot(x, y)) == s].mean() for s in range(5)]
    np.testing.assert_allclose(shells.centred_shell_mean(image), expected, rtol=1e-5, atol=1e-6)


def test_transforms_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="half transforms"):
        shells.shell_cross_sums(np.zeros((8, 8, 5), complex), np.zeros((8, 8, 8), complex))
