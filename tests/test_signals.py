"""Signals that ask a job to stop: the first is taken, the next acts as before, and a rank stopped by others still expects its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from protomer.errors import Stopped
from protomer.running.signals import ASKING, stop_on_signals


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """The signals that come through to what was there before."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in ASKING}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("asking", ASKING)
def test_the_first_signal_raises_the_flag_and_the_second_acts_as_before(heard: list[int], asking: signal.Signals) -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), asking)
        assert stop.requested and heard == []
        os.kill(os.getpid(), asking)
        assert heard == [asking]


def test_after_a_job_that_ended_signals_act_as_before(heard: list[int]) -> None:
    with stop_on_signals() as stop:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM] and not stop.requested


def test_after_a_stop_that_this_rank_was_asked_for_signals_act_as_before(heard: list[int]) -> None:
    with pytest.raises(Stopped), stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise Stopped("asked")
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_rank_that_stops_with_the_others_takes_its_own_signal_when_it_comes_late(heard: list[int]) -> None:
    with pytest.raises(Stopped), stop_on_signals():
        raise Stopped("another rank was asked")
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]
