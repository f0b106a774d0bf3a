"""Steps of ab-initio, helical-refine, classify-fixed and variability on CUDA give what the CPU gives: in Numba's simulator, and on a
device where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from cuda_programs import Results

PROGRAM = ("cuda_steps.py",)


def test_ab_initio_on_cuda_finds_the_maps_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    for name in ("first_maps", "second_maps", "final_map"):
        expected = on_cpu[name]
        assert expected.max() > 0.0
        np.testing.assert_allclose(on_cuda[name], expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(on_cuda["told"], on_cpu["told"], atol=1e-4)


@pytest.mark.parametrize("name", ["known", "polar", "unknown"])
def test_searches_of_filaments_on_cuda_keep_the_rotations_of_the_cpu(name: str, on_cpu: Results, on_cuda: Results) -> None:
    assert len(np.unique(on_cpu[f"{name}_best"])) > 15 and len(np.unique(on_cpu[f"{name}_shifts"])) == 3
    for part in ("best", "shifts"):
        np.testing.assert_array_equal(on_cuda[f"{name}_{part}"], on_cpu[f"{name}_{part}"])


def test_known_psi_and_polarity_decide_which_rotations_are_kept(on_cpu: Results) -> None:
    assert all(np.any(on_cpu["known_best"] != on_cpu[f"{other}_best"]) for other in ("polar", "unknown"))


def test_a_map_made_helical_on_cuda_is_that_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    expected = on_cpu["wound"]
    assert np.count_nonzero(expected) > 400 and on_cuda["wound"].dtype == np.float32
    np.testing.assert_allclose(on_cuda["wound"], expected, atol=3e-6 * np.abs(expected).max())


def test_classes_at_known_poses_on_cuda_are_those_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    assert np.ptp(on_cpu["fixed_posterior"]) > 0.3 and np.abs(on_cpu["fixed_maps_1"]).max() > 0
    for name in (name for name in on_cpu if name.startswith("fixed_") and name != "fixed_repeats"):
        expected = on_cpu[name]
        np.testing.assert_allclose(on_cuda[name], expected, atol=2e-4 * max(1e-3, np.abs(expected).max()), err_msg=name)


def test_a_classification_at_known_poses_goes_on_in_the_same_bits_whatever_number_of_batches_is_there(
    on_cpu: Results, on_cuda: Results
) -> None:
    assert bool(on_cpu["fixed_repeats"]) and bool(on_cuda["fixed_repeats"])


def test_modes_and_coordinates_on_cuda_are_those_of_the_cpu(on_cpu: Results, on_cuda: Results) -> None:
    assert np.abs(on_cpu["modes_coordinates"]).max() > 0.01
    for name in (name for name in on_cpu if name.startswith("modes") and name != "modes_repeat"):
        expected = on_cpu[name]
        np.testing.assert_allclose(on_cuda[name], expected, atol=2e-4 * np.abs(expected).max(), err_msg=name)


def test_a_pass_over_images_with_modes_gives_the_same_bits_whatever_number_of_batches_is_there(on_cpu: Results, on_cuda: Results) -> None:
    assert bool(on_cpu["modes_repeat"]) and bool(on_cuda["modes_repeat"])
