"""Linear modes, part by part: the E-step and the M-step against dense linear algebra, grey scales, bases, the control's noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel_oracles import as_pairs, blob_map, random_rotations
from protomer.computing.arithmetic import CPU
from protomer.computing.mode_arithmetic import ModeArithmetic
from protomer.engine.maximisation import solid_sphere
from protomer.fixed_poses.scores import Seen
from protomer.fixed_poses.work import Fixed
from protomer.imaging.images import Whitened
from protomer.jobs.reconstruct import known_poses
from protomer.maps.volumes import Halves
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.variability.control import Excess, beyond_noise, judged, noise_of, perturbed
from protomer.variability.expectation import Views, insert
from protomer.variability.maximisation import aligned, combined, expanded_parameters, gram, shaped, told_share
from protomer.variability.posterior import at_own_variance, posterior_of, scales_of
from protomer.variability.work import Coordinates, Varying
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.modes import empty_mode_accumulator, solve_modes
from protomer_kernels.shells import shell_power
from protomer_kernels.wiener import map_of_quotient
from reconstructions import as_particles, setup_of
from two_domains import moving

BOX, RADIUS, NUMBER, IMAGES = 12, 4, 2, 260
PLANE = HalfPlane(BOX, RADIUS)
ON_CPU = ModeArithmetic(CPU)
SCALE = 2.0**24


def dense_projections(turns: np.ndarray, shifts: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """(n, 2 C, voxels) float64: what each image shows of each voxel, by the Fourier sum itself; the origin shows nothing."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    voxels = np.stack([x.ravel(), y.ravel(), z.ravel()])
    out = np.empty((len(turns), 2 * len(PLANE), BOX**3))
    for n, turn in enumerate(turns):
        points = PLANE.coordinates @ turn[:, :2].T
        phase = -2j * np.pi * (points @ voxels) / BOX + 2j * np.pi * (PLANE.coordinates @ shifts[n] / BOX)[:, None]
        terms = amplitude[n][:, None] * np.exp(phase) / BOX
        terms[0] = 0
        out[n] = np.concatenate([terms.real, terms.imag])
    return out


def smooth(volume: np.ndarray) -> np.ndarray:
    """Only frequencies that all images see."""
    spectrum = np.fft.fftn(np.fft.ifftshift(volume))
    axis = np.fft.fftfreq(BOX) * BOX
    reach = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)
    return np.fft.fftshift(np.fft.ifftn(np.where(reach < RADIUS - 0.5, spectrum, 0)).real)


