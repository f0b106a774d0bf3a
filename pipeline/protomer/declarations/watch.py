"""watch: how far a chain or a run is, in a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class WatchSettings(JobSettings):
    """How it is shown."""

    once: bool = setting(False, "print one snapshot and leave")
    interval: float = setting(2.0, "time between two looks", unit="s", minimum=0.2)


JOB = Job(
    name="watch", summary="Show how far a chain, or one run, is: in the terminal, also over ssh",
    teaches="Reads what the jobs write into their log.jsonl and starts nothing: state and progress of each job, resolution so far, time so "
            "far and left, warnings. `left` is for the piece of work that is named beside it: how many iterations a refinement still needs "
            "is known when it has converged. A job that has been silent for long may have been killed: nothing in a log says so. Ends by "
            "itself when all jobs have ended; Ctrl-C leaves at any time. Where the output is no terminal, one snapshot is printed. "
            "Examples: protomer watch demo. protomer watch demo/consensus --once",
    inputs=(Input("folder", "folder of a chain, or of one run", required=True, positional=True),),
    settings=WatchSettings, entry="protomer.jobs.watch", keeps_folder=False)
