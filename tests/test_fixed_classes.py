"""Classes at known poses, part by part: likelihoods, clusters, amplitudes, reliability, blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from protomer.engine.maximisation import solid_sphere
from protomer.errors import InputError
from protomer.fixed_poses.reliability import Reliability, fitted_beta, stated
from protomer.fixed_poses.scores import Seen, fitted_amplitude, products
from protomer.fixed_poses.start import blocks_of, require_density
from protomer.fixed_poses.subspace import clustered, in_box, orthonormal
from protomer.fixed_poses.work import Fixed
from protomer.jobs.reconstruct import known_poses
from protomer.maps.volumes import Halves
from protomer.symmetry.operator_sets import OperatorSet
from protomer_kernels.slices import transform_volume
from reconstructions import as_particles, setup_of
from two_states import BOX, PIXEL_A, mixed


def plain_work(folder: Path) -> tuple[Fixed, np.ndarray]:
    """Forty images of two states, at their true poses, and the difference of the states' maps."""
    data, maps = mixed(40, 0.5)
    particles = as_particles(data, folder)
    setup = setup_of(particles, OperatorSet.identity())
    sphere = solid_sphere(BOX, 0.42)
    radius = setup.store.plane.radius
    numbers = tuple(range(len(setup.batches)))
    return Fixed(setup, known_poses(particles, PIXEL_A), 2, radius, 6, sphere, sphere, (numbers,)), maps[1].data - maps[0].data


def test_likelihoods_are_those_of_the_image_model_summed_coefficient_by_coefficient(tmp_path: Path) -> None:
    fixed, apart = plain_work(tmp_path)
    plane, maps = fixed.setup.store.plane, mixed(40, 0.5)[1]
    noise = np.full((1, fixed.radius + 1), 1.3)
    first_ft, apart_ft = (transform_volume(volume, fixed.radius) for volume in (maps[0].data, apart))
    seen = Seen.of(fixed, [0], fixed.setup.store.load(0), noise, fixed.radius)
    left, presence = seen.less(first_ft, plane)
    shared, power = np.moveaxis(products(left.against(apart_ft, plane, fixed.radius + 1)[:, None]), 2, 0)

    def log_likelihood(volume_ft: np.ndarray | None) -> np.ndarray:
        image = np.zeros(seen.batch.data.shape) if volume_ft is None else seen.shown(volume_ft, plane).astype(np.float64)
        return -0.5 * ((seen.batch.data.astype(np.float64) - image)[:, :, 1:] ** 2).sum(axis=(1, 2))

    second_ft = transform_volume(maps[1].data, fixed.radius)
    expected = log_likelihood(second_ft) - log_likelihood(first_ft)
    np.testing.assert_allclose(shared[:, 0] - 0.5 * power[:, 0], expected, atol=2e-2)
    np.testing.assert_allclose(presence, log_likelihood(first_ft) - log_likelihood(None), rtol=1e-4, atol=1e-2)
    assert np.ptp(expected) > 5


