"""verify: whether a run's inputs and outputs are still what its records say, and whether computing it again gives the same bits."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class VerifySettings(JobSettings):
    """What is done beside comparing digests."""

    rerun: bool = setting(False, "compute each run again in a temporary folder, compare every bit of its outputs, and say what differs")
    commands: bool = setting(False, "print the command lines of a chain, or of a run, and do nothing else")
    scratch: str | None = setting(None, "folder in which --rerun makes its temporary one; unset: $TMPDIR, or /tmp")


JOB = Job(
    name="verify", summary="Re-derive what a run's or a chain's records claim, and say what differs",
    teaches="Computes the SHA-256 of every input and output again and compares them with settings.yaml and summary.json; checks that the "
            "run finished and that the saved settings are ones this version accepts. A chain's folder is checked run by run, with its "
            "provenance.json. --rerun computes everything again from the recorded inputs, with the recorded settings, ranks and threads, "
            "and compares bits: columns of particles, voxels of maps, lines of text are named where they differ. It takes the time and the "
            "disk of the runs themselves. --commands prints the commands that made a chain. Exit code 0 where all agree, 1 where anything "
            "differs; lines that begin with `note` tell what may explain a difference, such as another version of a package. "
            "Examples: protomer verify consensus. protomer verify demo --rerun. protomer verify demo --commands",
    inputs=(Input("folder", "folder of a run, or of a chain", required=True, repeatable=True, positional=True),),
    settings=VerifySettings, entry="protomer.jobs.verify", keeps_folder=False)
