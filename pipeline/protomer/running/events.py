"""log.jsonl: one JSON line per event, and the warnings that a report and the summary repeat."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from protomer.errors import StorageError
from protomer.running.output import refused_by_disk, storage_message

LOG_NAME = "log.jsonl"


def plain_json(value: Any) -> Any:
    """For json.dumps: NumPy scalars and arrays, paths and tuples as plain values."""
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value) if isinstance(value, Path) else repr(value)


class Events:
    """Appends events to a run's log.jsonl; with no path (ranks other than 0, tests) it only collects warnings."""

    def __init__(self, path: Path | None, warnings: tuple[dict[str, str], ...] = ()) -> None:
        self._path, self._warnings = path, list(warnings)

    @property
    def warnings(self) -> tuple[dict[str, str], ...]:
        """The warnings so far, each with `code` and `text`, in their order."""
        return tuple(self._warnings)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event with the time; fields may be NumPy scalars or arrays. Raises StorageError where the disk refuses."""
        if self._path is None:
            return
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": kind, **fields}, default=plain_json,
                          ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as log:
                log.write(line + "\n")
        except OSError as error:
            if refused_by_disk(error):
                raise StorageError(storage_message(self._path, error)) from error
            raise

    def about(self, name: str, **fields: Any) -> EventsAbout:
        """The same events for a part of the work: warnings begin with its name, other events hold the fields."""
        return EventsAbout(self, name, fields)

    def warn(self, code: str, text: str) -> None:
        """Note something that the reader of the results must know: shown at once, logged, and repeated in report and summary."""
        warning = {"code": code, "text": text}
        if warning in self._warnings:
            return
        self._warnings.append(warning)
        if self._path is not None:
            print(f"warning: {text}", file=sys.stderr)
            self.event("warning", **warning)


class EventsAbout(Events):
    """Events of a part of the work, passed on to those of the whole (Events.about)."""

    def __init__(self, whole: Events, name: str, fields: Mapping[str, Any]) -> None:
        super().__init__(None)
        self._whole, self._name, self._fields = whole, name, fields

    def warn(self, code: str, text: str) -> None:
        """The warning, of the part."""
        self._whole.warn(code, f"{self._name}: {text}")

    def event(self, kind: str, **fields: Any) -> None:
        """The event, of the part."""
        self._whole.event(kind, **self._fields, **fields)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run, from its `begin` in the log to its last event: how long it lasted, and how it ended.

    end: done, stopped, failed, or killed where the log just ends.
    """

    seconds: float
    end: str


def attempts_in(events: list[dict[str, Any]]) -> list[Attempt]:
    """The attempts that a log tells of, in their order."""
    begins = [number for number, event in enumerate(events) if event.get("event") == "begin"]
    attempts = []
    for first, after in itertools.pairwise([*begins, len(events)]):
        begun, last = (datetime.fromisoformat(events[number]["time"]) for number in (first, after - 1))
        end = str(events[after - 1]["event"])
        attempts.append(Attempt((last - begun).total_seconds(), end if end in ("done", "stopped", "failed") else "killed"))
    return attempts


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log.jsonl; a last line that a killed process cut short is left out."""
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