@pytest.fixture(scope="module")
def tiny() -> tuple[Seen, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A batch of images with known modes; mean (d, d, d), modes (K, d, d, d), dense projections and true coordinates (n, K)."""
    random = np.random.default_rng(8)
    blob = blob_map(BOX, ((1.0, -0.5, 0.5, 1.3, 1.0), (-1.5, 1.0, 0.0, 1.2, 0.8)))
    mean = smooth(blob)
    modes = np.stack([smooth(np.roll(blob, 1, axis) - blob) for axis in (0, 2)])
    turns, shifts = random_rotations(IMAGES, 8), random.uniform(-1, 1, (IMAGES, 2))
    amplitude = (3.0 * np.sqrt(PLANE.multiplicity) * np.cos(random.uniform(0, 1.2, (IMAGES, 1)) + 0.2 * PLANE.shell)).astype(np.float32)
    dense = dense_projections(turns, shifts, amplitude)
    true = random.standard_normal((IMAGES, NUMBER))
    volumes = mean.ravel() + true @ modes.reshape(NUMBER, -1)
    data = np.einsum("ncv,nv->nc", dense, volumes) + random.standard_normal(dense.shape[:2])
    images = as_pairs(data[:, : len(PLANE)] + 1j * data[:, len(PLANE):])
    return Seen(Whitened(images, amplitude), np.arange(IMAGES), turns, shifts), mean, modes, dense, true


Tiny = tuple[Seen, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def pixels(seen: Seen) -> np.ndarray:
    """(n, 2 C) float64."""
    data = seen.batch.data.astype(np.float64)
    return np.concatenate([data[:, 0], data[:, 1]], axis=1)


def dense_posterior(rest: np.ndarray, loadings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, covariance and gain by probabilistic PCA of images less their mean (n, 2 C) with a loading matrix for each (n, 2 C, K)."""
    found, covariance, gain = np.empty((IMAGES, NUMBER)), np.empty((IMAGES, NUMBER, NUMBER)), np.empty(IMAGES)
    for n, loading in enumerate(loadings):
        marginal = np.eye(len(loading)) + loading @ loading.T  # covariance of the image over coordinates and noise
        solved = np.linalg.solve(marginal, rest[n])
        found[n] = loading.T @ solved
        covariance[n] = np.eye(NUMBER) - loading.T @ np.linalg.solve(marginal, loading)
        gain[n] = -0.5 * np.linalg.slogdet(marginal)[1] - 0.5 * rest[n] @ (solved - rest[n])
    return found, covariance, gain


def engine_posterior(tiny: Tiny, modes: np.ndarray) -> tuple[Coordinates, np.ndarray]:
    """The same by the engine, and what images show."""
    seen, mean = tiny[:2]
    views = Views.of(mean.astype(np.float32), modes.astype(np.float32), RADIUS, ON_CPU)
    shown, products = views.seen_by(seen, PLANE.arrays(len(PLANE)))
    return posterior_of(products, None), shown


def test_the_e_step_is_that_of_dense_probabilistic_pca(tiny: Tiny) -> None:
    seen, mean_map, modes, dense, _ = tiny
    found, shown = engine_posterior(tiny, modes)
    own = shown.astype(np.float64).reshape(IMAGES, NUMBER + 1, -1)
    data = pixels(seen)
    data[:, [0, len(PLANE)]] = 0
    for mine, theirs in zip((found.mean, found.covariance, found.gain), dense_posterior(data - own[:, 0], own[:, 1:].transpose(0, 2, 1)),
                            strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3)  # the same slices
    mean, covariance, gain = dense_posterior(data - dense @ mean_map.ravel(), dense @ modes.reshape(NUMBER, -1).T)
    print(f"off by {np.sqrt(np.mean((found.mean - mean) ** 2)):.4f}, most {np.abs(found.mean - mean).max():.3f}")
    assert np.sqrt(np.mean((found.mean - mean) ** 2)) < 0.03  # sd: trilinear reading against exact sums
    np.testing.assert_allclose(found.covariance, covariance, atol=0.05)
    np.testing.assert_allclose(found.gain, gain, atol=0.05 * np.ptp(gain))
    assert np.ptp(mean) > 3 and covariance[:, 0, 0].mean() < 0.5 and np.ptp(covariance[:, 0, 1]) > 0.05, "images that tell, and differ"


def test_the_m_step_is_that_of_dense_probabilistic_pca(tiny: Tiny) -> None:
    seen, mean, modes, dense, _ = tiny
    guess = np.stack([modes[0] + 0.5 * modes[1], modes[1] - 0.3 * modes[0]])
    found, shown = engine_posterior(tiny, guess)
    left = seen.batch.data - shown[:, 0]
    total = empty_mode_accumulator(RADIUS, NUMBER)
    insert(seen, left, found, PLANE.arrays(len(PLANE)), SCALE, ON_CPU, total)
    solved = np.empty((NUMBER, *total.shape[:3]), np.complex64)
    solve_modes(total, 1.0 / SCALE, np.full((NUMBER, RADIUS + 1), 1e-2), solved)
    by_engine = np.stack([smooth(map_of_quotient(one, BOX, 1)) for one in solved])
    second = found.covariance + found.mean[:, :, None] * found.mean[:, None, :]
    rest = pixels(seen) - dense @ mean.ravel()
    axes = [smooth(unit.reshape((BOX,) * 3)).ravel() for unit in np.eye(BOX**3)]
    basis = np.linalg.svd(np.array(axes))[2][: round(np.trace(np.array(axes)))]  # of all maps that are smooth
    shows = dense @ basis.T
    gram_of = np.einsum("nci,ncj->nij", shows, shows)
    system = np.einsum("nkl,nij->kilj", second, gram_of).reshape(NUMBER * len(basis), -1)
    right = np.einsum("nk,nci,nc->ki", found.mean, shows, rest).ravel()
    dense_modes = (np.linalg.solve(system, right).reshape(NUMBER, -1) @ basis).reshape(by_engine.shape)
    correlation = [float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in zip(by_engine, dense_modes, strict=True)]
    size = [float(np.linalg.norm(one) / np.linalg.norm(other)) for one, other in zip(by_engine, dense_modes, strict=True)]
    print(f"correlation with dense solution {np.round(correlation, 4)}, size {np.round(size, 3)}")
    assert min(correlation) > 0.97 and np.allclose(size, 1.0, atol=0.1)
    own = [float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in zip(guess, dense_modes, strict=True)]
    assert max(own) < 0.99, "the M-step moves the guess"


def test_a_grey_scale_is_found_together_with_coordinates(tiny: Tiny) -> None:
    seen, mean, modes, _, true = tiny
    random = np.random.default_rng(3)
    scale = np.exp(0.25 * random.standard_normal(IMAGES))
    shown = engine_posterior(tiny, modes)[1]
    images = (shown[:, 0] + np.einsum("nk,nkpc->npc", true, shown[:, 1:])) * scale[:, None, None] + 0.3 * random.standard_normal(
        seen.batch.data.shape).astype(np.float32)
    views = Views.of(mean.astype(np.float32), modes.astype(np.float32), RADIUS, ON_CPU)
    _, products = views.seen_by(seen.with_data(images.astype(np.float32)), PLANE.arrays(len(PLANE)))
    scales = (1.0, 0.05)
    for _ in range(6):
        found = posterior_of(products, scales)
        scales = scales_of(found.fit)
    plain = posterior_of(products, None)
    assert np.corrcoef(found.scale, scale)[0, 1] > 0.95 and abs(scales[0] - scale.mean()) < 0.05
    assert np.abs(found.mean - true).mean() < 0.7 * np.abs(plain.mean - true).mean()


def test_coordinates_are_brought_to_the_particles_own_standard_deviation(tiny: Tiny) -> None:
    modes, true = tiny[2], tiny[4]
    halved = engine_posterior(tiny, 0.5 * modes)[0]  # as if a filter had taken half of each mode
    found, size = at_own_variance(halved)
    np.testing.assert_allclose(size, 2.0, atol=0.25)
    expected = engine_posterior(tiny, 0.5 * size[:, None, None, None] * modes)[0]
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-3)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-3)
    np.testing.assert_allclose(found.gain, expected.gain, atol=1e-2)
    within = np.abs(found.mean - true) < 2 * found.error
    assert abs(within.mean() - 0.954) < 0.03 and found.gain.mean() > halved.gain.mean()


