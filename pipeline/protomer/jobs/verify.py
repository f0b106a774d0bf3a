"""verify: compute again every digest that a run recorded, and say what differs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protomer import __version__
from protomer.catalogue import declaration
from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.verify import VerifySettings
from protomer.errors import InputError
from protomer.running.chain_provenance import command_lines, planned_parents, read_provenance
from protomer.running.environment_lock import environment_now, lock_differences
from protomer.running.provenance import differences, file_digest
from protomer.running.rerun import rerun_command, rerun_differences
from protomer.running.run_folder import SETTINGS_NAME, SUMMARY_NAME, RunRecord, read_record, read_summary
from protomer.running.run_states import is_run, read_runs


def execute(inputs: Inputs, settings: VerifySettings, call: Call) -> int:
    """Verify each folder; 0 where all agree, 1 where anything differs. Raises InputError where a folder does not exist or holds no run."""
    folders = [Path(folder) for folder in inputs.folder]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder", "the folder of a run, or of a chain", "check the path")
    if settings.commands:
        for folder in folders:
            print("\n".join(commands_of(folder)))
        return 0
    scratch = Path(settings.scratch) if settings.scratch is not None else None
    if scratch is not None and not scratch.is_dir():
        raise InputError(f"--scratch {scratch} is no folder", "a folder with room for what the runs write", "make it, or choose another")
    if call.dry_run:
        for folder in folders:
            print("\n".join(f"would verify {run}" for run in runs_in(folder)))
        return 0
    results = [_report(run, settings.rerun, scratch) for folder in folders for run in runs_in(folder)]
    results += [_report_chain(folder) for folder in folders if not is_run(folder)]
    return 0 if all(results) else 1


def runs_in(folder: Path) -> list[Path]:
    """The run that a folder is, or the runs of the chain in it, each after those it reads. A folder with neither is taken for a run."""
    if is_run(folder):
        return [folder]
    return [run.folder for run in read_runs(folder, planned_parents(folder))] or [folder]


def commands_of(folder: Path) -> list[str]:
    """The commands that made a chain, or a run. Raises InputError where nothing says them."""
    document = read_provenance(folder)
    if document is not None:
        return command_lines(document)
    commands = []
    for run in runs_in(folder):
        record = read_record(run)
        if record is None:
            raise InputError(f"{run} holds neither a {SETTINGS_NAME} that can be read nor a provenance.json",
                             "the folder of a run or of a chain", "check the path")
        commands.append(shlex.join(["protomer", *rerun_command(run, record, run.absolute())[-9:]]))
    return commands


def _report(folder: Path, is_rerun: bool, scratch: Path | None) -> bool:
    """Print what was checked in a folder and what differs; whether all agrees."""
    found = list(find_differences(folder))
    summary, record = read_summary(folder), read_record(folder)
    if is_rerun and summary is not None and record is not None:
        if found:
            found.append("was not computed again, since it is not what its records say")
        else:
            found += rerun_differences(folder, record, summary, scratch)
    for line in found:
        print(f"{folder}: {line}")
    if not found and summary is not None:
        again = "; computed again it gives the same bits" if is_rerun else ""
        print(f"{folder}: a finished run of {summary['job']} by version {summary['version']} (this is {__version__}): "
              f"{len(summary['inputs'])} inputs and {len(summary['outputs'])} outputs agree with its records{again}")
    return not found


def _report_chain(folder: Path) -> bool:
    """Print what a chain's provenance.json says that is no longer so; whether all agrees. Another environment is a note, no fault."""
    document = read_provenance(folder)
    if document is None:
        return True
    found = list(_chain_differences(folder, document))
    for line in found:
        print(f"{folder}: {line}")
    for line in lock_differences(document["environment"], environment_now()):
        print(f"{folder}: note: the environment was another: {line.replace('in the lock', 'then').replace(' here', ' now')}")
    return not found


def _chain_differences(folder: Path, document: Mapping[str, Any]) -> Iterator[str]:
    chain = document["chain"]
    path = Path(chain["path"])
    if not path.is_file():
        print(f"{folder}: note: the chain file {path} is gone; provenance.json holds its text")
    elif file_digest(path) != chain["sha256"]:
        yield f"the chain file {path} was changed since the chain ran"
    for name, step in document["steps"].items():
        summary = read_summary(folder / name)
        if summary is not None and "outputs" in step and step["outputs"] != summary["outputs"]:
            yield f"{name} was computed again, by itself, since the chain ran: its outputs are others than provenance.json says"


def find_differences(folder: Path) -> Iterator[str]:
    """What in a run's folder, or among its inputs, is not as its records say: one line each."""
    summary, record = read_summary(folder), read_record(folder)
    if summary is None:
        yield f"no finished run: {SUMMARY_NAME} is missing or does not say 'done'"
    if record is None:
        yield f"{SETTINGS_NAME} is missing or cannot be read"
    if record is not None:
        yield from _check_settings(record)
        for name, value in record.inputs.items():
            yield from _check_input(name, value)
    if summary is not None:
        for name, described in summary["outputs"].items():
            yield from _check_file(f"output {name}", folder / name, described)
        yield from _check_stacks(folder, summary["outputs"])
        if record is not None:
            yield from (f"{SETTINGS_NAME} and {SUMMARY_NAME} disagree on the input {line}"
                        for line in differences(dict(record.inputs), summary["inputs"]))


def _check_settings(record: RunRecord) -> Iterator[str]:
    try:
        declaration(record.job).settings.from_mapping(record.settings)
    except InputError as error:
        yield f"settings that this version does not accept: {error.found}"


def _check_input(name: str, value: Any) -> Iterator[str]:
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Mapping):
            yield from _check_file(f"input {name}", Path(part["path"]), part)


def _check_file(what: str, path: Path, described: Mapping[str, Any]) -> Iterator[str]:
    """Whether a file has the size and the digest (or, for stacks, the time of change) that were recorded."""
    if not path.is_file():
        yield f"{what}: {path} is gone"
    elif path.stat().st_size != described["size_bytes"]:
        yield f"{what}: {path} has {path.stat().st_size} bytes, recorded are {described['size_bytes']}"
    elif "sha256" in described and file_digest(path) != described["sha256"]:
        yield f"{what}: {path} has another SHA-256 than recorded"
    elif "mtime_ns" in described and path.stat().st_mtime_ns != described["mtime_ns"]:
        yield f"{what}: {path} was changed since"


def _check_stacks(folder: Path, outputs: Mapping[str, Any]) -> Iterator[str]:
    """The image stacks that an output table of particles names, by size and digest; the table checks its own half-sets as it is read."""
    if "particles.h5" not in outputs or not (folder / "particles.h5").is_file():
        return
    from protomer.formats.hdf5 import read_particles
    from protomer.formats.mrc import StackReader
    try:
        stacks = read_particles(folder / "particles.h5").stacks
    except InputError as error:
        yield f"particles.h5 cannot be used: {error.found}"
        return
    for stack in stacks:
        path = Path(stack.path)
        if not path.is_file():
            yield f"image stack {path} is gone"
        elif path.stat().st_size != stack.size_bytes or StackReader(path).digest() != stack.digest:
            yield f"image stack {path} is not the one that was imported"
