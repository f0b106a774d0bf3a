"""From what a person gave for a job's inputs (files, job folders, words) to the paths that the job reads."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protomer.config.settings import Input, Job, unknown_name
from protomer.errors import InputError
from protomer.running.provenance import describe_file
from protomer.simulation.shipped_models import is_shipped, shipped_model, shipped_names

_IMPORTED = {".star": "star", ".cs": "cs", ".mrcs": "stack", ".st": "stack"}  # ending -> flag of import
_MAPS = (".mrc", ".map", ".ccp4")


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
            flag = declared.name.upper() if declared.positional else f"--{declared.name} FILE"
            raise InputError(f"{job.name} was given no {flag.removesuffix(' FILE')}", declared.text, f"add {flag}")
        value = declared.default
    if declared.repeatable:
        many = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
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
    if declared.is_word(str(value)) and not path.exists():
        return str(value)
    if path.is_dir():
        path = _file_in_folder(declared, path)
    if declared.shipped and not path.exists() and is_shipped(str(value)):
        path = shipped_model(str(value))
    if not path.is_file():
        raise _no_such_file(declared, path, str(value))
    endings = _endings(declared)
    if endings and not path.name.lower().endswith(endings):
        raise InputError(f"--{declared.name} {value}", f"a file that ends in {' or '.join(endings)}: {declared.text}",
                         _meant_for(path, declared))
    return path


def _endings(declared: Input) -> tuple[str, ...]:
    """The endings that an input may have; none where any will do."""
    assert declared.file is not None
    own = Path(declared.file).suffix
    known = (".h5", ".hdf5") if own == ".h5" else (own,)
    return tuple(dict.fromkeys((*known, *declared.alternatives))) if declared.alternatives or own == ".h5" else ()


def _meant_for(path: Path, declared: Input) -> str:
    """What to do with a file of another kind than the one that was meant."""
    table = next((flag for ending, flag in _IMPORTED.items() if path.name.lower().endswith(ending)), None)
    if table is not None and declared.name == "particles":
        return f"import it first, `protomer import --{table} {shlex.quote(str(path))} --output imported`, then give --particles imported"
    if declared.name == "particles" and path.name.lower().endswith(_MAPS):
        return "a map belongs to --volume; an image stack without a table is imported first, with `protomer import --stack`"
    return "give another file"


def _no_such_file(declared: Input, path: Path, value: str) -> InputError:
    """Where a file was looked for, and the nearest name that is there."""
    if not path.parent.is_dir():
        return InputError(f"--{declared.name} {value}: there is no such file, and the folder {path.parent} does not exist", declared.text,
                          "check the path")
    known = shipped_names() if declared.shipped else ()
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1, cutoff=0.6)
    return InputError(f"--{declared.name} {value}: there is no such file in {path.parent.absolute()}",
                      declared.text + (f" ({', '.join(known)})" if known else ""),
                      f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path")


def _file_in_folder(declared: Input, folder: Path) -> Path:
    assert declared.file is not None
    meant = folder / declared.file
    if meant.is_file():
        return meant
    endings, others = _endings(declared) or (meant.suffix,), {"particles.h5", "volume.h5", "checkpoint.h5"} - {declared.file}
    usable = sorted(entry.name for entry in folder.iterdir()
                    if entry.is_file() and entry.name.endswith(endings) and entry.name not in others and entry.name[0] != ".")
    finished = "" if (folder / "summary.json").exists() else "; it holds no finished run"
    raise InputError(f"--{declared.name} {folder}: the folder has no {declared.file}{finished}",
                     f"the folder of a job that wrote {declared.file}, or a file itself",
                     f"name one of its files: {', '.join(usable[:12])}" if usable else "give another folder, or a file")
