"""References regularised place by place: bands that add up, gains that are Wiener's where truth is known, noise left out."""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from protomer.engine.maximisation import solid_sphere
from protomer.maps.local_wiener import LEVELS, band_weights, bands, find_gains, parts_of, spread_of_noise
from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import Halves
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.shells import correlation_from_sums, shell_cross_sums
from test_non_uniform import BOX, belt, error, ordered, ring

HOW, FINEST = NonUniform(3.0, 8), BOX // 2 - 1


def regularised(halves: Halves[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first half as a reference: with the gains, and their shell weights as the solver applies them; and with the FSC."""
    sphere = solid_sphere(BOX, 0.42)
    gains = find_gains(halves, sphere, FINEST, HOW)
    ssnr = np.concatenate([gains.ssnr(FINEST + 1), [0.0]])
    local = gains.apply(apply_shell_filter(halves.a, ssnr / (1 + ssnr)))
    a, b = (scipy.fft.rfftn(half * sphere) for half in halves)
    curve = np.clip(correlation_from_sums(shell_cross_sums(a, b)), 0.0, 0.999)
    return local, apply_shell_filter(halves.a, curve)


def test_bands_add_up_to_the_map_up_to_the_finest_shell() -> None:
    volume = np.random.default_rng(1).standard_normal((32,) * 3).astype(np.float32)
    shells = bands(12.0)
    assert shells[-1] == 12.0 and np.all(np.diff(shells) > 0)
    weights = list(band_weights(32, shells, 8))
    assert all(weight.min() > -1e-6 for weight in weights)
    total = scipy.fft.rfftn(sum(parts_of(volume, shells, 8)))
    expected = scipy.fft.rfftn(volume) * (sum(weights) > 0.5)
    np.testing.assert_allclose(total, expected, atol=1e-2)


def test_the_spread_of_noise_is_what_noise_has() -> None:
    shells, random = bands(12.0), np.random.default_rng(2)
    for number in (3, 6):
        weight, means = list(band_weights(32, shells, 8))[number], []
        for _ in range(12):
            a, b = (list(parts_of(random.standard_normal((32,) * 3), shells, 8))[number] for _ in range(2))
            means.append(gaussian_filter(a * b, 3.0, mode="wrap") / np.sqrt(np.mean(a * a) * np.mean(b * b)))
        assert abs(np.std(means) / spread_of_noise(weight, 3.0) - 1) < 0.15


def test_a_core_beside_a_belt_of_noise_comes_nearer_to_the_truth_than_with_one_weight_for_all_places() -> None:
    truth, halves = ordered(1, 0.6)
    grey = float(truth[truth > 0.2 * truth.max()].mean())
    halves, whole = Halves(halves.a + belt(2, grey), halves.b + belt(3, grey)), truth + ring() * np.float32(grey)
    core = truth > 0.2 * truth.max()
    local, uniform = regularised(halves)
    gain = error(local, whole, core) / error(uniform, whole, core)
    print(f"error in the core over that of uniform weights: {gain:.2f}")
    assert gain < 0.75


def test_a_uniform_map_loses_nothing() -> None:
    truth, halves = ordered(5, 0.6)
    core = truth > 0.2 * truth.max()
    local, uniform = regularised(halves)
    loss = error(local, truth, core) / error(uniform, truth, core)
    print(f"error over that of uniform weights: {loss:.2f}")
    assert loss < 1.05


def test_of_noise_alone_next_to_nothing_is_left() -> None:
    random = np.random.default_rng(7)
    noise = Halves(*(random.standard_normal((BOX,) * 3).astype(np.float32) for _ in range(2)))
    local, _ = regularised(noise)
    assert float((local**2).sum()) < 0.02 * float((noise.a**2).sum())


def test_gains_only_take_away() -> None:
    gains = find_gains(ordered(3, 1.0)[1], solid_sphere(BOX, 0.42), FINEST, HOW)
    assert gains.gain.max() == LEVELS and 0 < gains.best.min() and gains.best.max() <= 1
    assert gains.gain.dtype == np.uint8 and len(gains.gain) == len(gains.shells)
