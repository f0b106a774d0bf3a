"""lock: the exact environment, written down."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class LockSettings(JobSettings):
    """What is done with the file."""

    check: bool = setting(False, "compare the file with this environment and write nothing")


JOB = Job(
    name="lock", summary="Write down the exact environment, so that a chain can be repeated in the same one",
    teaches="Writes versions of Protomer (with commit and a digest of its sources), of Python and of every package it needs, the model of "
            "CPU and GPUs, the number of threads and the MPI library. Keep protomer.lock beside a chain: `protomer run` compares the two "
            "before anything starts, and refuses where they differ unless told --allow-other-environment. Same environment, inputs and "
            "settings: same bits. With --check the file is compared and left as it is; exit code 1 where anything differs. "
            "Examples: protomer lock. protomer lock chains/protomer.lock --check",
    inputs=(Input("path", "file to write, or to compare", default="protomer.lock", positional=True),),
    settings=LockSettings, entry="protomer.jobs.lock", keeps_folder=False)
