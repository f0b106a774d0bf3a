"""One run of one job: opens its folder, calls the job's module, and marks completion by writing summary.json last."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protomer import __version__
from protomer.computing.backend import is_from_cuda, resolve_backend
from protomer.config.job_inputs import Inputs, describe_inputs, resolve_inputs
from protomer.config.settings import Job, JobSettings
from protomer.errors import DeviceLost, InputError, ProtomerError, Stopped
from protomer.running.checkpoints import CHECKPOINT_NAME, Checkpoint
from protomer.running.devices import bind_device
from protomer.running.events import LOG_NAME, Attempt, Events, attempts_in, plain_json, read_events
from protomer.running.locks import FolderLock
from protomer.running.output import OutputFolder
from protomer.running.progress import Logged, Progress, describe_seconds, show_progress
from protomer.running.ranks import Team
from protomer.running.run_folder import (
    SETTINGS_NAME,
    SUMMARY_NAME,
    RunRecord,
    clear_run,
    describe_outputs,
    prepare_folder,
    read_summary,
    written_names,
)
from protomer.running.signals import StopFlag, stop_on_signals

__all__ = ["Inputs", "JobRun", "Plan", "RunOptions", "plan_job", "run_job"]


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take, for --dry-run and batch systems: bytes of memory per rank, bytes on disk, seconds; notes in words.

    scratch_bytes: of a rank's memory, what goes to the node's own disk where memory is short. device_bytes: what --backend cuda takes of
    each rank's GPU beside images, which stay there as far as there is room.
    """

    memory_bytes: int
    disk_bytes: int
    seconds: float
    notes: tuple[str, ...] = ()
    scratch_bytes: int = 0
    device_bytes: int = 0

    def describe(self, job_name: str, ranks: int, threads: int) -> str:
        """The plan as a person reads it."""
        lines = [f"{job_name} on {ranks} rank(s) of {threads} thread(s) would take about",
                 f"  memory  {self.memory_bytes / 1e9:.2f} GB on each rank", f"  disk    {self.disk_bytes / 1e9:.3f} GB",
                 f"  time    {describe_seconds(self.seconds)}", *(f"  note    {note}" for note in self.notes)]
        if self.device_bytes:
            lines.insert(2, f"  GPU     {self.device_bytes / 1e9:.2f} GB with --backend cuda, and images as far as they fit")
        if self.scratch_bytes:
            lines.insert(2, f"  scratch {self.scratch_bytes / 1e9:.2f} GB of it on the node's disk of each rank, where memory is short")
        return "\n".join(lines)


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, as distinct from what it computes. threads: of this rank; None: its share of the machine's CPUs."""

    output: Path
    backend: str = "auto"
    resume: bool = False
    overwrite: bool = False
    threads: int | None = None
    cache: Path | None = None
    share_gpus: bool = False


@dataclass(frozen=True)
class JobRun:
    """What a job's `run` works with. Only rank 0 writes outputs (`if job.team.is_first`)."""

    output: OutputFolder
    team: Team
    events: Events
    stop: StopFlag
    checkpoint: Checkpoint
    threads: int
    seed: int
    backend: str
    cache: Path | None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[Attempt, ...] = ()  # attempts at this run before this one; rank 0 alone knows them
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of outputs that were digested as they were written, by name

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Progress]:
        """A progress line for `total` pieces of work: `with job.progress(...) as line: line.advance(n, note=...)`; logged now and then."""
        with show_progress(label, total, self.team.is_first) as line:
            yield Logged(line, self.events.event, label, total) if self.team.is_first else line

    @contextmanager
    def shared_progress(self, label: str, total: int) -> Iterator[Progress]:
        """The same for this rank's share of work, without collectives, that calls check_stop: all ranks leave it together.

        A rank that was asked to stop, or hears of one that was, skips the rest of its share; then Stopped is raised on every rank.
        """
        is_stopping = False
        try:
            with self.progress(label, total) as line:
                yield line
        except Stopped:
            is_stopping = True
        self.stop_together(is_stopping)

    def check_stop(self) -> None:
        """Raise Stopped where a signal asked this rank, or another that it has heard from, to stop; waits for none.

        To be called after each piece of work; where there are several ranks, inside `shared_progress`.
        """
        if self.team.hears(self.stop.requested):
            raise Stopped(self._stop_message())

    def stop_together(self, is_stopping: bool = False) -> None:
        """Raise Stopped on every rank where any was asked to stop: to be called by all of them, at the same place."""
        if self.team.agrees(is_stopping or self.stop.requested):
            raise Stopped(self._stop_message())

    def _stop_message(self) -> str:
        """What a stopped run left, and how to go on."""
        if self.checkpoint.is_any_left:
            return "stopped by a signal; the same command with --resume goes on from the last checkpoint"
        return "stopped by a signal before any checkpoint was due; the same command with --resume starts from the beginning"


