"""run: a chain of jobs from one YAML file, handed over to Snakemake."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class RunSettings(JobSettings):
    """How a chain is carried out."""

    profile: str = setting("local", "Snakemake profile: local, slurm, or a folder with a config.yaml")
    folder: str = setting(".", "folder in which the jobs' folders are made")
    allow_other_environment: bool = setting(False, "start although the environment differs from the protomer.lock beside the chain")
    cores: int = setting(0, "CPUs to use at once; 0: all that this process may use", minimum=0)


JOB = Job(
    name="run", summary="Carry out a chain of jobs that a YAML file names, through Snakemake",
    teaches="Checks the chain, shows its plan and hands over to Snakemake; what stands after -- goes to Snakemake unchanged. A chain that "
            "was interrupted goes on where it stopped when the same command is given again. Relative paths in the chain are seen from "
            "the folder of the chain file. Leaves chain_report.html, one page about all jobs, and provenance.json, from which "
            "`protomer verify FOLDER --commands` prints every command line. Where a protomer.lock (see `protomer lock`) lies beside the "
            "chain, the environment must be the one it holds. `protomer watch` shows from another terminal how far a chain is. "
            "--dry-run (-n) shows the plan only. "
            "Example: protomer run chain.yaml --profile slurm -- --keep-going",
    inputs=(Input("chain", "YAML file that names jobs and their inputs", file="chain.yaml", alternatives=(".yaml", ".yml"),
                  required=True, positional=True),),
    settings=RunSettings, entry="protomer.jobs.run", keeps_folder=False, passes_on=True)
