"""The work of an iteration in fixed batches, which do not depend on ranks, and each rank's share of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protomer.randomness import uniform
from protomer.tables.particles import Particles
from protomer_kernels.insertion import accumulator_bytes

BATCH = 64
WINDOWED = 8 * BATCH  # images of filaments that a device scores together: each part of the grid is then searched for a batch of them
FOLDS, LEAST_IN_FOLD, MANY_IMAGES, MOST_FOLD_BYTES = 4, 8, 20_000, 4e9

Key = tuple[int, int]  # half, fold


@dataclass(frozen=True)
class Batch:
    """Rows of the particle table that are worked on together, how many pictures they show, and the block of images that they belong to.

    A block is what a batch would be without copies, so that crops that were kept for the images serve their copies too.
    """

    key: Key
    rows: np.ndarray
    pictures: int
    block: int


def fold_count(wanted: int | None, half_sizes: Sequence[int], radius: int) -> int:
    """How many folds each half is divided into: as wanted, or by rule; one where folds would be too small to be worth it.

    An image's own noise is the smaller a part of its map, the more images there are, while each fold takes an accumulator's memory.
    """
    folds = FOLDS if wanted is None else wanted
    if wanted is None and (max(half_sizes) >= MANY_IMAGES or 2 * FOLDS * accumulator_bytes(radius) > MOST_FOLD_BYTES):
        folds = 1
    return folds if min(half_sizes) >= LEAST_IN_FOLD * folds else 1


def folded_batches(particles: Particles, wanted: int | None, radius: int, seed: int) -> list[Batch]:
    """Fixed batches in as many folds of each half as `fold_count` gives for images of this Fourier radius."""
    return make_batches(particles, fold_count(wanted, np.bincount(particles.half, minlength=2).tolist(), radius), seed)


def make_batches(particles: Particles, folds: int, seed: int) -> list[Batch]:
    """All particles in fixed batches, ordered by half and fold; copies of one image lie in one batch."""
    fold = (uniform(seed, particles.image_uid, "fold") * folds).astype(np.int64)
    batches: list[Batch] = []
    for half in (0, 1):
        for f in range(folds):
            rows, block = np.flatnonzero((particles.half == half) & (fold == f)), batches[-1].block + 1 if batches else 0
            parts, in_block = _whole_images(particles, rows)
            batches += [
                Batch((half, f), part, len(np.unique(particles.pictures(part))), block + n // in_block) for n, part in enumerate(parts)
            ]
    return batches


def _whole_images(particles: Particles, rows: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Rows in parts of at most BATCH, or of one image where that has more copies; images in the order of their first rows. And how many
    parts hold BATCH images."""
    _, first, image, copies = np.unique(particles.image_uid[rows], return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first[image], kind="stable")  # the same order where no image has copies
    images = 1 << (max(1, BATCH // int(copies.max(initial=1))).bit_length() - 1)  # a power of two, as BATCH is
    ends = np.cumsum(copies[np.argsort(first)])[images - 1 :: images]
    return [part for part in np.split(rows[order], ends) if len(part)], BATCH // images


def share_of_batches(batches: int, rank: int, ranks: int) -> range:
    """The numbers of the batches that one rank works on: contiguous, so that what the ranks gather is in the order of the batches."""
    bounds = np.cumsum([0, *(len(part) for part in np.array_split(np.arange(batches), ranks))])
    return range(int(bounds[rank]), int(bounds[rank + 1]))
