"""protomer watch: what is shown of runs that wait, run, fell silent, failed and are done, and how work in progress reaches the log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from protomer.command_line import job_command
from protomer.declarations.watch import JOB
from protomer.errors import InputError
from protomer.jobs.watch import look
from protomer.report.live_table import is_over, snapshot
from protomer.running import progress
from protomer.running.progress import Logged


def write_log(folder: Path, *events: tuple[float, str, dict[str, Any]]) -> Path:
    """A log whose events happened so many seconds ago."""
    folder.mkdir(parents=True)
    now = datetime.now(UTC)
    lines = [json.dumps({"time": (now - timedelta(seconds=ago)).isoformat(), "event": kind, **fields}) for ago, kind, fields in events]
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def shown(folder: Path, width: int = 150) -> str:
    """The snapshot as text."""
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    console.print(snapshot(folder, look(folder)))
    return console.export_text()


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A chain with a run in each state."""
    begin = {"job": "refine"}
    write_log(tmp_path / "first", (90, "begin", begin), (30, "done", {}))
    (tmp_path / "first/summary.json").write_text(json.dumps({"job": "import", "status": "done", "outputs": {}, "inputs": {}}))
    write_log(tmp_path / "now", (100, "begin", begin), (60, "iteration", {"number": 2, "resolution_A": 9.31}),
              (50, "warning", {"code": "few", "text": "few images"}), (10, "progress", {"label": "iteration 3", "done": 30, "total": 120,
                                                                                      "seconds": 20.0}))
    write_log(tmp_path / "quiet", (9000, "begin", begin), (8000, "progress", {"label": "maps", "done": 1, "total": 2, "seconds": 1.0}))
    write_log(tmp_path / "broken", (50, "begin", begin), (40, "failed", {"error": "OSError", "text": "no room"}))
    steps = {name: {"job": "refine", "parents": [], "words": []} for name in ("first", "now", "quiet", "broken", "later", "refused")}
    (tmp_path / "provenance.json").write_text(json.dumps({"steps": steps, "folder": str(tmp_path)}))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/refused.log").write_text("protomer: an odd file\n  expected: another\n")
    return tmp_path


def test_each_run_is_shown_with_its_state_progress_resolution_time_and_warnings(chain: Path) -> None:
    lines = {line.split()[0]: line for line in shown(chain).splitlines() if line.strip()}
    assert "1 of 6 done" in shown(chain)
    for words in ("running", "2 iterations", "iteration 3 ━━╌╌╌╌╌╌╌╌ 25%", "9.31", "1 min 40 s", "50 s", " 1"):
        assert words in lines["now"], words
    assert "silent 2 h 13 min" in lines["quiet"] and "waiting" in lines["later"] and "done" in lines["first"]
    assert "broken failed: OSError no room" in shown(chain) and "refused was refused: protomer: an odd file" in shown(chain)
    assert "now: few images" in shown(chain)
    assert [run.state for run in look(chain)] == ["done", "running", "running", "failed", "waiting", "refused"]
    assert not is_over(look(chain))


def test_a_narrow_terminal_cuts_no_number(chain: Path) -> None:
    assert "9.31" in shown(chain, 80) and "50 s" in shown(chain, 80)


def test_one_run_s_folder_is_shown_too_and_a_snapshot_says_by_its_exit_code_whether_one_failed(chain: Path) -> None:
    assert "now" in shown(chain / "now") and "quiet" not in shown(chain / "now")
    assert job_command(JOB).main([str(chain / "first"), "--once"], standalone_mode=False) == 0
    assert job_command(JOB).main([str(chain), "--once"], standalone_mode=False) == 1
    assert is_over(look(chain / "first")) and is_over(look(chain / "broken"))


def test_a_folder_without_a_run_or_with_damaged_provenance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run yet"):
        look(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        look(tmp_path / "absent")
    (tmp_path / "provenance.json").write_text('{"steps": {"a": {}}}')
    with pytest.raises(InputError, match="provenance"):
        look(tmp_path)


def test_progress_is_logged_at_first_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

    class Line:
        done = 0

        def advance(self, number: int = 1, **note: Any) -> None:
            self.done += number

    line = Line()
    logged = Logged(line, lambda kind, **fields: told.append((kind, fields["done"], fields["seconds"])), "maps", 100)
    for _ in range(30):
        clock[0] += 1.0
        logged.advance(2)
    assert line.done == 60
    assert told == [("progress", 4, 2.0), ("progress", 24, 12.0), ("progress", 44, 22.0)]
