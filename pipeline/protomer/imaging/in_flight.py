"""Batches on their way to where they are computed on: several at once, the next ones read, prepared and brought there meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from protomer.arithmetic import Arithmetic
from protomer.imaging.ahead import read_ahead
from protomer.imaging.images import ImageStore
from protomer.running.batches import Batch


def in_flight(
    store: ImageStore, batches: Sequence[Batch], numbers: Sequence[int], arithmetic: Arithmetic
) -> Iterator[tuple[list[int], Any]]:
    """Numbers of batches of one half and fold, as many as `arithmetic` takes at once, and their crops (n, K) complex64, one after the
    other, where it computes. What becomes of an image does not depend on which batches are there with it."""
    runs = runs_of(batches, numbers, arithmetic.at_once)
    with ThreadPoolExecutor(max(1, arithmetic.threads), "batches") as readers:
        for run, crops in read_ahead(runs, lambda run: arithmetic.crops(list(readers.map(store.packed, run)))):
            yield run, crops
            arithmetic.finish()


def runs_of(batches: Sequence[Batch], numbers: Sequence[int], at_once: int) -> list[list[int]]:
    """Consecutive batches of the same half and fold, so many at most."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and len(runs[-1]) < at_once and batches[runs[-1][-1]].key == batches[number].key:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def rows_of(batches: Sequence[Batch], numbers: Sequence[int]) -> np.ndarray:
    """Rows of the particle table of batches that follow one another."""
    return batches[numbers[0]].rows if len(numbers) == 1 else np.concatenate([batches[n].rows for n in numbers])
