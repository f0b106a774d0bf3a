"""SIGTERM and SIGUSR1 ask a job to stop at the next good moment; a second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopFlag:
    """`requested` becomes True when a signal asked this process to finish its batch, checkpoint and exit."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that the first SIGTERM or SIGUSR1 raises; after it these signals act as they do by default. Main thread only."""
    flag = StopFlag()

    def ask(number: int, frame: FrameType | None) -> None:
        flag.requested = True
        for asking in ASKING:
            signal.signal(asking, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in ASKING}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
