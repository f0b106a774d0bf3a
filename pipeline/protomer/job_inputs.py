"""From what a person gave for a job's inputs (files, job folders, words) to the paths that the job reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protomer.errors import InputError
from protomer.provenance import describe_file
from protomer.settings import Input, Job, unknown_name


@dataclass(frozen=True)
class Inputs:
    """A job's inputs by name, each also an attribute: Path or None; text as it is; a tuple for a repeatable one (None for a gap)."""

    values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name != "values" and name in self.values:
            return self.values[name]
        raise AttributeError(name)


def resolve_inputs(job: Job, given: Mapping[str, Any]) -> Inputs:
    """The inputs of a job, every file found; a job's folder stands for the file in it that is meant. Raises InputError."""
    for name in given:
        if job.input(name) is None:
            raise unknown_name(f"input of {job.name}", name, [declared.name for declared in job.inputs])
    plain = {name.replace("-", "_"): value for name, value in given.items()}
    return Inputs({key: _resolve(job, declared, plain.get(key))
                   for declared in job.inputs for key in [declared.name.replace("-", "_")]})


def describe_inputs(job: Job, inputs: Inputs) -> dict[str, Any]:
    """For provenance: each input's text, or its file's path, size and SHA-256 (reads the files); absent ones are left out."""
    described: dict[str, Any] = {}
    for name, value in inputs.values.items():
        declared = job.input(name)
        assert declared is not None
        given = value if isinstance(value, tuple) else (value,)
        parts = [describe_file(part, declared.digest) if isinstance(part, Path) else part for part in given]
        if any(part is not None for part in parts):
            described[name] = parts if isinstance(value, tuple) else parts[0]
    return described


def _resolve(job: Job, declared: Input, value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str) and not declared.repeatable:
        if len(value) > 1:
            raise InputError(f"--{declared.name} was given {len(value)} times", "once", f"leave one --{declared.name}")
        value = value[0] if value else None
    if value is None or value == () or value == []:
        if declared.required:
            raise InputError(f"{job.name} was given no --{declared.name}", declared.text, f"add --{declared.name}")
        value = declared.default
    if declared.repeatable:
        many = [] if value is None else [value] if isinstance(value, (str, os.PathLike)) else list(value)
        return tuple(_resolve_one(declared, each) for each in many)
    return _resolve_one(declared, value)


def _resolve_one(declared: Input, value: Any) -> Path | str | None:
    if value is None or (declared.repeatable and str(value).lower() == "none"):
        return None
    if not isinstance(value, (str, int, float, os.PathLike)) or isinstance(value, bool):
        raise InputError(f"--{declared.name} {value!r}", declared.text, "write a path or a word (in quotes, in YAML)")
    if declared.file is None:
        return str(value)
    path = Path(str(value)).expanduser()
    if path.is_dir():
        path = _file_in_folder(declared, path)
    if not path.is_file():
        near = f"{path.parent} exists but has no {path.name}" if path.parent.is_dir() else f"the folder {path.parent} does not exist"
        raise InputError(f"--{declared.name} {value}: there is no such file ({near})", declared.text, "check the path")
    endings = (Path(declared.file).suffix, *declared.alternatives)
    if declared.alternatives and not path.name.endswith(endings):
        raise InputError(f"--{declared.name} {value}", f"a file that ends in {' or '.join(dict.fromkeys(endings))}", declared.text)
    return path


def _file_in_folder(declared: Input, folder: Path) -> Path:
    assert declared.file is not None
    meant = folder / declared.file
    if meant.is_file():
        return meant
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    finished = "" if (folder / "summary.json").exists() else "; it holds no finished run"
    raise InputError(f"--{declared.name} {folder}: the folder has no {declared.file}{finished}",
                     f"a job's folder with {declared.file}, or a file itself",
                     f"name one of its files: {', '.join(there[:12])}" if there else "give another folder: this one is empty")
