"""watch: log.jsonl of each run -> a table that is drawn again and again."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.watch import WatchSettings
from protomer.errors import InputError
from protomer.report.live_table import is_over, snapshot
from protomer.running.chain_provenance import planned_parents
from protomer.running.run_states import RunState, read_runs


def execute(inputs: Inputs, settings: WatchSettings, call: Call) -> int:
    """Show the runs until all have ended; 0, or 1 where one has failed. Raises InputError where the folder holds no run."""
    folder, console = Path(inputs.folder), Console()
    runs = look(folder)
    if settings.once or call.dry_run or not sys.stdout.isatty():
        console.print(snapshot(folder, runs))
    else:
        try:
            with Live(snapshot(folder, runs), console=console, auto_refresh=False) as live:
                while not is_over(runs):
                    time.sleep(settings.interval)
                    runs = look(folder)
                    live.update(snapshot(folder, runs), refresh=True)
        except KeyboardInterrupt:
            return 0
    return 1 if any(run.state in ("failed", "refused") for run in runs) else 0


def look(folder: Path) -> list[RunState]:
    """The runs as they are now. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", "the folder of a chain, or of one run", "check the path")
    runs = read_runs(folder, planned_parents(folder))
    if not runs:
        raise InputError(f"{folder} holds no run yet", "the folder of a chain that has been started, or of one run",
                         "give --folder of `protomer run`, or wait until it has begun")
    return runs