def random_modes(seed: int, number: int = 3, box: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, box, box, box)).astype(np.float32)


def test_expanded_parameters_keep_the_covariance_of_maps_and_make_modes_orthogonal() -> None:
    modes, root = random_modes(1), np.array([[1.2, 0.0, 0.0], [0.4, 0.9, 0.0], [-0.3, 0.2, 0.7]])
    found = expanded_parameters(modes, root @ root.T)
    between = gram(found, found)
    np.testing.assert_allclose(between - np.diag(np.diag(between)), 0, atol=1e-2)
    assert np.all(np.diff(np.diag(between)) <= 0)
    flat, new = modes.reshape(3, -1).astype(float), found.reshape(3, -1).astype(float)
    np.testing.assert_allclose(new.T @ new, flat.T @ (root @ root.T) @ flat, atol=1e-3)


def test_halves_that_found_the_same_in_other_axes_are_brought_together() -> None:
    true = random_modes(2) * np.array([3.0, 2.0, 1.0], np.float32)[:, None, None, None]
    turn = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))[0]
    noisy = [true + 0.05 * random_modes(seed) for seed in (5, 6)]
    found = aligned(Halves(noisy[0], combined(noisy[1], turn)), 5)
    assert found.correlation.min() > 0.98 and np.all(np.diff(found.variance) < 0) and found.fsc[:, 1:].min() > 0.9
    again = [abs(float(np.corrcoef(one.ravel(), other.ravel())[0, 1])) for one, other in zip(found.modes.a, true, strict=True)]
    assert min(again) > 0.95
    np.testing.assert_allclose(found.shared, found.variance, rtol=0.05)
    assert np.abs(aligned(Halves(random_modes(7), random_modes(8)), 5).correlation).max() < 0.3


def test_excess_counts_what_varies_beyond_noise_mode_by_mode(tiny: Tiny) -> None:
    seen, mean, modes, _, true = tiny
    one = modes / np.linalg.norm(modes.reshape(NUMBER, -1), axis=1)[:, None, None, None]
    views = Views.of(mean.astype(np.float32), one.astype(np.float32), RADIUS, ON_CPU)
    shown, products = views.seen_by(seen, PLANE.arrays(len(PLANE)))
    sums = beyond_noise(products)
    assert np.all(sums[0] / sums[1] > 1)
    noise = np.random.default_rng(1).standard_normal(seen.batch.data.shape).astype(np.float32)
    for amplitude in (0.0, 3.0):  # of the first mode alone: the second has no part in it, though images show the two alike
        images = shown[:, 0] + amplitude * (true[:, :1] * np.linalg.norm(modes[0]))[..., None] * shown[:, 1] + noise
        sums = beyond_noise(views.seen_by(seen.with_data(images.astype(np.float32)), PLANE.arrays(len(PLANE)))[1])
        excess, error = sums[0] / sums[1], np.sqrt(2 / IMAGES)
        assert abs(excess[1]) < 3 * error and (abs(excess[0]) < 3 * error if amplitude == 0 else excess[0] > 10)
    run, control = Excess(np.array([2.0, 0.5, 2.0]), 0.02), Excess(np.array([0.4, 0.1, 0.0]), 0.02)
    verdict = judged(run, control, np.array([0.9, 0.9, 0.1]))
    assert verdict.is_real.tolist() == [True, False, False] and verdict.number == 1
    assert judged(run, None, np.array([0.9, 0.9, 0.1])).is_real.tolist() == [True, True, False]


