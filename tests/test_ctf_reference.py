"""Half maps as CTFs are refined against them: nearer to the truth than the FSC's weights bring them, and with a share that is known."""

from __future__ import annotations

import functools

import numpy as np
import scipy.fft

from protomer.ctf_refinement.reference import in_mask, locally_filtered
from protomer.maps.volumes import Halves, Volume
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.shells import shell_cross_sums
from simulated import chain_dataset

BOX, VOXEL_A = 48, 2.4
SHELLS = slice(8, 22)


@functools.cache
def noisy(sd: float = 1.5) -> tuple[np.ndarray, Halves[Volume]]:
    """A chain's map and it with noise in either half, sd of the map's own rms, the same in all shells."""
    truth, random = chain_dataset(2, BOX, VOXEL_A, 0.3).volume.data, np.random.default_rng(7)
    noise = [random.standard_normal(truth.shape).astype(np.float32) * np.float32(sd * truth.std()) for _ in range(2)]
    return truth, Halves(*(Volume(truth + one, VOXEL_A) for one in noise))


def test_the_filter_comes_nearer_to_the_truth_than_one_weight_for_all_places() -> None:
    truth, halves = noisy()
    mask, fsc = in_mask(halves, None, "")
    filtered, _ = locally_filtered(halves, mask.data, (4.0, 23.0))
    weight = np.clip(fsc.corrected, 0.0, 1.0)
    whole = apply_shell_filter(halves.a.data, weight)  # as one weight without a mask has it
    masked = apply_shell_filter(halves.a.data * mask.data, weight)
    left = [np.sum((one - truth) ** 2) for one in (filtered.a.data, masked, whole)]
    print("squared error: local, one weight in the mask, without a mask", np.round(np.array(left) / np.sum(truth**2), 3))
    assert left[0] < 0.85 * left[1] and left[0] < 0.6 * left[2]


def test_the_share_of_the_signal_that_is_kept_is_that_of_the_truth() -> None:
    truth, halves = noisy()
    mask, _ = in_mask(halves, None, "")
    filtered, kept = locally_filtered(halves, mask.data, (4.0, 23.0))
    exact, own = scipy.fft.rfftn(truth * mask.data), scipy.fft.rfftn(filtered.a.data)
    share = shell_cross_sums(own, exact)[:, 0] / shell_cross_sums(exact, exact)[:, 0]
    print("kept", np.round(kept[SHELLS], 2), "of the truth", np.round(share[SHELLS], 2))
    assert share[SHELLS].min() < 0.8  # something is taken
    np.testing.assert_allclose(kept[SHELLS], share[SHELLS], atol=0.15)


def test_one_map_as_both_halves_stays_what_it_is_in_the_mask() -> None:
    truth, _ = noisy()
    both = Halves.of(Volume(truth, VOXEL_A))
    mask, _ = in_mask(both, None, "")
    filtered, kept = locally_filtered(both, mask.data, (4.0, 23.0))
    masked, whole = scipy.fft.rfftn(truth * mask.data), scipy.fft.rfftn(filtered.a.data)
    left = shell_cross_sums(whole - masked, whole - masked)[SHELLS, 0] / shell_cross_sums(masked, masked)[SHELLS, 0]
    assert left.max() < 1e-3 and kept[SHELLS].min() > 0.95
