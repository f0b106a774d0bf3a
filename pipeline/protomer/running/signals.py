"""SIGTERM and SIGUSR1 ask a job to stop at the next good moment; a second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from protomer.errors import Stopped

ASKING = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopFlag:
    """`requested` becomes True when a signal asked this process to finish its batch, checkpoint and exit."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that the first SIGTERM or SIGUSR1 raises; after it these signals act as before. Main thread only.

    A cluster signals every rank, and ranks stop as soon as one of them was asked: the signal of a rank that stops without having been
    asked itself may come while it ends. That one is taken too, and changes nothing.
    """
    flag = StopFlag()

    def ask(number: int, frame: FrameType | None) -> None:
        flag.requested = True
        act_as_before()

    def act_as_before() -> None:
        for asking, handler in before.items():
            signal.signal(asking, handler)

    before = {number: signal.signal(number, ask) for number in ASKING}
    still_to_come = False
    try:
        yield flag
    except Stopped:
        still_to_come = not flag.requested
        raise
    finally:
        if not still_to_come:
            act_as_before()
