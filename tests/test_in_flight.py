"""Batches under way side by side: in order, stopped by a fault, and the same bits as one after the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cuda_e_step import SideBySide
from protomer.computing.arithmetic import Arithmetic
from protomer.imaging.in_flight import done_in_flight
from protomer.running.batches import Batch

BATCHES = [Batch((half, 0), np.arange(4) + 4 * number, 4, number) for number, half in enumerate((0, 0, 0, 0, 0, 1, 1))]


@dataclass
class Numbered:
    """A store whose crops are the number of their batch."""

    def packed(self, number: int) -> int:
        """The number itself."""
        return number


class OfNumbers(SideBySide):
    """Crops are the numbers of their batches."""

    def crops(self, packed: Any) -> Any:
        """As they are."""
        return packed


def all_of(arithmetic: Arithmetic, work: Any) -> list[Any]:
    return list(done_in_flight(Numbered(), BATCHES, range(len(BATCHES)), arithmetic, work))  # type: ignore[arg-type]


def test_runs_of_one_half_come_back_in_order_though_they_go_on_side_by_side() -> None:
    arithmetic, meeting = OfNumbers(), threading.Barrier(2, timeout=20)

    def work(numbers: list[int], crops: list[int]) -> list[int]:
        assert numbers == crops
        meeting.wait()  # one alone would wait for ever
        return numbers

    assert all_of(arithmetic, work) == [[0, 1], [2, 3], [4], [5, 6]]
    assert arithmetic.finished == 4


def test_a_fault_in_one_of_them_is_raised_and_no_more_are_begun() -> None:
    begun = []

    def work(numbers: list[int], crops: list[int]) -> None:
        begun.append(numbers)
        if 2 in numbers:
            raise KeyError(2)

    with pytest.raises(KeyError):
        all_of(OfNumbers(), work)
    assert [5, 6] not in begun
