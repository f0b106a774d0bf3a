"""select: particles picked twice, crowded viewing directions, one row for each image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protomer.errors import InputError
from protomer.formats.hdf5 import read_particles
from protomer.symmetry.expansion import expanded, one_row_per_image
from protomer.symmetry.operator_sets import OperatorSet
from protomer.symmetry.point_groups import operators
from protomer.tables.particles import Particles
from protomer.tables.views import coverage, sampling_of, viewing_directions
from test_orientations import preferred, uniform
from test_select import assert_rows, no_pictures, select
from test_symmetry_expand import images, warned

__all__ = ["no_pictures"]
PIXEL_A = 2.0
LEAST_A = 60.0


def picked(number: int = 400, seed: int = 5) -> Particles:
    """Images on three crowded micrographs, with shifts of tens of angstrom; pixels of the micrographs are said."""
    random, particles = np.random.default_rng(seed), images(number)
    columns = {"coordinate_px": random.uniform(0, 1000, (number, 2)), "shift_A": random.normal(0, 15, (number, 2)),
               "micrograph": np.array([f"mic_{i % 3}.mrc" for i in range(number)], object)}
    group = replace(particles.optics_groups[0], extra={"rlnMicrographPixelSize": str(PIXEL_A)})
    return replace(particles.with_columns(**columns), optics_groups=(group,))


def slowly_apart(particles: Particles, least_A: float) -> np.ndarray:
    """bool (n,): what a loop over rows, best first, keeps."""
    place = particles.coordinate_px * PIXEL_A - particles.shift_A
    kept = np.zeros(len(particles), bool)
    for row in np.argsort(-particles.log_likelihood):
        same = kept & (particles.micrograph == particles.micrograph[row]) & (particles.image_uid != particles.image_uid[row])
        kept[row] = not (np.linalg.norm(place[same] - place[row], axis=1) < least_A).any()
    return kept


def test_of_particles_picked_twice_the_best_stays_and_nothing_is_lost(tmp_path: Path) -> None:
    given = picked()
    kept, summary = select(tmp_path, given, min_distance=f"{LEAST_A}A")
    expected = slowly_apart(given, LEAST_A)
    assert_rows(kept, given, expected)
    assert 20 < (~expected).sum() == summary["rows_dropped"] and summary["rows_in"] == summary["rows_out"] + summary["rows_dropped"]
    assert len(read_particles(tmp_path / "out/rest.h5")) == summary["rows_dropped"] and "micrograph_pixel_size" not in warned(summary)
    again, summary = select(tmp_path, kept, min_distance=LEAST_A)
    assert len(again) == len(kept) and summary["rows_dropped"] == 0


def test_the_order_of_rows_does_not_matter_and_the_first_of_a_stack_stays_on_request(tmp_path: Path) -> None:
    given, order = picked(), np.random.default_rng(1).permutation(400)
    one, two = (select(tmp_path, table, min_distance=LEAST_A)[0] for table in (given, given.take(order)))
    assert set(one.image_uid) == set(two.image_uid)
    first, _ = select(tmp_path, given, min_distance=LEAST_A, duplicate_kept="first")
    by_place = slowly_apart(given.with_columns(log_likelihood=-given.stack_index.astype(float)), LEAST_A)
    assert_rows(first, given, by_place)


def test_copies_of_one_image_are_no_duplicates_unless_asked_and_those_of_two_images_are(tmp_path: Path) -> None:
    given = expanded(picked(90), OperatorSet.of_group("C3", "relion"))
    given = given.with_columns(log_likelihood=np.random.default_rng(2).normal(size=len(given)))
    kept, _ = select(tmp_path, given, min_distance=LEAST_A)
    assert_rows(kept, given, slowly_apart(given, LEAST_A))
    assert (np.unique(kept.image_uid, return_counts=True)[1] == 3).any()
    single, _ = select(tmp_path, given, min_distance=LEAST_A, duplicate_copies=True)
    assert len(np.unique(single.image_uid)) == len(single) < len(kept)


def test_pixel_sizes_come_from_the_setting_the_file_or_are_assumed_and_said(tmp_path: Path) -> None:
    given = picked()
    bare = replace(given, optics_groups=(replace(given.optics_groups[0], extra={}),))
    assumed, summary = select(tmp_path, bare, min_distance=LEAST_A)
    assert "micrograph_pixel_size" in warned(summary)
    told, summary = select(tmp_path, bare, min_distance=LEAST_A, micrograph_pixel_size=PIXEL_A)
    assert "micrograph_pixel_size" not in warned(summary) and len(told) == slowly_apart(given, LEAST_A).sum() > len(assumed)
    foreign = replace(bare, extra={**given.extra, "location/micrograph_psize_A": np.full(len(given), PIXEL_A, np.float32)})
    assert len(select(tmp_path, foreign, min_distance=LEAST_A)[0]) == len(told)


def test_rows_without_a_place_are_kept_and_said_and_a_set_without_any_is_refused(tmp_path: Path) -> None:
    given = picked()
    place = given.coordinate_px.copy()
    place[::2] = np.nan
    kept, summary = select(tmp_path, given.with_columns(coordinate_px=place), min_distance=LEAST_A)
    assert "no_position" in warned(summary) and np.isin(given.image_uid[::2], kept.image_uid).all()
    with pytest.raises(InputError, match="no row has a place"):
        select(tmp_path, given.with_columns(coordinate_px=np.full_like(place, np.nan)), min_distance=LEAST_A)


def test_one_row_for_each_image_is_what_undoing_an_expansion_leaves(tmp_path: Path) -> None:
    given = expanded(images(60), OperatorSet.of_group("D2", "relion"))
    given = given.with_columns(log_likelihood=np.random.default_rng(3).normal(size=len(given)))
    kept, summary = select(tmp_path, given, one_per_image="best")
    rows = np.sort(one_row_per_image(given, "best"))
    assert (summary["rows_in"], summary["rows_out"], summary["rows_dropped"]) == (240, 60, 180)
    np.testing.assert_array_equal(kept.rotation, given.rotation[rows])
    assert not kept.is_expanded and len(kept.operators) == 1
    better, _ = select(tmp_path, given, one_per_image="original", min_log_likelihood=0.0)
    passed = given.log_likelihood >= 0
    assert len(better) == len(np.unique(given.image_uid[passed])) and not better.is_expanded


def test_rebalancing_brings_crowded_views_down_and_leaves_even_ones_alone(tmp_path: Path) -> None:
    crowded = images(3000).with_columns(rotation=preferred())
    kept, summary = select(tmp_path, crowded, rebalance=True)
    before, after = (coverage(viewing_directions(one.rotation), operators("C1")) for one in (crowded, kept))
    assert (before.count / before.even).max() > 7 and 0 < summary["rows_dropped"] == 3000 - len(kept)
    scf = [sampling_of(viewing_directions(one.rotation), operators("C1")).scf for one in (crowded, kept)]
    assert scf[1] > scf[0] + 0.1 and after.densest_half > before.densest_half + 0.1
    rare = np.abs(viewing_directions(crowded.rotation)[:, 2]) < 0.8
    assert np.isin(crowded.image_uid[rare], kept.image_uid).mean() > 0.99
    even, _ = select(tmp_path, images(3000).with_columns(rotation=uniform()), rebalance=True)
    assert len(even) > 0.97 * 3000


def test_a_balanced_set_depends_on_the_seed_alone_and_on_the_group(tmp_path: Path) -> None:
    given, order = images(2000).with_columns(rotation=preferred(number=2000)), np.random.default_rng(8).permutation(2000)
    one, two = (select(tmp_path, table, rebalance=True)[0] for table in (given, given.take(order)))
    assert set(one.image_uid) == set(two.image_uid)
    other, _ = select(tmp_path, given, rebalance=True, seed=7)
    assert len(other) == len(one) and set(other.image_uid) != set(one.image_uid)
    with_group, _ = select(tmp_path, given, {"symmetry": "O"}, rebalance=True)
    assert len(with_group) != len(one)
    with pytest.raises(InputError, match="have no poses"):
        select(tmp_path, replace(given, has_poses=False), rebalance=True)
