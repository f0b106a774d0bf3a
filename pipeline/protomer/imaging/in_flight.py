"""Batches on their way to where they are computed on: several at once, the next ones read, prepared and brought there meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Any, TypeVar

import numpy as np

from protomer.computing.arithmetic import Arithmetic
from protomer.imaging.ahead import read_ahead
from protomer.imaging.images import ImageStore
from protomer.running.batches import Batch

T = TypeVar("T")


def in_flight(
    store: ImageStore, batches: Sequence[Batch], numbers: Sequence[int], arithmetic: Arithmetic
) -> Iterator[tuple[list[int], Any]]:
    """Numbers of batches of one half and fold, as many as `arithmetic` takes at once, and their crops (n, K) complex64, one after the
    other, where it computes. What becomes of an image does not depend on which batches are there with it."""
    for run, crops in _brought(store, batches, numbers, arithmetic):
        yield run, crops
        arithmetic.finish()


def done_in_flight(
    store: ImageStore, batches: Sequence[Batch], numbers: Sequence[int], arithmetic: Arithmetic, work: Callable[[list[int], Any], T]
) -> Iterator[T]:
    """What work(numbers, crops) gives for what `in_flight` has, in its order, as many calls beside one another as `arithmetic` has
    `side_by_side`, each on a thread: while a device computes for one, the host does its part of another."""

    def done(run: list[int], crops: Any) -> T:
        found = work(run, crops)
        arithmetic.finish()
        return found

    coming = _brought(store, batches, numbers, arithmetic)
    if arithmetic.side_by_side == 1:
        yield from (done(run, crops) for run, crops in coming)
    else:
        yield from _side_by_side(coming, done, arithmetic.workers, arithmetic.side_by_side)


def _brought(
    store: ImageStore, batches: Sequence[Batch], numbers: Sequence[int], arithmetic: Arithmetic
) -> Iterator[tuple[list[int], Any]]:
    """Runs of batches and their crops, the next ones being brought meanwhile."""
    runs = runs_of(batches, numbers, arithmetic.at_once)
    return read_ahead(runs, lambda run: arithmetic.crops(list(arithmetic.readers.map(store.packed, run))), arithmetic.bringer)


def _side_by_side(
    coming: Iterator[tuple[list[int], Any]], work: Callable[[list[int], Any], T], workers: Executor, number: int
) -> Iterator[T]:
    """What work gives for each of those that come, in order; so many at a time. None is under way when it ends, however it does."""
    under_way: deque[Future[T]] = deque()
    try:
        for run, crops in coming:
            under_way.append(workers.submit(work, run, crops))
            if len(under_way) == number:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        wait(under_way)


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
