"""A run computed once more, from its own records, in a folder of its own, and compared with what it left: bit by bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protomer.running.events import LOG_NAME, read_events
from protomer.running.file_differences import differing
from protomer.running.provenance import differences
from protomer.running.run_folder import SETTINGS_NAME, RunRecord, read_summary

#: what a summary says of the clock and of files, which are compared by themselves
_NOT_RESULTS = ("seconds", "seconds_this_attempt", "images_per_second", "resumed", "inputs", "outputs")


def rerun_command(folder: Path, record: RunRecord, output: Path) -> list[str]:
    """The command that repeats the run in a folder: its settings and inputs, on as many ranks and threads."""
    begin: Mapping[str, Any] = next((event for event in reversed(read_events(folder / LOG_NAME)) if event.get("event") == "begin"), {})
    ranks, threads = int(begin.get("ranks", 1)), int(begin.get("threads", 1))
    mpiexec = Path(sys.executable).with_name("mpiexec")
    launcher = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", str(ranks)] if ranks > 1 else []
    return [*launcher, sys.executable, "-m", "protomer", record.job, "--config", str((folder / SETTINGS_NAME).absolute()),
            "--output", str(output), "--backend", record.backend, "--threads", str(threads)]


def rerun_differences(folder: Path, record: RunRecord, summary: Mapping[str, Any], scratch: Path | None) -> Iterator[str]:
    """Compute the run again and yield what differs, one line each. The temporary folder is removed."""
    with tempfile.TemporaryDirectory(prefix="protomer-rerun-", dir=scratch) as place:
        again = Path(place) / folder.absolute().name
        done = subprocess.run(rerun_command(folder, record, again), capture_output=True, text=True, check=False, env=dict(os.environ))
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()][-3:]
            yield f"computed again it ended with exit code {done.returncode}: {' / '.join(said)}"
            return
        yield from _outputs(folder, again, summary)
        yield from _results(summary, read_summary(again) or {}, folder, again)


def _outputs(folder: Path, again: Path, summary: Mapping[str, Any]) -> Iterator[str]:
    new = (read_summary(again) or {}).get("outputs", {})
    yield from (f"computed again it also wrote {name}" for name in new if name not in summary["outputs"])
    for name in summary["outputs"]:
        if name not in new:
            yield f"output {name} was not written again"
        elif (folder / name).is_file():
            yield from (f"output {name} computed again: {line}" for line in differing(folder / name, again / name))


def _results(summary: Mapping[str, Any], new: Mapping[str, Any], folder: Path, again: Path) -> Iterator[str]:
    """Numbers and warnings of the summary."""
    one, other = ({key: value for key, value in found.items() if key not in _NOT_RESULTS} for found in (summary, new))
    moved = json.loads(json.dumps(other).replace(json.dumps(str(again))[1:-1], json.dumps(str(folder.absolute()))[1:-1]))
    yield from (f"summary {line.replace(' asked', ' now')}" for line in differences(one, moved))
