"""A small job for the tests of the framework: adds up numbers step by step, on any number of ranks, and can be told to go wrong.

Run as a script it is a command, so that signals, ranks and exit codes are tested on real processes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.command_line import invoke, job_command
from protomer.config.settings import Input, Job, JobSettings, setting
from protomer.errors import InputError
from protomer.running.job_run import Inputs, JobRun, Plan


@dataclass(frozen=True)
class CountingSettings(JobSettings):
    steps: int = setting(4, "steps to take")
    width: float = setting(1.0, "added at each step", unit="A")
    pause: float = setting(0.0, "wait at each step", unit="s")
    trouble: str = setting("none", "what goes wrong at step 2", choices=("none", "input", "fault", "rank", "kill", "device"))
    sharpen: bool = setting(False, "a switch")
    limit: float | None = setting(None, "may be unset", unit="A")
    helical: int = setting(0, "not in this version", later=True)


JOB = Job(name="counting", summary="Count", teaches="For tests.",
          inputs=(Input("numbers", "text file of numbers", file="numbers.txt", required=True),
                  Input("symmetry", "point group", default="C1"),
                  Input("mask", "any number of files", file="mask.txt", repeatable=True)),
          settings=CountingSettings, entry="counting_job", ranks=True, cuda=True)


def run(inputs: Inputs, settings: CountingSettings, job: JobRun) -> dict[str, Any]:
    """Sum the file's numbers times width, once for each step, the numbers shared over the ranks."""
    share = np.loadtxt(inputs.numbers, ndmin=1)[job.team.rank::job.team.size]
    state = job.checkpoint.load() or {"step": 0, "sum": np.zeros(1, np.int64)}
    with job.progress("counting", settings.steps) as line:
        for step in range(state["step"], settings.steps):
            if job.team.is_first:
                job.output.write_text("steps.txt", f"{step}\n")
            state = {"step": step + 1, "sum": state["sum"] + job.team.total(np.array([share.sum() * settings.width]).astype(np.int64))}
            job.events.event("step", step=step)
            go_wrong(settings.trouble, step, job)
            job.checkpoint.save(state)
            time.sleep(settings.pause)
            line.advance(1, width=settings.width)
            job.stop_together()
    if job.team.is_first:
        job.events.warn("counted", "this is only a count")
        job.output.write_text("sum.txt", f"{state['sum'][0]}\n")
    return {"sum": state["sum"][0], "counts": {"in": len(share)}, "images": 11}


class CudaAPIError(Exception):
    """As Numba names what CUDA says."""


def go_wrong(trouble: str, step: int, job: JobRun) -> None:
    """Fail at step 2 in the way that was asked for."""
    if step != 2 or trouble == "none":
        return
    if trouble == "input":
        raise InputError("a bad number", "good ones", "mend the file")
    if trouble == "device":
        raise CudaAPIError("[999] the device fell off the bus")
    if trouble == "fault":
        raise ZeroDivisionError("a fault on every rank")
    if trouble == "rank" and job.team.rank == 1:
        raise ZeroDivisionError("a fault on one rank")
    if trouble == "kill" and job.team.rank == job.team.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)


def plan(inputs: Inputs, settings: CountingSettings, ranks: int, threads: int) -> Plan:
    """What it would take."""
    return Plan(1_000_000, 1_000, 0.1 * settings.steps, ("a note",))


if __name__ == "__main__":
    sys.exit(invoke(job_command(JOB), "protomer counting"))
