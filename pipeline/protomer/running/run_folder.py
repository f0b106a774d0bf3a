"""The folder of a run: whether it may be used, what an earlier run left there, and its completion mark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from protomer.errors import InputError
from protomer.formats.hdf5_files import stacks_named
from protomer.running.checkpoints import CHECKPOINTS
from protomer.running.events import LOG_NAME, read_events
from protomer.running.locks import RUN_LOCK
from protomer.running.output import PARTIAL, remove_partial_files
from protomer.running.provenance import differences, digest_of, file_digest

SETTINGS_NAME, SUMMARY_NAME = "settings.yaml", "summary.json"


@dataclass(frozen=True)
class RunRecord:
    """What a run was asked, as settings.yaml keeps it. `inputs` as job_inputs.describe_inputs gives them."""

    job: str
    version: str
    backend: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]

    def essence(self) -> dict[str, Any]:
        """What decides the results: everything but where the inputs lie (files are compared by digest)."""
        return {"job": self.job, "version": self.version, "backend": self.backend, "settings": dict(self.settings),
                "inputs": {name: _without_path(value) for name, value in self.inputs.items()}}

    @property
    def identity(self) -> str:
        """The digest of the essence."""
        return digest_of(self.essence())

    def to_yaml(self) -> str:
        """settings.yaml: also a file for --config that repeats the run."""
        plain = {name: _only_path(value) for name, value in self.inputs.items()}
        document = {"job": self.job, **plain, "settings": dict(self.settings),
                    "provenance": {"version": self.version, "backend": self.backend, "inputs": dict(self.inputs)}}
        return (f"# What this run was asked. `protomer {self.job} --config THIS_FILE --output NEW_FOLDER` repeats it.\n"
                + yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def read_record(folder: Path) -> RunRecord | None:
    """The record of the run in a folder, or None where there is none that can be read."""
    try:
        document = yaml.safe_load((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
        provenance = document["provenance"]
        return RunRecord(document["job"], provenance["version"], provenance["backend"], document["settings"], provenance["inputs"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of the finished run in a folder, or None where no run has finished there."""
    try:
        summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return summary if isinstance(summary, dict) and summary.get("status") == "done" else None


def _counts(entry: Path) -> bool:
    """Whether what lies in a folder makes it more than an empty one: not a lock, a write that was cut short, or folders without a file,
    which Snakemake makes before a job begins."""
    if entry.name.startswith(PARTIAL) or entry.name == RUN_LOCK:
        return False
    return not entry.is_dir() or any(not below.is_dir() for below in entry.rglob("*"))


def prepare_folder(folder: Path, record: RunRecord, resume: bool, overwrite: bool) -> Literal["new", "resumed", "finished"]:
    """Decide how a run in this folder begins, and clear what it replaces.

    A folder that holds another run is refused unless told to resume (the same run) or overwrite; one that holds other things is always
    refused. With both, the same run is resumed and a different one replaced. Nothing that the new run reads is ever removed. Raises
    InputError.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"--output {folder}: {nearest} is a file", "a folder", "choose another --output")
    if not folder.exists() or not any(_counts(entry) for entry in folder.iterdir()):
        return "new"
    found = read_record(folder)
    if found is None:
        raise InputError(f"--output {folder} holds files that are no run of Protomer", "an empty or new folder", "choose another --output")
    changes = differences(found.essence(), record.essence())
    if resume and not changes:
        remove_partial_files(folder)
        return "finished" if _is_complete(folder) else "resumed"
    if overwrite:
        _require_elsewhere(files_read(record.inputs), folder)
        clear_run(folder)
        return "new"
    if resume and found.job == record.job:
        raise InputError(f"--resume: the run in {folder} was asked something else\n    " + "\n    ".join(changes),
                         "the same settings and inputs", "repeat them, or give --overwrite to replace that run, or another --output")
    state = "a finished" if read_summary(folder) else "an unfinished"
    same = "give --resume to keep what is done, " if not changes else "it is another run than this: give "
    raise InputError(f"--output {folder} holds {state} run of {found.job}", "an empty or new folder",
                     f"{same}--overwrite to replace it, or another --output")


def files_read(inputs: Mapping[str, Any]) -> list[Path]:
    """The files of a run's inputs, as its record describes them, and the image stacks that particles among them lie in."""
    parts = [part for value in inputs.values() for part in (value if isinstance(value, list) else [value])]
    paths = [Path(part["path"]) for part in parts if isinstance(part, Mapping)]
    return paths + [stack for path in paths if path.suffix.lower() in (".h5", ".hdf5") for stack in stacks_named(path)]


def _require_elsewhere(files: Iterable[Path], folder: Path) -> None:
    """Raise InputError where a run that is to be replaced holds what the new one reads."""
    doomed = {(folder / name).resolve() for name in written_names(folder)}
    needed = next((path for path in files if path.resolve() in doomed), None)
    if needed is not None:
        raise InputError(f"--overwrite would remove {needed}, which this run reads", "inputs and images outside --output",
                         "choose another --output")


def written_names(folder: Path) -> list[str]:
    """The outputs that runs in this folder have written, by its log, that still exist; only names inside the folder.

    What several ranks write is announced before, so that a run that is killed meanwhile leaves nothing that the log does not know.
    """
    names: dict[str, None] = {}
    for event in read_events(folder / LOG_NAME):
        told = {"announced": event.get("files", ()), "wrote": (event.get("file"),)}
        names |= dict.fromkeys(map(str, told.get(str(event.get("event")), ())))
    inside = folder.resolve()
    return [name for name in names if (folder / name).is_file() and (folder / name).resolve().is_relative_to(inside)]


def describe_outputs(folder: Path, names: Iterable[str], known: Mapping[str, str]) -> dict[str, Any]:
    """Size and SHA-256 of each output, for the summary; known: digests of those that were digested as they were written."""
    return {name: {"size_bytes": (folder / name).stat().st_size, "sha256": known.get(name) or file_digest(folder / name)} for name in names}


def clear_run(folder: Path) -> None:
    """Remove a run's files, and nothing else, from its folder; the completion mark goes first."""
    checkpoints = [path.name for path in folder.glob(CHECKPOINTS)]
    names = [SUMMARY_NAME, *written_names(folder), *checkpoints, SETTINGS_NAME, LOG_NAME]
    remove_partial_files(folder)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for parent in sorted({parent for name in names for parent in (folder / name).parents if folder in parent.parents}, reverse=True):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _is_complete(folder: Path) -> bool:
    summary = read_summary(folder)
    return summary is not None and all((folder / name).is_file() for name in summary.get("outputs", {}))


def _without_path(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_path(part) for part in value]
    if isinstance(value, Mapping) and "sha256" in value:
        return {"sha256": value["sha256"]}
    return value


def _only_path(value: Any) -> Any:
    if isinstance(value, list):
        return ["none" if part is None else _only_path(part) for part in value]
    return value["path"] if isinstance(value, Mapping) else value
