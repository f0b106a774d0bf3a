"""verify: compute again every digest that a run recorded, and say what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protomer import __version__
from protomer.catalogue import declaration
from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.config.settings import JobSettings
from protomer.errors import InputError
from protomer.running.provenance import differences, file_digest
from protomer.running.run_folder import SETTINGS_NAME, SUMMARY_NAME, RunRecord, read_record, read_summary


def execute(inputs: Inputs, settings: JobSettings, call: Call) -> int:
    """Verify each folder; 0 where all agree, 1 where anything differs. Raises InputError where a folder does not exist."""
    results = [_report(Path(folder)) for folder in inputs.folder]
    return 0 if all(results) else 1


def _report(folder: Path) -> bool:
    """Print what was checked in a folder and what differs; whether all agrees."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", "the folder of a run", "check the path")
    found = list(find_differences(folder))
    for line in found:
        print(f"{folder}: {line}")
    if not found:
        summary = read_summary(folder) or {}
        print(f"{folder}: a finished run of {summary['job']} by version {summary['version']} (this is {__version__}): "
              f"{len(summary['inputs'])} inputs and {len(summary['outputs'])} outputs agree with its records")
    return not found


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
