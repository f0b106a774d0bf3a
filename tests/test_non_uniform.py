"""Non-uniform regularisation of half maps: a core keeps its detail beside a belt that has none, and a uniform map loses nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from protomer.formats.hdf5 import read_particles
from protomer.formats.mrc import read_volume
from protomer.maps.non_uniform import CutOffs, NonUniform, candidates, find_cut_offs
from protomer.maps.volumes import Halves
from protomer.simulation.files import read_truth
from protomer.simulation.truth import pose_errors
from protomer_kernels.fourier import half_radius
from protomer_kernels.masks import soft_edge
from refinement_runs import protomer, refine_words, simulate_and_import
from simulated import chain_dataset

BOX = 64


def ordered(seed_noise: int, noise: float) -> tuple[np.ndarray, Halves[np.ndarray]]:
    """The map of a random chain in the middle, and two half maps of it with white noise."""
    truth = chain_dataset(1, BOX, 2.6, 0.1).volume.data
    random = np.random.default_rng(seed_noise)
    sd = noise * truth[truth > 0.2 * truth.max()].std()
    return truth, Halves(*(truth + (sd * random.standard_normal(truth.shape)).astype(np.float32) for _ in range(2)))


def ring() -> np.ndarray:
    """A soft ring about the core."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    return soft_edge((np.hypot(x, y) > 17) & (np.hypot(x, y) < 27) & (np.abs(z) < 8), 2.0)


def belt(seed: int, grey: float) -> np.ndarray:
    """A ring whose detail is different every time."""
    detail = np.random.default_rng(seed).standard_normal((BOX,) * 3)
    return np.asarray(ring() * (grey + 3.0 * grey * detail), np.float32)


def error(found: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    return float(((found - truth)[where] ** 2).sum())


def best_uniform(volume: np.ndarray, truth: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The map with the one cut-off for all places that brings it nearest to the truth in some of them."""
    shells = candidates(BOX / 2)
    filtered = [CutOffs(np.zeros(volume.shape, np.int8), (shell,), 8).apply(volume) for shell in shells]
    return min(filtered, key=lambda found: error(found, truth, where))


def test_a_core_beside_a_belt_keeps_more_of_its_detail_than_any_uniform_filter_leaves() -> None:
    truth, halves = ordered(1, 0.6)
    grey = float(truth[truth > 0.2 * truth.max()].mean())
    halves, whole = Halves(halves.a + belt(2, grey), halves.b + belt(3, grey)), truth + ring() * np.float32(grey)
    cut_offs = find_cut_offs(halves, BOX / 2, NonUniform(3.0, 8))
    core, found = truth > 0.2 * truth.max(), cut_offs.apply(halves.a)
    gain = error(found, whole, core) / error(best_uniform(halves.a, whole, core | (ring() > 0.5)), whole, core)
    print(f"error in the core {gain:.2f} of that with the best uniform filter")
    assert gain < 0.95


def test_a_uniform_map_is_hardly_worse_than_with_the_best_filter_that_knows_the_truth() -> None:
    truth, halves = ordered(5, 0.6)
    cut_offs, core = find_cut_offs(halves, BOX / 2, NonUniform(3.0, 8)), truth > 0.2 * truth.max()
    loss = error(cut_offs.apply(halves.a), truth, core) / error(best_uniform(halves.a, truth, core), truth, core)
    print(f"error {loss:.2f} of that with the best uniform filter")
    assert loss < 1.15


def test_maps_that_share_nothing_are_filtered_to_nothing_but_their_coarsest() -> None:
    random = np.random.default_rng(7)
    noise = Halves(*(random.standard_normal((BOX,) * 3).astype(np.float32) for _ in range(2)))
    assert np.mean(find_cut_offs(noise, BOX / 2, NonUniform(3.0, 8)).level <= 1) > 0.9


def test_a_place_is_filtered_by_butterworth_at_its_own_cut_off() -> None:
    random = np.random.default_rng(8)
    volume = random.standard_normal((32,) * 3).astype(np.float32)
    level = random.integers(0, 3, (32,) * 3).astype(np.int8)
    shells = (3.0, 6.0, 12.0)
    found = CutOffs(level, shells, 4).apply(volume)
    for number, shell in enumerate(shells):
        gain = 1.0 / np.sqrt(1.0 + (half_radius(32, 3) / shell) ** 8)
        expected = np.fft.irfftn(np.fft.rfftn(volume) * gain, volume.shape, axes=(0, 1, 2))
        np.testing.assert_allclose(found[level == number], expected[level == number], atol=1e-4)
    np.testing.assert_allclose(CutOffs(level, shells, 4).resolution_A(2.0)[level == 1], 64.0 / 6.0)


def test_candidates_rise_to_the_finest() -> None:
    shells = candidates(30.5)
    assert shells[0] == 2.0 and shells[-1] == 30.5 and all(b > a for a, b in pairwise(shells))


@pytest.mark.slow
def test_a_refinement_with_it_finds_poses_and_writes_the_cut_offs_the_same_on_two_ranks(tmp_path: Path) -> None:
    data = simulate_and_import(tmp_path, number=96, snr=0.5)
    words = [*refine_words(data, tmp_path / "one"), "--set", "non_uniform=on", "--set", "rehearse=off", "--set",
             "max_alignment_resolution=14A"]
    protomer(*words)
    found, truth = read_particles(tmp_path / "one/particles.h5"), read_truth(tmp_path / "simulated/truth.h5")
    truth = truth.take(found.stack_index)
    errors = pose_errors(found.rotation, found.shift_A, truth.rotation, truth.shift_A)
    print(f"median {np.median(errors.angle_deg):.2f} degrees, lost {errors.lost():.3f}")
    assert np.median(errors.angle_deg) < 3.0 and errors.lost() < 0.05
    cut_off, density = read_volume(tmp_path / "one/cut_off.mrc").data, read_volume(tmp_path / "one/map.mrc").data
    inside = density > 0.3 * density.max()
    assert np.median(cut_off[inside]) < 0.6 * np.median(cut_off[~inside])
    assert "place by place" in (tmp_path / "one/report.html").read_text()
    words[words.index(tmp_path / "one")] = tmp_path / "two"
    protomer(*words, ranks=2)
    for name in ("cut_off.mrc", "map.mrc", "half_a.mrc"):
        assert np.array_equal(read_volume(tmp_path / "one" / name).data, read_volume(tmp_path / "two" / name).data)
