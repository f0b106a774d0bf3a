"""Random numbers by key: golden values, and that they look random where it matters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from protomer.randomness import combine, generator, normal, uniform

KEYS = np.arange(100_000, dtype=np.uint64)
GOLDEN_UNIFORM = [0.8708407782997434, 0.9822213509006398, 0.46509523942392983, 0.053941324666068824]
GOLDEN_NORMAL = [1.1303745260932354, 2.1019540835937427, -0.0876051876989048, -1.607783290296125]
GOLDEN_GENERATOR = [1052823394, 4191001572, 1864943004]
GOLDEN_COMBINED = [694191077467441925, 16662515942503654548]


def test_uniform_numbers_have_their_golden_values() -> None:
    assert uniform(7, KEYS[:4], "test").tolist() == GOLDEN_UNIFORM


def test_normal_numbers_have_their_golden_values() -> None:
    np.testing.assert_allclose(normal(7, KEYS[:4], "test"), GOLDEN_NORMAL, rtol=1e-14)


def test_generators_and_combined_keys_have_their_golden_values() -> None:
    assert generator(7, 3, "test").integers(0, 2**32, 3).tolist() == GOLDEN_GENERATOR
    assert combine(KEYS[:2], 1).tolist() == GOLDEN_COMBINED


def test_a_number_depends_on_its_key_alone_and_not_on_its_neighbours_or_their_order() -> None:
    whole = normal(3, KEYS[:1000], "noise")
    assert np.array_equal(normal(3, KEYS[:1000][::-1], "noise")[::-1], whole)
    assert np.array_equal(np.concatenate([normal(3, KEYS[i:min(i + 7, 1000)], "noise") for i in range(0, 1000, 7)]), whole)
    assert normal(3, KEYS[:6].reshape(2, 3), "noise").shape == (2, 3)


def test_uniform_numbers_of_consecutive_keys_pass_a_kolmogorov_smirnov_test() -> None:
    numbers = uniform(0, KEYS, "halves")
    assert 0 <= numbers.min() and numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3


def test_normal_numbers_of_consecutive_keys_pass_a_kolmogorov_smirnov_test() -> None:
    assert stats.kstest(normal(0, KEYS, "noise"), "norm").pvalue > 1e-3


def test_every_bit_of_a_number_is_set_half_the_time_for_consecutive_keys() -> None:
    bits = (uniform(1, KEYS, "bits") * 2**53).astype(np.uint64)[:, None] >> np.arange(53, dtype=np.uint64) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(KEYS))


@pytest.mark.parametrize("other", [uniform(1, KEYS, "noise"), uniform(0, KEYS, "halves"), uniform(0, KEYS + np.uint64(1), "noise"),
                                   uniform(0, combine(KEYS, 1), "noise")],
                         ids=["seed", "purpose", "neighbouring key", "copy"])
def test_other_seeds_purposes_keys_and_copies_give_uncorrelated_numbers(other: np.ndarray) -> None:
    correlation = np.corrcoef(uniform(0, KEYS, "noise"), other)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(KEYS))


def test_combined_keys_depend_on_the_order_of_their_parts_and_do_not_collide() -> None:
    grid = combine(np.repeat(KEYS[:300], 300), np.tile(KEYS[:300], 300))
    assert len(np.unique(grid)) == 300 * 300
    assert combine(1, 2) != combine(2, 1)


def test_keys_that_are_no_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="keys are integers"):
        uniform(0, np.zeros(3), "noise")
