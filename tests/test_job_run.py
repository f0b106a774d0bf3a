"""A run's folder: what is refused, resumed, replaced; full disks; checkpoints; verify."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import counting_job
from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.verify import VerifySettings
from protomer.errors import DeviceLost, InputError, Stopped, StorageError
from protomer.jobs import verify
from protomer.running import output as output_module
from protomer.running.checkpoints import Checkpoint
from protomer.running.events import Events, read_events
from protomer.running.job_run import JobRun, RunOptions, run_job
from protomer.running.output import OutputFolder
from protomer.running.progress import describe_seconds, show_progress
from protomer.running.ranks import Team
from small_disk import small_disk


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("\n".join(str(n) for n in range(11)))
    return path


def count(numbers: Path, folder: Path, settings: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Run the counting job in this process."""
    return run_job(counting_job.JOB, {"numbers": str(numbers)}, settings or {}, RunOptions(folder, **options))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_run_leaves_its_outputs_a_summary_with_digests_and_no_checkpoint(numbers: Path, tmp_path: Path) -> None:
    summary = count(numbers, tmp_path / "out")
    assert files_in(tmp_path / "out") == {"settings.yaml", "log.jsonl", "summary.json", "sum.txt", "steps.txt"}
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["status"] == "done" and summary["sum"] == 220 and summary["warnings"][0]["code"] == "counted"
    assert set(summary["outputs"]) == {"settings.yaml", "sum.txt", "steps.txt"} and len(summary["inputs"]["numbers"]["sha256"]) == 64
    saved = yaml.safe_load((tmp_path / "out" / "settings.yaml").read_text())
    assert saved["job"] == "counting" and saved["settings"]["steps"] == 4 and saved["provenance"]["version"]


