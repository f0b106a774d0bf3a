"""run: check a chain, show its plan, and become Snakemake."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path

import click

import protomer
from protomer.config.chain import Chain, Step, read_chain
from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.run import RunSettings
from protomer.errors import InputError
from protomer.running.chain_start import enter_chain, prepare_chain_folder
from protomer.running.cluster_check import check_profile
from protomer.running.environment_lock import environment_now, lock_beside, lock_differences, read_lock
from protomer.running.progress import describe_seconds
from protomer.running.step_needs import plan_of


def execute(inputs: Inputs, settings: RunSettings, call: Call) -> int:
    """Check and show a chain; unless this is a dry run, replace this process by Snakemake. Raises InputError."""
    chain, profile = read_chain(inputs.chain), find_profile(settings.profile)
    check_environment(inputs.chain, settings.allow_other_environment)
    cores = settings.cores or len(os.sched_getaffinity(0))
    click.echo(describe_chain(chain, inputs.chain, cores))
    if call.dry_run:
        return 0
    folder = Path(settings.folder)
    check_profile(profile, any(step.resources.ranks > 1 for step in chain.steps))
    prepare_chain_folder(folder)
    enter_chain(folder, chain, "--unlock" in call.arguments).keep_through_exec()
    command = snakemake_command(inputs.chain, folder, settings.profile, cores)
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *call.arguments])


def check_environment(chain_file: Path, is_other_allowed: bool) -> None:
    """Compare this environment with the protomer.lock beside a chain, if there is one, and say every difference; InputError where there is
    one and it is not allowed."""
    lock = lock_beside(chain_file)
    if lock is None:
        return
    found = lock_differences(read_lock(lock), environment_now())
    for line in found:
        click.echo(f"{lock}: {line}", err=True)
    if found and not is_other_allowed:
        raise InputError(f"this is not the environment of {lock}: {len(found)} difference(s), said above", "the environment that it holds, "
                         "in which the chain gives the same bits", "bring that environment back; or give --allow-other-environment, which "
                         "notes the differences in the chain's provenance and report; or write the file anew with `protomer lock`")


def snakemake_command(chain_file: Path, folder: Path, profile: str, cores: int) -> list[str]:
    """The Snakemake command for a chain, as separate words: no shell reads them."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(find_shipped("workflow/Snakefile")), "--directory", str(folder),
             "--profile", str(find_profile(profile)), "--config", f"chain={json.dumps(str(chain_file.absolute()))}"]
    return [*words, "--cores", str(cores), "--resources", f"slots={cores}"] if profile == "local" else words


def find_profile(name: str) -> Path:
    """The folder of a profile: one of those shipped, or any folder with a config.yaml. Raises InputError."""
    if name in ("local", "slurm"):
        return find_shipped(f"cluster/{name}/config.yaml").parent
    if not (Path(name) / "config.yaml").is_file():
        raise InputError(f"--profile {name}: no such profile", "local, slurm, or a folder with a config.yaml", "check the path")
    return Path(name).absolute()


def find_shipped(name: str) -> Path:
    """A file that is shipped beside the code, or under share/protomer of the installation. Raises InputError where it is in neither."""
    places = (Path(protomer.__file__).absolute().parents[2], Path(sysconfig.get_path("data")) / "share" / "protomer")
    for place in places:
        if (place / name).is_file():
            return place / name
    raise InputError(f"{name} is missing from {' and '.join(map(str, places))}", "a complete installation", "install Protomer again")


def describe_chain(chain: Chain, path: Path, cores: int) -> str:
    """The plan of a chain: each step with what it reads, and memory and time where its inputs exist already."""
    lines = [f"{path}: {len(chain.steps)} jobs"]
    for step in chain.steps:
        reads = [str(file) for files in step.files.values() for file in files if file is not None]
        lines.append(f"  {step.name}: {step.job.name}{' from ' + ', '.join(reads) if reads else ''}{_estimate(step, cores)}")
    return "\n".join(lines)


def _estimate(step: Step, cores: int) -> str:
    """Memory and time of a step whose inputs are all there, in words; what a step reads from others is not known before they ran."""
    if not all(path.is_absolute() for path in step.paths):
        return ""
    ranks = step.resources.ranks
    plan = plan_of(step, step.resources.threads or max(1, cores // ranks))
    return f": about {plan.memory_bytes / 1e9:.1f} GB on each of {ranks} rank(s), {describe_seconds(plan.seconds)}"
