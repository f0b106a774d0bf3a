"""The log likelihood of a pose, its gradient and its Gauss-Newton matrix against numerical derivatives and explicit Jacobians."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_oracles import NORMAL_ROW, PLANE, blob_map, blob_model, prediction, random_rotations, starts, turned, whitened
from protomer_kernels import slices
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.normal_equations import BLOCK, new_scratch, normal_equations


@pytest.fixture(scope="module")
def model() -> np.ndarray:
    return blob_model()


def sums_at(model, plane, turn, shift, data, amplitude, magnification=np.eye(2)):  # type: ignore[no-untyped-def]  # noqa: B008
    sums = np.empty(21)
    normal_equations(model, turn, shift, (data, amplitude, magnification), plane, new_scratch(), sums)
    return sums


def explicit_terms(model, plane, turn, shift, data, amplitude, stretch=np.eye(3)):  # type: ignore[no-untyped-def]  # noqa: B008
    """Residual (K,), model (K,) and Jacobian (5, K) of one image in complex128, the Jacobian by central differences."""
    y = data[0].astype(float) + 1j * data[1]

    def at(p: np.ndarray) -> np.ndarray:
        return prediction(model, amplitude, turned(p[:3], turn) @ stretch, shift + p[3:], plane)

    moves = 1e-6 * np.eye(5)
    return y - at(np.zeros(5)), at(np.zeros(5)), np.array([(at(p) - at(-p)) / 2e-6 for p in moves])


def explicit_sums(terms: tuple[np.ndarray, np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The 21 sums over the first `count` coefficients, and what each is to be compared by: the root of the squares' product."""
    residual, predicted, jacobian = (term[..., :count] for term in terms)
    data = residual + predicted
    likelihood = (predicted.conj() * (data - 0.5 * predicted)).real.sum()
    gradient = (jacobian * residual.conj()).real.sum(1)
    matrix = (jacobian @ jacobian.conj().T).real
    length = np.sqrt(np.diag(matrix))
    sizes = [np.linalg.norm(predicted) * np.linalg.norm(data), *(length * np.linalg.norm(residual))]
    return (np.array([likelihood, *gradient, *(matrix[p, q] for p, q in NORMAL_ROW)]),
            np.array([*sizes, *(length[p] * length[q] for p, q in NORMAL_ROW)]))


def test_likelihood_gradient_and_matrix_equal_numerical_derivatives(model: np.ndarray) -> None:
    true_turns, true_shifts, turns, shifts = starts(4, 15)
    data, amplitude = whitened(model, true_turns, true_shifts, 15)
    sums = [sums_at(model, PLANE.arrays(len(PLANE)), *of_one) for of_one in zip(turns, shifts, data, amplitude, strict=True)]
    step = 1e-6
    for n in range(4):
        y = data[n, 0].astype(float) + 1j * data[n, 1]

        def at(p: np.ndarray, n: int = n) -> np.ndarray:
            return prediction(model, amplitude[n], turned(p[:3], turns[n]), shifts[n] + p[3:])

        def log_likelihood(p: np.ndarray, at=at, y=y) -> float:  # type: ignore[no-untyped-def]
            return float((y.conj() * at(p)).real.sum() - 0.5 * (np.abs(at(p)) ** 2).sum())

        moves = step * np.eye(5)
        jacobian = np.array([(at(p) - at(-p)) / (2 * step) for p in moves])
        gradient = np.array([(log_likelihood(p) - log_likelihood(-p)) / (2 * step) for p in moves])
        matrix = (jacobian @ jacobian.conj().T).real
        np.testing.assert_allclose(sums[n][0], log_likelihood(np.zeros(5)), rtol=1e-5)
        np.testing.assert_allclose(sums[n][1:6], gradient, atol=3e-4 * np.abs(gradient).max())
        scale = np.sqrt(np.diag(matrix))
        found = np.array([sums[n][6 + m] / (scale[p] * scale[q]) for m, (p, q) in enumerate(NORMAL_ROW)])
        np.testing.assert_allclose(found, [matrix[p, q] / (scale[p] * scale[q]) for p, q in NORMAL_ROW], atol=3e-4)


@pytest.fixture(scope="module")
def large() -> tuple[np.ndarray, HalfPlane, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A map's transform, a half plane of three blocks, a pose, and noisy data and amplitudes that do not fit it."""
    rng = np.random.default_rng(30)
    plane = HalfPlane(48, 20)
    model = slices.transform_volume(blob_map(48), plane.radius)
    turn, shift = random_rotations(1, 30)[0], rng.uniform(-2, 2, 2)
    amplitude = (3.0 * np.cos(0.2 * plane.shell + 0.4)).astype(np.float32)
    noise = rng.standard_normal((2, len(plane)))
    truth = prediction(model, amplitude, turned(np.array([0.05, -0.03, 0.04]), turn), shift + np.array([0.5, -0.4]), plane)
    return model, plane, turn, shift, (noise + np.stack([truth.real, truth.imag])).astype(np.float32), amplitude


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 105])
def test_sums_over_any_number_of_blocks_equal_explicit_jacobians(large: tuple, count: int) -> None:
    model, plane, turn, shift, data, amplitude = large
    assert count < len(plane)
    found = sums_at(model, plane.arrays(count), turn, shift, data, amplitude)
    expected, size = explicit_sums(explicit_terms(model, plane, turn, shift, data, amplitude), count)
    np.testing.assert_array_less(np.abs(found - expected), 1e-4 * size + 1e-6)


def test_a_magnified_image_is_compared_with_the_slice_at_its_magnified_frequencies_and_keeps_its_shifts(large: tuple) -> None:
    model, plane, turn, shift, data, amplitude = large
    magnification, count = np.array([[1.02, 0.03], [-0.01, 0.95]]), plane.prefix(19)  # points up to radius 19.6 of the volume's 20
    stretch = np.eye(3)
    stretch[:2, :2] = magnification
    found = sums_at(model, plane.arrays(count), turn, shift, data, amplitude, magnification)
    terms = explicit_terms(model, plane, turn, shift, data, amplitude, stretch)
    expected, size = explicit_sums(terms, count)
    np.testing.assert_array_less(np.abs(found - expected), 1e-4 * size + 1e-6)
    plain = sums_at(model, plane.arrays(count), turn, shift, data, amplitude)
    assert np.max(np.abs(plain - expected) / size) > 0.01


def test_what_lies_past_the_last_coefficient_and_in_the_scratch_changes_no_bit(large: tuple) -> None:
    model, plane, turn, shift, data, amplitude = large
    count = BLOCK + 21
    expected = sums_at(model, plane.arrays(count), turn, shift, data[:, :count].copy(), amplitude[:count].copy())
    spoilt_data, spoilt_amplitude = data.copy(), amplitude.copy()
    spoilt_data[:, count:] = spoilt_amplitude[count:] = np.nan
    scratch = new_scratch()
    for part in scratch:
        part[:] = 7
    found = np.full(21, np.nan)
    normal_equations(model, turn, shift, (spoilt_data, spoilt_amplitude, np.eye(2)), plane.arrays(count), scratch, found)
    np.testing.assert_array_equal(found, expected)
    assert np.all(np.isfinite(found)) and np.all(found != 0)
