"""How far the runs in a folder are, from what they left there: settings.yaml, log.jsonl, summary.json, and logs/NAME.log of a chain."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from protomer.running.events import LOG_NAME, Attempt, attempts_in, read_events
from protomer.running.run_folder import SETTINGS_NAME, RunRecord, read_record, read_summary

ENDS = ("done", "stopped", "failed")


@dataclass(frozen=True)
class RunState:
    """One run. parents: names of the runs beside it whose files it reads. seconds: of all attempts, the present one till now.

    state: waiting (nothing there yet), refused (nothing there, and the chain's log says why), running, stopped (by a signal; can be
    resumed), failed, done. silent_s: of a running one, how long ago it last wrote to its log.
    """

    name: str
    folder: Path
    record: RunRecord | None
    summary: Mapping[str, Any] | None
    events: Sequence[Mapping[str, Any]]
    parents: tuple[str, ...]
    state: str
    seconds: float
    silent_s: float

    @property
    def job(self) -> str:
        """The name of its job; empty where nothing says it."""
        return self.record.job if self.record is not None else str((self.summary or {}).get("job", ""))

    @property
    def warnings(self) -> list[Mapping[str, str]]:
        """Its warnings, each with code and text, as its log tells them; each once."""
        told = [{"code": str(e.get("code", "")), "text": str(e.get("text", ""))} for e in self.events if e.get("event") == "warning"]
        told += list((self.summary or {}).get("warnings", ()))
        return [warning for at, warning in enumerate(told) if warning not in told[:at]]

    def last(self, kind: str) -> Mapping[str, Any] | None:
        """The last event of a kind in its log."""
        return next((event for event in reversed(self.events) if event.get("event") == kind), None)

    @property
    def piece(self) -> Mapping[str, Any] | None:
        """The last word on the piece of work under way: label, done, total, seconds; None where a later event says that it is over."""
        if not self.events or self.events[-1].get("event") != "progress" or not self.events[-1].get("total"):
            return None
        return self.events[-1]

    @property
    def resolution_A(self) -> float | None:
        """The resolution that it reached, or has reached so far; None where it measures none or reached none."""
        measured = (self.summary or {}).get("resolution_A")
        value = measured.get("corrected") if isinstance(measured, Mapping) else (self.last("iteration") or {}).get("resolution_A")
        return float(value) if isinstance(value, (int, float)) and 0 < value < float("inf") else None


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / SETTINGS_NAME).is_file() or (folder / LOG_NAME).is_file()


def read_run(folder: Path) -> RunState:
    """The state of the run in a folder, without its parents."""
    events = read_events(folder / LOG_NAME)
    summary, attempts = read_summary(folder), attempts_in(events)
    state = "done" if summary is not None else _state(attempts)
    silent_s = _seconds_since(events[-1]) if events else 0.0
    seconds = sum(attempt.seconds for attempt in attempts) + (silent_s if state == "running" else 0.0)
    return RunState(folder.name, folder, read_record(folder), summary, events, (), state, seconds, silent_s)


def _state(attempts: Sequence[Attempt]) -> str:
    """A log that just ends is of a run that goes on, or was killed: nobody can tell the one from the other by it."""
    if not attempts:
        return "waiting"
    return attempts[-1].end if attempts[-1].end in ENDS[1:] else "running"


def _seconds_since(event: Mapping[str, Any]) -> float:
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(str(event["time"]))).total_seconds())
    except (KeyError, ValueError, TypeError):
        return 0.0


def read_runs(folder: Path, planned: Mapping[str, Sequence[str]] | None = None) -> list[RunState]:
    """The runs in a folder, or the one run that the folder is, each after those it reads; of several that could come next the first begun.

    planned: names of the runs that a chain has, with their parents: those that have not begun are there too, as waiting.
    """
    planned = planned or {}
    if is_run(folder):
        return [read_run(folder)]
    found = {path.name: read_run(path) for path in sorted(folder.iterdir()) if path.is_dir() and (is_run(path) or path.name in planned)}
    found |= {name: read_run(folder / name) for name in planned if name not in found}
    parents = {name: _parents(run, found) or tuple(planned.get(name, ())) for name, run in found.items()}
    begun = {name: str(run.events[0].get("time")) if run.events else "z" for name, run in found.items()}
    places = {name: at for at, name in enumerate(planned)}
    chosen = sorted(found, key=lambda name: (places.get(name, len(places)), begun[name], name))
    order = list(_in_order(chosen, parents))
    return [replace(found[name], parents=parents[name], state=_with_refusal(folder, found[name])) for name in order]


def _with_refusal(folder: Path, run: RunState) -> str:
    """The state of a run; one that was refused has left nothing but its words."""
    return "refused" if run.state == "waiting" and last_words(folder, run.name).startswith("protomer:") else run.state


def _in_order(names: Sequence[str], parents: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The names, each after its parents, otherwise as they stand; a circle, which no chain has, is left as it is."""
    sorter = graphlib.TopologicalSorter({name: parents[name] for name in names})
    try:
        sorter.prepare()
    except graphlib.CycleError:
        yield from names
        return
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=list(names).index)
        yield from ready
        sorter.done(*ready)


def _parents(run: RunState, found: Mapping[str, RunState]) -> tuple[str, ...]:
    """The runs among those found from whose folders a run's inputs came, by its own record."""
    inputs = run.record.inputs.values() if run.record is not None else ()
    paths = [Path(part["path"]) for value in inputs for part in (value if isinstance(value, list) else [value])
             if isinstance(part, Mapping) and "path" in part]
    return tuple(dict.fromkeys(parent.name for path in paths for parent in path.parents
                               if parent.name in found and parent.name != run.name and _same(parent, found[parent.name].folder)))


def _same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute() or one.resolve() == other.resolve()


def last_words(folder: Path, name: str) -> str:
    """The last line of a chain's logs/NAME.log, where a job that was refused said why; empty where there is none."""
    path = folder / "logs" / f"{name}.log"
    if not path.is_file():
        return ""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-40:] if line.strip()]
    said = [line for line in lines if line.startswith("protomer:")]
    return (said or lines or [""])[-1]
