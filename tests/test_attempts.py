"""Runs that end early and go on: what they say, and whose seconds are counted."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import counting_job
from protomer.config.job_inputs import Inputs
from protomer.errors import Stopped
from protomer.running.events import read_events
from protomer.running.job_run import JobRun
from test_job_run import count


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("\n".join(str(n) for n in range(11)))
    return path


def test_the_seconds_of_a_resumed_run_are_those_of_all_its_attempts(numbers: Path, tmp_path: Path,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        count(numbers, out, {"trouble": "fault", "pause": 0.05})
    log = out / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"failed"' not in line))  # as after a kill
    began, last = (datetime.fromisoformat(read_events(log)[n]["time"]) for n in (0, -1))
    (out / "checkpoint.h5").unlink()
    settings = out / "settings.yaml"
    settings.write_text(settings.read_text().replace("trouble: fault", "trouble: none"))
    summary = count(numbers, out, {"pause": 0.05}, resume=True)
    assert "ended without a word" in (said := capsys.readouterr().err) and "from the beginning" in said
    assert summary["seconds"] == pytest.approx(summary["seconds_this_attempt"] + (last - began).total_seconds(), abs=2e-3)
    assert summary["seconds_this_attempt"] >= 0.2 and summary["seconds"] > summary["seconds_this_attempt"] + 0.1
    assert summary["images_per_second"] == pytest.approx(11 / summary["seconds"], rel=0.01)


def test_a_run_that_is_stopped_before_its_first_checkpoint_names_none(numbers: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped_at_once(inputs: Inputs, settings: Any, job: JobRun) -> dict[str, Any]:
        os.kill(os.getpid(), 15)
        job.check_stop()
        raise AssertionError("the signal was not noticed")

    def stopped_after_a_checkpoint(inputs: Inputs, settings: Any, job: JobRun) -> dict[str, Any]:
        job.checkpoint.save({"step": 1})
        return stopped_at_once(inputs, settings, job)

    monkeypatch.setattr(counting_job, "run", stopped_at_once)
    with pytest.raises(Stopped, match=r"before any checkpoint .* starts from the beginning"):
        count(numbers, tmp_path / "out")
    monkeypatch.setattr(counting_job, "run", stopped_after_a_checkpoint)
    with pytest.raises(Stopped, match="from the last checkpoint"):
        count(numbers, tmp_path / "out", resume=True)


def test_a_run_that_was_interrupted_by_ctrl_c_is_called_stopped_and_not_failed(
    numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(inputs: Inputs, settings: Any, job: JobRun) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(counting_job, "run", interrupted)
        count(numbers, tmp_path / "out")
    count(numbers, tmp_path / "out", resume=True)
    assert "was stopped by a signal; going on from the beginning" in capsys.readouterr().err