def projected(random: np.random.Generator, number: int, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """b, G and the true class of images that see the centres (K, J) under views of their own."""
    views = random.standard_normal((number, 4, centres.shape[1])) * random.uniform(0.2, 1.0, (number, 1, 1))
    gram = np.einsum("nij,nil->njl", views, views)
    true = random.integers(0, len(centres), number)
    b = np.einsum("njl,nl->nj", gram, centres[true]) + np.einsum("nij,ni->nj", views, random.standard_normal((number, 4)))
    return b, gram, true


@pytest.mark.parametrize("number", [2, 3])
def test_clusters_are_found_in_what_images_show_of_them(number: int) -> None:
    centres = np.array([[4.0, 0.0], [-3.0, 1.0], [0.0, -4.0]])[:number]
    b, gram, true = projected(np.random.default_rng(1), 600, centres)
    found = clustered(b, gram, number, 0)
    nearest = np.linalg.norm(found[:, None] - centres, axis=2)
    assert sorted(nearest.argmin(axis=1)) == list(range(number)) and nearest.min(axis=1).max() < 0.5
    odds = b @ found.T - 0.5 * np.einsum("kj,njl,kl->nk", found, gram, found)
    right = np.mean(nearest.argmin(axis=1)[odds.argmax(axis=1)] == true)
    limit = np.mean((b @ centres.T - 0.5 * np.einsum("kj,njl,kl->nk", centres, gram, centres)).argmax(axis=1) == true)
    assert right > limit - 0.03


def two_classes(random: np.random.Generator, number: int, apart: float, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """<r, A S_k> and <A S_k, A S_k> of images whose classes differ by +- apart / 2 along one direction, and the true classes."""
    true = random.choice(2, number, p=prior)
    seen = apart / 2 * np.array([1.0, -1.0])[true] + random.standard_normal(number)
    return seen[:, None] * np.array([1.0, -1.0]) * apart / 2, np.full((number, 2), apart**2 / 4), true


def test_the_amplitude_of_differences_is_the_one_at_which_posteriors_are_right() -> None:
    prior = np.array([0.6, 0.4])
    shared, power, true = two_classes(np.random.default_rng(2), 4000, 2.5, prior)
    for halved in (0.6, 1.0, 1.5):  # differences that came out too small, right, too large
        assert abs(fitted_amplitude(halved * shared, halved**2 * power, prior) - 1 / halved) < 0.12 / halved
    log_odds = shared - 0.5 * power
    posterior = np.exp(log_odds + np.log(prior) - logsumexp(log_odds + np.log(prior), axis=1, keepdims=True))
    assert abs(posterior.max(axis=1).mean() - np.mean(posterior.argmax(axis=1) == true)) < 0.02


def test_posteriors_that_promised_too_much_are_brought_down_to_what_they_keep() -> None:
    prior = np.array([0.5, 0.5])
    shared, power, true = two_classes(np.random.default_rng(3), 4000, 2.0, prior)
    log_odds = shared - 0.5 * power
    assert fitted_beta(log_odds, true, prior) > 0.95
    found = Reliability.of(3.0 * log_odds, true, prior)
    assert abs(found.beta - 1 / 3) < 0.05 and found.mean_before > found.share_right + 0.08
    assert abs(found.mean_stated - found.share_right) < 0.02
    full = found.count > 100
    np.testing.assert_allclose(found.stated[full], found.right[full], atol=0.06)


def test_of_classes_that_images_say_nothing_of_the_posterior_is_their_sizes() -> None:
    random, prior = np.random.default_rng(4), np.array([0.5, 0.5])
    log_odds, true = random.normal(0, 3, (2000, 2)), random.integers(0, 2, 2000)
    found = Reliability.of(log_odds, true, prior)
    assert found.mean_before > 0.8 and found.mean_stated < 0.55
    np.testing.assert_allclose(stated(np.zeros((3, 2)), np.array([0.7, 0.3]), 1.0), np.tile([0.7, 0.3], (3, 1)))


def test_blocks_hold_every_batch_once_and_all_halves_and_folds() -> None:
    keys = [(half, fold) for half in (0, 1) for fold in range(2) for _ in range(6)]
    blocks = blocks_of(keys, [64] * len(keys), 100, 2)
    assert len(blocks) == 3 and sorted(n for block in blocks for n in block) == list(range(24))
    assert all({keys[n] for n in block} == set(keys) and list(block) == sorted(block) for block in blocks)
    assert blocks_of(keys, [64] * len(keys), 1000, 2) == (tuple(range(24)),)


def test_maps_of_two_boxes_have_the_same_slices() -> None:
    volume = mixed(40, 0.5)[1][0].data
    small = in_box(volume, 20)
    a, b = (transform_volume(v, 6) for v in (volume, small))
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())  # readings between voxels differ a little


def test_directions_are_made_orthonormal_without_leaving_what_they_span() -> None:
    maps = np.random.default_rng(5).standard_normal((3, 4, 4, 4))
    made = orthonormal(maps).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(made @ made.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose((maps.reshape(3, -1) @ made.T) @ made, maps.reshape(3, -1), atol=1e-5)


def test_a_focus_mask_without_density_is_refused() -> None:
    random, volume = np.random.default_rng(6), mixed(40, 0.5)[1][0].data
    halves = Halves(*(volume + 0.01 * volume.max() * random.standard_normal(volume.shape).astype(np.float32) for _ in range(2)))
    sphere = solid_sphere(BOX, 0.42)
    require_density(halves, sphere, solid_sphere(BOX, 0.1), "focus.mrc")
    corner = np.roll(solid_sphere(BOX, 0.1), (11, 11, 11), (0, 1, 2))
    with pytest.raises(InputError, match="no density"):
        require_density(halves, sphere, corner, "focus.mrc")


def test_the_similarity_falls_to_none_over_the_epochs(tmp_path: Path) -> None:
    fixed = replace(plain_work(tmp_path)[0], epochs=4, similarity=0.8)
    assert [round(fixed.similarity_in(epoch), 3) for epoch in range(6)] == [0.8, 0.6, 0.4, 0.2, 0.0, 0.0]
    assert fixed.sample <= set(range(len(fixed.setup.batches)))
