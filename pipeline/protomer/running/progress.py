"""How far a job is: a line with rate and time left on a terminal, a plain line now and then elsewhere, nothing on ranks other than 0."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

PLAIN_INTERVAL_S = 30.0
FIRST_LOGGED_S, LOG_INTERVAL_S = 2.0, 10.0


class Progress(Protocol):
    """What a job tells while it works."""

    def advance(self, number: int = 1, **note: Any) -> None:
        """`number` more are done; the note is shown beside the line."""
        ...


@contextmanager
def show_progress(label: str, total: int, is_shown: bool) -> Iterator[Progress]:
    """Show the progress of `total` pieces of work on stderr."""
    if not is_shown:
        yield _Silent()
    elif sys.stderr.isatty():
        with _terminal(label, total) as shown:
            yield shown
    else:
        yield _PlainLines(label, total)


def describe_note(note: dict[str, Any]) -> str:
    """A note as 'name value' pairs; floats at three digits."""
    return ", ".join(f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in note.items())


def describe_seconds(seconds: float) -> str:
    """A span of time as a person says it: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Silent:
    def advance(self, number: int = 1, **note: Any) -> None:
        """Say nothing."""


class Logged:
    """A line that also tells the run's log how far it is, now and then, for those who look on from elsewhere."""

    def __init__(self, line: Progress, tell: Callable[..., None], label: str, total: int) -> None:
        self._line, self._tell, self._label, self._total, self._done = line, tell, label, total, 0
        self._start = time.monotonic()
        self._next = self._start + FIRST_LOGGED_S

    def advance(self, number: int = 1, **note: Any) -> None:
        """Pass it on, and log it when the last time is long enough ago."""
        self._line.advance(number, **note)
        self._done += number
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_INTERVAL_S
            self._tell("progress", label=self._label, done=self._done, total=self._total, seconds=round(now - self._start, 1))


class _PlainLines:
    """For logs and batch systems: one line every PLAIN_INTERVAL_S."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._start = self._last = time.monotonic()

    def advance(self, number: int = 1, **note: Any) -> None:
        """Count, and print a line when the last one is old enough."""
        self._done += number
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL_S:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = describe_seconds((self._total - self._done) / rate)
        line = f"{self._label}: {self._done}/{self._total}, {rate:.3g}/s, {left} left {describe_note(note)}"
        print(line.rstrip(), file=sys.stderr, flush=True)


@contextmanager
def _terminal(label: str, total: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        """Pieces per second."""

        def render(self, task: Task) -> Text:
            """The rate, once there is one."""
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, note="")

        class Shown:
            """A line of the terminal."""

            def advance(self, number: int = 1, **note: Any) -> None:
                """Move the bar."""
                bars.update(task, advance=number)
                if note:
                    bars.update(task, note=describe_note(note))

        yield Shown()
