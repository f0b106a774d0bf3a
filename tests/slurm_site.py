"""A real SLURM on this machine for tests, and what tests do with it. It is there only where PROTOMER_SLURM_TEST=1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from refinement_runs import PROJECT, environment

SCRIPT = PROJECT / "cluster/test_slurm.sh"
WANTED = os.environ.get("PROTOMER_SLURM_TEST") == "1"
WHY_NOT = "set PROTOMER_SLURM_TEST=1 on a machine that may be thrown away: a real SLURM is installed and started on it"
CANNOT = 3  # the script's exit code where SLURM cannot be installed: not root, no apt-get, or packages out of reach


def start_site() -> Callable[[], None]:
    """Start SLURM, where it is not running yet; gives what stops it again. Skips the test where it cannot be installed."""
    was_running = subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0 if _has("scontrol") else False
    started = subprocess.run(["bash", str(SCRIPT), "start"], capture_output=True, text=True, timeout=280)
    if started.returncode == CANNOT:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stdout + started.stderr

    def stop() -> None:
        if not was_running:
            subprocess.run(["bash", str(SCRIPT), "stop"], check=True, capture_output=True, timeout=120)

    return stop


def _has(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in os.environ["PATH"].split(os.pathsep))


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of jobs: this checkout, and a `protomer` on the path."""
    tool = folder / "bin/protomer"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m protomer "$@"\n')
    tool.chmod(0o755)
    paths = environment()["PYTHONPATH"] + os.pathsep + str(PROJECT / "tests")
    plain = {name: value for name, value in environment().items() if not name.startswith(("SLURM_", "PMI"))}
    # both nodes are this machine: shared memory will do, and UCX now and then finds a network device here that has no bandwidth
    return {**plain, "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths, "UCX_TLS": "self,sm"}


def submit(script: list[str], folder: Path) -> str:
    """sbatch, with what stands after it; the job's number."""
    words = ["sbatch", "--parsable", *script]
    done = subprocess.run(words, cwd=folder, env=surroundings(folder), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state_of(job: str) -> str:
    """The state of a job as scontrol says it, such as RUNNING."""
    said = subprocess.run(["scontrol", "show", "job", job, "-o"], capture_output=True, text=True, timeout=60).stdout
    return said.partition("JobState=")[2].split(" ")[0]


def restarts_of(job: str) -> int:
    """How often a job was put back into the queue."""
    said = subprocess.run(["scontrol", "show", "job", job, "-o"], capture_output=True, text=True, timeout=60).stdout
    return int(said.partition("Restarts=")[2].split(" ")[0] or 0)


def wait_until(is_true: Callable[[], bool], what: str, timeout_s: float = 280.0) -> None:
    """Wait for something that SLURM does; fails, naming it, where it does not come."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)
