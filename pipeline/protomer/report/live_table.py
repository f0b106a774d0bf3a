"""The table of `protomer watch`: one line for each run, its warnings below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from protomer.running.progress import describe_seconds
from protomer.running.run_states import RunState, last_words

SILENT_S = 600.0  # after which a run that has not ended may have been killed
LOOKS = {"done": "green", "running": "bold cyan", "waiting": "dim", "stopped": "yellow", "failed": "bold red", "refused": "bold red"}
BAR = 10  # letters of a progress bar
MOST_WARNINGS = 8


def is_over(runs: Sequence[RunState]) -> bool:
    """Whether nothing more is to be seen: every run has ended, or one failed while none is running."""
    return not any(run.state == "running" for run in runs) and (
        all(run.state == "done" for run in runs) or any(run.state in ("failed", "stopped", "refused") for run in runs))


def snapshot(folder: Path, runs: Sequence[RunState]) -> RenderableType:
    """The runs of a folder as they are now."""
    done = sum(run.state == "done" for run in runs)
    table = Table(title=f"{folder.absolute()}: {done} of {len(runs)} done", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
                  pad_edge=False)
    for name in ("job", "what", "state", "progress"):
        table.add_column(name, overflow="fold", no_wrap=name == "state")
    for name in ("Å", "time", "left", "warnings"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        resolution = "" if run.resolution_A is None else f"{run.resolution_A:.2f}"
        spent = describe_seconds(run.seconds) if run.state not in ("waiting", "refused") else ""
        state = Text(_state(run), LOOKS.get(run.state, ""))
        table.add_row(Text(run.name, "bold"), run.job, state, progress_in_words(run), resolution, spent, time_left(run),
                      Text(str(len(run.warnings)) if run.warnings else "", "yellow"))
    return Group(table, *_remarks(folder, runs))


def _state(run: RunState) -> str:
    return f"silent {describe_seconds(run.silent_s)}" if run.state == "running" and run.silent_s > SILENT_S else run.state


def progress_in_words(run: RunState) -> str:
    """How far a running one is: its piece of work, and the iterations behind it."""
    if run.state != "running":
        return ""
    number = (run.last("iteration") or {}).get("number")
    words = [f"{number} iterations"] if number else []
    piece = run.piece
    if piece is not None:
        share = min(1.0, piece["done"] / piece["total"])
        filled = round(BAR * share)
        words.append(f"{piece.get('label', '')} {'━' * filled}{'╌' * (BAR - filled)} {100 * share:.0f}%")
    return ", ".join(words)


def time_left(run: RunState) -> str:
    """The time that a running one's piece of work still takes, at its rate so far; empty where none is under way."""
    piece = run.piece
    if run.state != "running" or piece is None or not piece.get("done"):
        return ""
    left_s = piece["seconds"] * (piece["total"] - piece["done"]) / piece["done"] - run.silent_s
    return describe_seconds(max(0.0, left_s))


def _remarks(folder: Path, runs: Sequence[RunState]) -> list[Text]:
    """What failed and why, then the last warnings."""
    lines = []
    for run in runs:
        failed = run.last("failed")
        if run.state == "failed" and failed is not None:
            lines.append(Text(f"{run.name} failed: {failed.get('error')} {failed.get('text')}", "red"))
        elif run.state == "refused":
            lines.append(Text(f"{run.name} was refused: {last_words(folder, run.name)}", "red"))
    warned = [Text(f"{run.name}: {warning['text']}", "yellow") for run in runs for warning in run.warnings]
    more = [Text(f"and {len(warned) - MOST_WARNINGS} more warnings", "yellow")] if len(warned) > MOST_WARNINGS else []
    return lines + warned[:MOST_WARNINGS] + more