def test_a_folder_with_another_run_is_refused_and_left_as_it_was(numbers: Path, tmp_path: Path) -> None:
    count(numbers, tmp_path / "out")
    before = (tmp_path / "out" / "summary.json").read_bytes()
    with pytest.raises(InputError, match="holds a finished run of counting") as error:
        count(numbers, tmp_path / "out")
    assert "--resume" in error.value.remedy and "--overwrite" in error.value.remedy
    assert (tmp_path / "out" / "summary.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused_even_with_overwrite(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="no run of Protomer"):
        count(numbers, tmp_path / "out", overwrite=True, resume=True)
    with pytest.raises(InputError, match="is a file"):
        count(numbers, numbers)


def test_resuming_a_finished_identical_run_does_nothing(numbers: Path, tmp_path: Path) -> None:
    count(numbers, tmp_path / "out")
    before = (tmp_path / "out" / "summary.json").stat().st_mtime_ns
    assert count(numbers, tmp_path / "out", resume=True)["was_done_already"]
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns == before


def test_resuming_a_finished_run_whose_output_is_gone_makes_it_again(numbers: Path, tmp_path: Path) -> None:
    count(numbers, tmp_path / "out")
    (tmp_path / "out" / "sum.txt").unlink()
    assert "was_done_already" not in count(numbers, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "sum.txt").exists()


def test_resuming_with_other_settings_or_changed_inputs_lists_the_differences(numbers: Path, tmp_path: Path) -> None:
    count(numbers, tmp_path / "out")
    numbers.write_text("1\n2\n")
    with pytest.raises(InputError) as error:
        count(numbers, tmp_path / "out", {"width": "2A"}, resume=True)
    assert "settings.width: 1.0 there, 2.0 asked" in str(error.value) and "inputs.numbers" in str(error.value)


def test_resume_with_overwrite_replaces_a_different_run_and_its_files(numbers: Path, tmp_path: Path) -> None:
    count(numbers, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    summary = count(numbers, tmp_path / "out", {"width": 2, "steps": 1}, resume=True, overwrite=True)
    assert summary["sum"] == 110 and (tmp_path / "out" / "notes.txt").exists()
    assert sum(event["event"] == "begin" for event in read_events(tmp_path / "out" / "log.jsonl")) == 1


def test_the_same_inputs_in_another_place_are_the_same_run(numbers: Path, tmp_path: Path) -> None:
    count(numbers, tmp_path / "out")
    moved = numbers.rename(tmp_path / "moved.txt")
    assert count(moved, tmp_path / "out", resume=True)["was_done_already"]


def test_an_input_error_inside_the_job_leaves_nothing_behind(numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a bad number"):
        count(numbers, tmp_path / "out", {"trouble": "input"})
    assert not (tmp_path / "out").exists()


def test_after_a_fault_there_is_no_completion_mark_and_resume_goes_on_from_the_checkpoint(numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        count(numbers, tmp_path / "out", {"trouble": "fault"})
    assert files_in(tmp_path / "out") == {"settings.yaml", "log.jsonl", "checkpoint.h5", "steps.txt"}
    assert read_events(tmp_path / "out" / "log.jsonl")[-1]["event"] == "failed"
    with pytest.raises(ZeroDivisionError):
        count(numbers, tmp_path / "out", {"trouble": "fault"}, resume=True)
    steps = [event["step"] for event in read_events(tmp_path / "out" / "log.jsonl") if event["event"] == "step"]
    assert steps == [0, 1, 2, 2]


def test_a_stopped_run_goes_on_to_the_undisturbed_result(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = Events.event

    def event_then_signal(self: Events, kind: str, **fields: Any) -> None:
        event(self, kind, **fields)
        if kind == "step" and fields["step"] == 1:
            os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Events, "event", event_then_signal)
        count(numbers, tmp_path / "out")
    assert "checkpoint.h5" in files_in(tmp_path / "out") and "summary.json" not in files_in(tmp_path / "out")
    assert count(numbers, tmp_path / "out", resume=True)["outputs"]["sum.txt"] == count(numbers, tmp_path / "b")["outputs"]["sum.txt"]


def test_a_missing_input_a_wrong_ending_and_an_empty_job_folder_are_refused(numbers: Path, tmp_path: Path) -> None:
    for given, words in (({"numbers": str(tmp_path / "absent.txt")}, "no such file"),
                         ({"numbers": str(tmp_path / "gone" / "x.txt")}, "does not exist"), ({}, "no --numbers")):
        with pytest.raises(InputError, match=words):
            run_job(counting_job.JOB, given, {}, RunOptions(tmp_path / "out"))
    (tmp_path / "job").mkdir()
    with pytest.raises(InputError, match=r"has no numbers\.txt; it holds no finished run"):
        count(tmp_path / "job", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_job_folder_stands_for_the_file_in_it(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    numbers.rename(tmp_path / "job" / "numbers.txt")
    assert count(tmp_path / "job", tmp_path / "out")["sum"] == 220


def test_folders_that_snakemake_made_for_outputs_are_no_hindrance(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "out/class_1").mkdir(parents=True)
    assert count(numbers, tmp_path / "out")["sum"] == 220
    (tmp_path / "other/class_1").mkdir(parents=True)
    (tmp_path / "other/class_1/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no run of Protomer"):
        count(numbers, tmp_path / "other")


def test_a_lost_device_ends_a_run_that_can_be_resumed(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protomer.computing.backend.what_cuda_lacks", lambda: None)
    with pytest.raises(DeviceLost, match="fell off the bus") as lost:
        count(numbers, tmp_path / "out", {"trouble": "device"}, backend="cuda")
    assert lost.value.exit_code == 75 and (tmp_path / "out/checkpoint.h5").exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    with small_disk(tmp_path / "tiny") as disk:
        yield disk


@pytest.mark.parametrize("kind", ["text", "hdf5"])
def test_a_full_disk_gives_one_clear_error_and_no_half_written_file(kind: str, tiny_disk: Path) -> None:
    folder = OutputFolder(tiny_disk)
    folder.write_text("map.txt", "old")
    with pytest.raises(StorageError, match="No space left on device") as error:
        if kind == "text":
            folder.write_text("map.txt", "x" * 200_000)
        else:
            Checkpoint(tiny_disk / "map.txt", "id", Team()).save({"map": np.random.default_rng(0).random(50_000)})
    assert "GB free" in str(error.value) and str(tiny_disk) in str(error.value)
    assert files_in(tiny_disk) == {"map.txt"} and (tiny_disk / "map.txt").read_text() == "old"


def test_a_disk_that_fails_at_fsync_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    OutputFolder(tmp_path).write_text("a.txt", "old")
    monkeypatch.setattr(output_module.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        OutputFolder(tmp_path).write_text("a.txt", "new")
    assert files_in(tmp_path) == {"a.txt"} and (tmp_path / "a.txt").read_text() == "old"


def test_only_rank_0_may_write(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="only rank 0"):
        OutputFolder(tmp_path, is_writer=False).write_text("a.txt", "x")


def test_a_checkpoint_gives_back_arrays_numbers_switches_and_strings(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.h5", "me", Team())
    assert checkpoint.load() is None
    state = {"poses": np.arange(6, dtype=np.float32).reshape(2, 3), "names": np.array(["a", "µ"], object), "iteration": 3, "limit": 0.1,
             "done": False, "note": "half", "sums": np.array([2**62], np.int64), "none": np.zeros((0, 4))}
    checkpoint.save(state)
    loaded = checkpoint.load()
    assert loaded is not None and set(loaded) == set(state)
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(loaded[name], value) and (loaded[name].dtype == value.dtype)
        else:
            assert loaded[name] == value and type(loaded[name]) is type(value)


def test_a_checkpoint_of_another_run_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoint.h5", "me", Team()).save({"iteration": 1})
    with pytest.raises(InputError, match="other settings or inputs"):
        Checkpoint(tmp_path / "checkpoint.h5", "you", Team()).load()
    (tmp_path / "checkpoint.h5").write_bytes(b"half")
    with pytest.raises(InputError, match="cannot be read"):
        Checkpoint(tmp_path / "checkpoint.h5", "me", Team()).load()


def test_verify_accepts_a_run_and_finds_a_changed_output_a_changed_input_and_a_missing_summary(
        numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "declaration", lambda name: counting_job.JOB)

    def verified(folder: Path) -> tuple[int, str]:
        code = verify.execute(Inputs({"folder": (str(folder),)}), VerifySettings(), Call({}, {}, None))
        return code, capsys.readouterr().out

    out = tmp_path / "out"
    count(numbers, out)
    code, said = verified(out)
    assert code == 0 and "agree" in said
    (out / "sum.txt").write_text("221\n")
    code, said = verified(out)
    assert code == 1 and "output sum.txt" in said and "SHA-256" in said
    numbers.write_text("1\n")
    assert "input numbers" in verified(out)[1]
    (out / "summary.json").unlink()
    assert "no finished run" in verified(out)[1]
    with pytest.raises(InputError, match="is no folder"):
        verified(tmp_path / "absent")


def test_a_log_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    events = Events(tmp_path / "log.jsonl")
    events.event("step", size=np.float32(0.5), shells=np.arange(2), file=tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"event": "ste')
    assert [event["event"] for event in read_events(tmp_path / "log.jsonl")] == ["step"]


def test_progress_without_a_terminal_says_rate_and_time_left_now_and_then(capsys: pytest.CaptureFixture[str],
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protomer.running.progress.PLAIN_INTERVAL_S", 0.0)
    with show_progress("aligning", 4, True) as line:
        line.advance(2, resolution=8.0)
    said = capsys.readouterr().err
    assert "aligning: 2/4" in said and "/s" in said and "left resolution 8" in said
    with show_progress("aligning", 4, False) as line:
        line.advance(2)
    assert capsys.readouterr().err == ""
    assert describe_seconds(12) == "12 s" and describe_seconds(200) == "3 min 20 s" and describe_seconds(7500) == "2 h 05 min"


def test_the_counting_job_sees_the_run_that_the_framework_promises(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[JobRun] = []
    monkeypatch.setattr(counting_job, "run", lambda inputs, settings, job: seen.append(job) or {})
    run_job(counting_job.JOB, {"numbers": str(numbers)}, {"seed": 5}, RunOptions(tmp_path / "out", threads=3, cache=tmp_path))
    job = seen[0]
    assert (job.threads, job.seed, job.backend, job.cache) == (3, 5, "cpu", tmp_path)
    assert job.provenance["program"] == "protomer" and job.provenance["inputs"]["numbers"]["path"] == str(numbers)