def test_the_told_share_falls_where_posteriors_are_as_wide_as_the_prior() -> None:
    covariance = np.stack([np.diag([0.2, 1.0]), np.diag([0.4, 1.0])])
    share = told_share(Coordinates(np.zeros((2, 2)), covariance, np.ones(2), np.zeros(2), np.zeros((2, 2))))
    assert share[0] == pytest.approx(0.7) and 0 < share[1] < 1e-5


def test_copies_of_an_image_share_noise_and_error_of_pose_in_the_control(tmp_path: Path) -> None:
    images = as_particles(moving(40, 16, 8.0, 0.5, 5.0).data, tmp_path)
    lower = np.tril_indices(5)
    root = np.random.default_rng(2).standard_normal((5, 5)) * np.array([0.03, 0.02, 0.01, 0.5, 0.8])[:, None]
    images = images.with_columns(pose_covariance=np.tile((root @ root.T)[lower], (len(images), 1)))
    particles = expanded(images, OperatorSet.of_group("C2"))
    setup, sphere = setup_of(particles, OperatorSet.identity()), solid_sphere(16, 0.42)
    varying = Varying(Fixed(setup, known_poses(particles, 8.0), 1, 6, 6, sphere, sphere, ((0,),)), 1, 0.0, 2)
    seen = Seen.of(varying.fixed, [0], setup.store.load(0), np.ones((1, 8)), 6)
    first, second = (np.flatnonzero(particles.copy[seen.rows] == c) for c in (0, 1))
    assert particles.image_uid[seen.rows[first]].tolist() == particles.image_uid[seen.rows[second]].tolist()
    noise = noise_of(varying, seen.rows, 30)
    np.testing.assert_array_equal(noise[first], noise[second])
    assert abs(noise.std() - 1) < 0.1 and not np.array_equal(noise[first[0]], noise[first[1]])
    moved = perturbed(varying, seen)
    mate = OperatorSet.of_group("C2").rotations[1]
    np.testing.assert_allclose(moved.rotation[second], mate @ moved.rotation[first], atol=2e-4)
    np.testing.assert_allclose(moved.shift_px[second], moved.shift_px[first], atol=1e-3)
    angle = np.arccos(np.clip((np.einsum("nij,nij->n", moved.rotation, seen.rotation) - 1) / 2, -1, 1))
    assert 0.3 < np.sqrt(np.mean(angle**2)) / np.sqrt(np.trace((root @ root.T)[:3, :3])) < 2.0
    still = replace(varying, fixed=replace(varying.fixed, setup=setup_of(expanded(images.with_columns(
        pose_covariance=np.zeros((len(images), 15))), OperatorSet.of_group("C2")), OperatorSet.identity())))
    assert perturbed(still, seen) is seen


def test_modes_keep_to_the_mask_and_between_their_filters(tmp_path: Path) -> None:
    setup = setup_of(as_particles(moving(40, 32, 5.0, 0.5, 5.0).data, tmp_path), OperatorSet.identity())
    sphere = solid_sphere(32, 0.3)
    fixed = Fixed(setup, known_poses(setup.particles, 5.0), 1, 10, 10, sphere, sphere, ((0,),))
    white = random_modes(9, 1, 32)[0]
    plain, high = (shaped(Varying(fixed, 1, shell, 2), white) for shell in (0.0, 5.0))
    assert np.abs(plain[0]).max() == 0 and plain.dtype == np.float32
    power = [shell_power(volume) for volume in (plain, high)]
    assert power[0][13:].mean() < 0.02 * power[0][4:9].mean(), "little beyond the finest shell, and that by the mask"
    assert power[1][:3].mean() < 0.1 * power[0][:3].mean() and power[1][7:9].mean() > 0.7 * power[0][7:9].mean()
