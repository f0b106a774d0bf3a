"""Where classes differ: found where a lobe is in one class alone, nowhere in noise, and given up where nothing is sure."""

from __future__ import annotations

import numpy as np
import scipy.fft

from protomer.classes.differing import differing_places
from protomer.maps.volumes import Halves
from protomer_kernels.fourier import low_pass
from protomer_kernels.masks import sphere_mask

BOX, SHELLS = 32, 17
LOBE = (slice(18, 24), slice(12, 18), slice(14, 20))


def transforms(density: np.ndarray, noise: float, seed: int) -> Halves[np.ndarray]:
    """Half maps of a density with independent noise, in a sphere."""
    random, mask = np.random.default_rng(seed), sphere_mask(BOX, 14.0, 2.0)
    return Halves(*(scipy.fft.rfftn(((density + noise * random.standard_normal((BOX,) * 3)) * mask).astype(np.float32)) for _ in range(2)))


def places(difference: float, seed: int, noise: float = 0.5) -> np.ndarray:
    """What is found of a lobe of this height beside a consensus without it."""
    common = low_pass(np.random.default_rng(1).standard_normal((BOX,) * 3).astype(np.float32), 8.0, 2.0)
    other = np.zeros((BOX,) * 3, np.float32)
    other[LOBE] = difference
    ratio = np.where(np.arange(SHELLS) < 8, 0.5, 0.0)
    own, of_all = transforms(common + other, noise, seed), transforms(common, 0.3 * noise, seed + 100)
    return differing_places(own, of_all, np.ones(SHELLS), ratio, sphere_mask(BOX, 14.0, 2.0))


def test_a_lobe_that_one_class_has_is_where_it_differs() -> None:
    found = places(1.0, 0)
    assert found.shape == (BOX,) * 3 and found[LOBE].mean() > 0.9
    assert found.mean() < 0.15, "most of the box is known to be the same"


def test_of_noise_next_to_nothing_is_a_place() -> None:
    found = [places(0.0, seed) for seed in range(8)]
    assert np.mean([float(each.mean()) if each.size > 1 else 0.0 for each in found]) < 0.03
    assert any(each.size == 1 for each in found), "where nothing is sure, differences may be anywhere"


def test_without_reproducible_power_places_are_not_known() -> None:
    own = transforms(np.zeros((BOX,) * 3), 1.0, 3)
    assert differing_places(own, own, np.ones(SHELLS), np.zeros(SHELLS), sphere_mask(BOX, 14.0, 2.0)).size == 1
