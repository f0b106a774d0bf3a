"""Kernels of linear modes: what images show of them, what they leave, insertion and solution, against slow float64 NumPy."""

from __future__ import annotations

import numpy as np

from kernel_oracles import BOX, PLANE, RADIUS, as_pairs, blob_map, blob_model, oracle_corners, oracle_slice, random_rotations
from protomer_kernels import modes
from protomer_kernels.insertion import fixed_point_scale
from protomer_kernels.slices import transform_volume, volume_radius

NUMBER, IMAGES = 2, 5
SHELLS = RADIUS + 1


def three_models() -> list[np.ndarray]:
    """Fourier volumes of a mean and two modes."""
    mean = blob_map()
    return [blob_model(), *(transform_volume(np.roll(mean, shift, (0, 1, 2)) - mean, RADIUS) for shift in ((1, 0, 0), (0, 1, -1)))]


def batch(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, shifts, noisy data and amplitudes that change sign."""
    random = np.random.default_rng(seed)
    turns, shifts = random_rotations(IMAGES, seed), random.uniform(-2, 2, (IMAGES, 2))
    amplitude = (2.0 * np.cos(random.uniform(0, 3, (IMAGES, 1)) + 0.4 * PLANE.shell)).astype(np.float32)
    data = as_pairs(random.standard_normal((IMAGES, len(PLANE))) + 1j * random.standard_normal((IMAGES, len(PLANE))))
    return turns, shifts, data, amplitude


def shown_by_oracle(turns: np.ndarray, shifts: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """(n, K + 1, C) complex, the origin zero."""
    phase = np.exp(2j * np.pi * shifts @ PLANE.coordinates.T / BOX)
    views = np.array([[oracle_slice(model, turn) for model in three_models()] for turn in turns])
    views = amplitude[:, None] * views * phase[:, None]
    views[:, :, 0] = 0
    return views


def seen(turns: np.ndarray, shifts: np.ndarray, data: np.ndarray, amplitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What see_modes gives."""
    volumes = np.ascontiguousarray(np.stack(three_models(), axis=3))
    shown = np.empty((IMAGES, NUMBER + 1, 2, len(PLANE)), np.float32)
    products = np.empty((IMAGES, NUMBER + 1, NUMBER + 2))
    modes.see_modes(volumes, (turns, shifts), (data, amplitude), PLANE.arrays(len(PLANE)), shown, products)
    return shown, products


def test_images_show_slices_of_mean_and_modes_and_their_scalar_products() -> None:
    turns, shifts, data, amplitude = batch()
    shown, products = seen(turns, shifts, data, amplitude)
    expected = shown_by_oracle(turns, shifts, amplitude)
    np.testing.assert_allclose(shown[:, :, 0] + 1j * shown[:, :, 1], expected, atol=2e-5 * np.abs(expected).max())
    image = data[:, 0] + 1j * data[:, 1].astype(np.float64)
    gram = np.einsum("njc,nlc->njl", expected.conj(), expected).real
    np.testing.assert_allclose(products[:, :, :-1], gram, rtol=1e-4, atol=1e-4 * np.abs(gram).max())
    np.testing.assert_allclose(products[:, :, -1], np.einsum("njc,nc->nj", expected.conj(), image).real, rtol=1e-3, atol=1e-2)
    assert np.ptp(gram[:, 1, 2]) > 1e-3 * gram[:, 1, 1].max(), "modes that overlap, so that a transposed product would be found"


def test_what_images_leave_and_its_expected_power_under_an_uncertain_coefficient() -> None:
    turns, shifts, data, amplitude = batch()
    shown, _ = seen(turns, shifts, data, amplitude)
    random = np.random.default_rng(5)
    mean = np.concatenate([np.full((IMAGES, 1), 1.1), random.standard_normal((IMAGES, NUMBER))], axis=1)
    root = random.standard_normal((IMAGES, NUMBER, NUMBER))
    covariance = root @ root.transpose(0, 2, 1)
    left, power = np.empty_like(data), np.empty((IMAGES, SHELLS))
    modes.leave_modes(data, shown, (mean, covariance), PLANE.shell, left, power)
    views, image = shown_by_oracle(turns, shifts, amplitude), data[:, 0] + 1j * data[:, 1].astype(np.float64)
    image[:, 0] = 0
    np.testing.assert_allclose(left[:, 0] + 1j * left[:, 1], image - 1.1 * views[:, 0], atol=1e-4)
    drawn = mean[:, 1:, None] + np.linalg.cholesky(covariance) @ random.standard_normal((IMAGES, NUMBER, 20_000))
    for n in range(IMAGES):
        rest = (image[n] - 1.1 * views[n, 0])[:, None] - views[n, 1:].T @ drawn[n]
        sampled = np.bincount(PLANE.shell, (np.abs(rest) ** 2).mean(axis=1), SHELLS)
        np.testing.assert_allclose(power[n], sampled, rtol=0.05)


def inserted(slabs: int) -> tuple[np.ndarray, np.ndarray, float, tuple[np.ndarray, np.ndarray]]:
    """The accumulator of the kernel, that of a loop over coefficients and corners in float64, the scale and the moments."""
    turns, shifts, data, amplitude = batch()
    random = np.random.default_rng(6)
    first = random.standard_normal((IMAGES, NUMBER))
    root = random.standard_normal((IMAGES, NUMBER, NUMBER + 3))
    full = root @ root.transpose(0, 2, 1)
    second = np.stack([full[:, 0, 0], full[:, 1, 0], full[:, 1, 1]], axis=1)
    scale = fixed_point_scale(1e3, IMAGES)
    out = modes.empty_mode_accumulator(RADIUS, NUMBER)
    modes.insert_modes((turns, shifts), (first, second), (data, amplitude), PLANE.arrays(len(PLANE)), scale, slabs, out)
    expected = np.zeros((*out.shape[:3], NUMBER + 3), complex)  # b of each mode, then H
    for n in range(IMAGES):
        sign, corners = oracle_corners(2.0 * PLANE.coordinates @ turns[n][:, :2].T, volume_radius(RADIUS))
        term = amplitude[n] * (data[n, 0] + 1j * data[n, 1]) * np.exp(-2j * np.pi * PLANE.coordinates @ shifts[n] / BOX)
        term = np.where(sign < 0, term.conj(), term)
        term[0] = 0
        weight = amplitude[n].astype(float) ** 2
        weight[0] = 0
        values = np.concatenate([first[n][:, None] * term, second[n][:, None] * weight])
        for index, t in corners:
            for m in range(NUMBER + 3):
                np.add.at(expected[..., m], index, t * values[m])
    return out, expected, scale, (first, second)


def test_insertion_is_the_sum_over_coefficients_and_corners_whatever_the_slabs() -> None:
    out, expected, scale, _ = inserted(1)
    found = out / scale
    for m in range(NUMBER):
        np.testing.assert_allclose(found[..., 2 * m] + 1j * found[..., 2 * m + 1], expected[..., m], atol=1e-4)
    np.testing.assert_allclose(found[..., 2 * NUMBER :], expected[..., NUMBER:].real, atol=1e-4)
    np.testing.assert_array_equal(out, inserted(3)[0])


def test_modes_solve_the_linear_system_of_each_voxel() -> None:
    out, sums, scale, _ = inserted(1)
    centre = (out.shape[0] - 1) // 2
    sums = sums.copy()
    mates = sums[::-1, ::-1, 0].copy()
    mates[..., :NUMBER] = mates[..., :NUMBER].conj()
    sums[:, :, 0] += mates
    z, y, x = np.meshgrid(np.arange(-centre, centre + 1), np.arange(-centre, centre + 1), np.arange(centre + 1), indexing="ij")
    shell = np.rint(np.sqrt(z * z + y * y + x * x) / 2).astype(int)
    inside = shell < SHELLS
    ridge = np.array([[0.5], [0.8]]) * np.linspace(1.0, 2.0, SHELLS)
    system = np.empty((*shell.shape, 2, 2))
    system[..., 0, 0], system[..., 1, 1] = sums[..., 2].real, sums[..., 4].real
    system[..., 0, 1] = system[..., 1, 0] = sums[..., 3].real
    weights = np.stack([[system[..., m, m][shell == s].mean() for s in range(SHELLS)] for m in range(NUMBER)])
    np.testing.assert_allclose(modes.mode_weights(out, NUMBER, 1 / scale, SHELLS), weights, rtol=1e-5, atol=1e-6)
    for m in range(NUMBER):
        system[..., m, m] += ridge[m][np.minimum(shell, SHELLS - 1)]
    expected = np.linalg.solve(system, sums[..., :NUMBER, None])[..., 0] * inside[..., None]
    solved = np.empty((NUMBER, *shell.shape), np.complex64)
    modes.solve_modes(out, 1 / scale, ridge, solved)
    np.testing.assert_allclose(np.moveaxis(solved, 0, -1), expected, atol=2e-4 * np.abs(expected).max())