def run_job(job: Job, inputs: Mapping[str, Any], settings: Mapping[str, Any], options: RunOptions,
            team: Team | None = None) -> dict[str, Any]:
    """Carry out a job and return its summary; on every rank. Raises InputError, Stopped and StorageError.

    inputs and settings are as a command line or YAML gives them. A finished, identical run is not repeated where options.resume is set.
    """
    team = Team() if team is None else team
    checked = job.settings.from_mapping(settings)
    backend, why = _resolve_place(job, options.backend, team.size)
    device = _device_of(backend, options.share_gpus, team)
    found = team.on_first(lambda: resolve_inputs(job, inputs))
    record = team.on_first(lambda: RunRecord(job.name, __version__, backend, checked.to_mapping(), describe_inputs(job, found)))
    with FolderLock(options.output, team.is_first) as lock:
        start = team.on_first(lambda: _begin(options, record, lock))
        if start == "finished":
            summary: dict[str, Any] = team.broadcast(read_summary(options.output))
            return {**summary, "was_done_already": True}
        with stop_on_signals() as stop:
            run = _open(job, options, record, team, stop)
            run.events.event("begin", job=job.name, version=__version__, backend=backend, why=why, ranks=team.size, threads=run.threads,
                             resumed=start == "resumed", **device)
            _tell_how_it_goes_on(job, run)
            return _work(job, found, checked, run, start == "new")


def plan_job(job: Job, inputs: Mapping[str, Any], settings: Mapping[str, Any], ranks: int, threads: int, backend: str = "auto") -> Plan:
    """What a run would take (--dry-run): checks settings, backend and inputs as the run itself does, and writes nothing."""
    checked = job.settings.from_mapping(settings)
    _resolve_place(job, backend, ranks)
    plan: Plan = importlib.import_module(job.entry).plan(resolve_inputs(job, inputs), checked, ranks, threads)
    return plan


def _resolve_place(job: Job, backend: str, ranks: int) -> tuple[str, str]:
    """The backend, and why. Raises InputError where it is missing, or where the job cannot share its work over ranks."""
    if ranks > 1 and not job.ranks:
        raise InputError(f"{job.name} was started on {ranks} ranks", "one process: this job does not share its work",
                         f"start it without mpiexec: protomer {job.name} ...")
    return resolve_backend(backend, job.cuda)


def _device_of(backend: str, may_share: bool, team: Team) -> dict[str, str | None]:
    """The GPU of this rank, and where several ranks add up, for the log. Raises InputError where it may not share one but would have to."""
    if backend != "cuda":
        return {}
    sums = {} if team.size == 1 else {"sums": "on the GPUs" if team.takes_device_arrays else "through the host"}
    return {"gpu": bind_device(os.environ, may_share), **sums}


def _begin(options: RunOptions, record: RunRecord, lock: FolderLock) -> str:
    """Lock the folder, prepare it and write settings.yaml (rank 0)."""
    lock.take()
    start = prepare_folder(options.output, record, options.resume, options.overwrite)
    if start == "new":
        OutputFolder(options.output).write_text(SETTINGS_NAME, record.to_yaml())
    return start


