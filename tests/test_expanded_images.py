"""Prepared images of an expanded stack take the memory and the disk of its parent, and are read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protomer.imaging import images
from protomer.imaging.image_cache import CHECKSUM_BYTES, ENTRY, ImageCache
from protomer.running.batches import BATCH, make_batches
from protomer.symmetry.expansion import expanded
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import Particles
from reconstructions import as_particles, store_of
from simulated import chain_dataset

NUMBER = 90


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return as_particles(chain_dataset(NUMBER, 24, 6.0), tmp_path_factory.mktemp("images"))


def crops_by_row(particles: Particles, **how: object) -> tuple[dict[int, np.ndarray], images.ImageStore]:
    store = store_of(particles, **how)
    return {int(row): crop for number, crops in store.stream(range(len(store.batches)))
            for row, crop in zip(store.batches[number], crops, strict=True)}, store


@pytest.mark.parametrize(("group", "half_precision"), [("C2", False), ("D7", True), ("I", False)])
def test_an_expanded_stack_is_held_and_read_as_its_parent_is(parent: Particles, group: str, half_precision: bool, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    read_images = images.read_images
    monkeypatch.setattr(images, "read_images", lambda given, rows, readers: (read.append(len(rows)), read_images(given, rows, readers))[1])
    operators = OperatorSet.of_group(group)
    copies = expanded(parent, operators)
    ours, held = crops_by_row(parent, half_precision=half_precision)
    theirs, held_of_copies = crops_by_row(copies, half_precision=half_precision)
    assert held_of_copies.held_bytes == held.held_bytes == NUMBER * len(held.plane) * (4 if half_precision else 8)
    assert sum(read) == 2 * NUMBER
    assert sorted(theirs) == list(range(NUMBER * len(operators)))
    assert all(np.array_equal(crop, ours[row // len(operators)]) for row, crop in theirs.items())
    read.clear()
    for particles in (parent, copies):
        filed, _ = crops_by_row(particles, cache=ImageCache(tmp_path / "cache", None, print), half_precision=half_precision)
        sizes = [file.stat().st_size for file in (tmp_path / "cache").glob(f"*{ENTRY}")]
        assert sum(sizes) - (128 + CHECKSUM_BYTES) * len(sizes) == held.held_bytes  # beside a header of 128 bytes for each file
    assert sum(read) == NUMBER, "the parent's crops serve its copies"
    assert all(np.array_equal(crop, theirs[row]) for row, crop in filed.items())


def test_all_copies_of_an_image_lie_in_one_batch_and_batches_stay_small(parent: Particles) -> None:
    copies = expanded(parent, OperatorSet.of_group("D7")).take(np.random.default_rng(1).permutation(14 * NUMBER))
    batches = make_batches(copies, 3, 0)
    uids = [np.unique(copies.image_uid[batch.rows]) for batch in batches]
    assert sum(map(len, uids)) == NUMBER and sum(len(batch.rows) for batch in batches) == 14 * NUMBER
    assert max(len(batch.rows) for batch in batches) <= BATCH
    assert [batch.pictures for batch in batches] == [len(u) for u in uids]
    images_of_blocks = np.bincount([batch.block for batch in batches], [batch.pictures for batch in batches])
    assert images_of_blocks.max() <= BATCH and len(images_of_blocks) == len(make_batches(parent, 3, 0))
    assert [len(batch.rows) for batch in make_batches(expanded(parent, OperatorSet.of_group("I")), 1, 0)] == [60] * NUMBER


def test_copies_with_pictures_of_their_own_are_not_taken_for_one(parent: Particles) -> None:
    """As after subtraction: rows share the image's identity and lie in another stack."""
    copies = expanded(parent, OperatorSet.of_group("C2"))
    apart = copies.with_columns(stack_index=(np.arange(2 * NUMBER) * 7) % NUMBER)
    found, store = crops_by_row(apart)
    plain, _ = crops_by_row(parent)
    assert all(np.array_equal(crop, plain[int(apart.stack_index[row])]) for row, crop in found.items())
    assert sum(batch.pictures for batch in make_batches(apart, 1, 0)) * len(store.plane) * 8 == store.held_bytes
