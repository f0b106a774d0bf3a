"""verify: whether a run's inputs and outputs are still what its records say."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings


@dataclass(frozen=True)
class VerifySettings(JobSettings):
    """verify needs none of its own."""


JOB = Job(
    name="verify", summary="Re-derive what a run's records claim, and say what differs",
    teaches="Computes the SHA-256 of every input and output again and compares them with settings.yaml and summary.json; checks that the "
            "run finished and that the saved settings are ones this version accepts. Exit code 0 where all agree, 1 where anything "
            "differs. Example: protomer verify consensus",
    inputs=(Input("folder", "folder of a run", required=True, repeatable=True, positional=True),),
    settings=VerifySettings, entry="protomer.jobs.verify", keeps_folder=False)