def _open(job: Job, options: RunOptions, record: RunRecord, team: Team, stop: StopFlag) -> JobRun:
    log = options.output / LOG_NAME if team.is_first else None
    earlier = read_events(log) if log else []
    warnings = tuple({"code": event["code"], "text": event["text"]} for event in earlier if event.get("event") == "warning")
    events = Events(log, warnings)
    output = OutputFolder(options.output, team.is_first, lambda name: events.event("wrote", file=name))
    provenance = {"program": "protomer", **record.essence(), "inputs": dict(record.inputs), "seed": record.settings["seed"]}
    return JobRun(output, team, events, stop, Checkpoint(options.output / CHECKPOINT_NAME, record.identity, team),
                  options.threads or team.cpus(), record.settings["seed"], record.backend, options.cache, provenance,
                  tuple(attempts_in(earlier)))


def _tell_how_it_goes_on(job: Job, run: JobRun) -> None:
    """One line on how the last attempt ended and where this one begins (rank 0, resumed runs)."""
    if not run.earlier:
        return
    ended = {"killed": "ended without a word (killed, or the machine went down)", "stopped": "was stopped by a signal",
             "failed": "failed", "done": "was done, but its outputs are no longer whole"}[run.earlier[-1].end]
    where = "from its last checkpoint" if run.checkpoint.is_any_left else "from the beginning"
    print(f"{job.name}: the last attempt {ended}; going on {where}", file=sys.stderr)


def _work(job: Job, inputs: Inputs, settings: JobSettings, run: JobRun, is_new: bool) -> dict[str, Any]:
    """Call the job's module and finish its folder; on an error leave nothing that looks like a result."""
    started = time.monotonic()
    try:
        results = importlib.import_module(job.entry).run(inputs, settings, run)
        summary: dict[str, Any] = run.team.on_first(lambda: _finish(job, run, results, time.monotonic() - started, not is_new))
        return summary
    except InputError:
        if is_new and run.team.is_first:
            clear_run(run.output.folder)
        raise
    except (Stopped, KeyboardInterrupt) as error:
        run.events.event("stopped", text=str(error) or "interrupted")
        raise
    except BaseException as error:
        _log_failure(run, error)
        if run.backend == "cuda" and is_from_cuda(error):
            raise DeviceLost(f"CUDA failed: {error}\n  what to do: look at the device (nvidia-smi); the same command with --resume, on "
                             "this device or another of its kind, goes on from the last checkpoint") from error
        raise


def _log_failure(run: JobRun, error: BaseException) -> None:
    """Log why a run failed; a disk that refuses this line must not hide the error itself."""
    try:
        run.events.event("failed", error=type(error).__name__, text=str(error))
    except ProtomerError:
        return


def _finish(job: Job, run: JobRun, results: Mapping[str, Any], seconds: float, resumed: bool) -> dict[str, Any]:
    """Write summary.json, the completion mark, then remove the checkpoint (rank 0)."""
    folder = run.output.folder
    total = seconds + sum(attempt.seconds for attempt in run.earlier)
    rate = {"images_per_second": round(results["images"] / total, 3)} if "images" in results else {}
    summary = {"job": job.name, "status": "done", "version": __version__, **results, "seconds": round(total, 3),
               "seconds_this_attempt": round(seconds, 3), **rate, "resumed": resumed,
               "warnings": list(run.events.warnings), "inputs": run.provenance["inputs"],
               "outputs": describe_outputs(folder, [SETTINGS_NAME, *written_names(folder)], run.digests)}
    text = json.dumps(summary, indent=1, default=plain_json, ensure_ascii=False)
    run.events.event("done", seconds=seconds)
    OutputFolder(folder).write_text(SUMMARY_NAME, text + "\n")
    run.checkpoint.remove()
    plain: dict[str, Any] = json.loads(text)
    return plain
