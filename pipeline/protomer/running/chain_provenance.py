"""provenance.json: the one file that a chain leaves beside its jobs' folders. It rebuilds every command line, and names what went in and
came out by digest: the chain file, whole; the environment; each step's words, ranks and threads; each step's inputs and outputs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from protomer import __version__
from protomer.config.chain import Chain, Step
from protomer.errors import InputError
from protomer.running.environment_lock import environment_now, lock_beside, lock_differences, read_lock
from protomer.running.output import writing_atomically
from protomer.running.provenance import file_digest
from protomer.running.run_folder import read_record, read_summary
from protomer.running.run_states import read_run

PROVENANCE_NAME = "provenance.json"


def note_chain(chain_file: Path, chain: Chain, folder: Path, threads: Mapping[str, int]) -> None:
    """Write what is known before the first step starts. threads: of each rank, by step. Raises StorageError where the disk refuses."""
    earlier = read_provenance(folder) or {}
    environment, lock = environment_now(), lock_beside(chain_file)
    document = {
        "program": "protomer", "version": __version__,
        "chain": {"path": str(chain_file.absolute()), "sha256": file_digest(chain_file), "text": chain_file.read_text(encoding="utf-8")},
        "folder": str(folder.absolute()), "started": [*earlier.get("started", ()), datetime.now(UTC).isoformat(timespec="seconds")],
        "environment": environment,
        "differs_from_lock": [] if lock is None else lock_differences(read_lock(lock), environment),
        "steps": {step.name: _step(step, threads.get(step.name, 1)) for step in chain.steps}}
    _write(folder, document)


def _step(step: Step, threads: int) -> dict[str, Any]:
    parents = [path.parts[0] for path in step.paths if not path.is_absolute()]
    return {"job": step.job.name, "parents": list(dict.fromkeys(parents)), "ranks": step.resources.ranks, "threads": threads,
            "words": step.arguments()}


def note_results(folder: Path) -> None:
    """Add what the steps that are done read and wrote. Raises StorageError; nothing where the folder has no provenance.json."""
    document = read_provenance(folder)
    if document is None:
        return
    for name, step in document["steps"].items():
        summary, record = read_summary(folder / name), read_record(folder / name)
        if summary is None or record is None:
            continue
        begin = read_run(folder / name).last("begin") or {}
        step |= {"settings": dict(record.settings), "version": summary["version"], "backend": record.backend, "inputs": summary["inputs"],
                 "outputs": summary["outputs"], "seconds": summary["seconds"],
                 "ran_on": {key: begin.get(key) for key in ("ranks", "threads")}}
    _write(folder, document)


def _write(folder: Path, document: Mapping[str, Any]) -> None:
    with writing_atomically(folder / PROVENANCE_NAME) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What a chain left in a folder; None where there is no such file. Raises InputError where it is damaged."""
    path = folder / PROVENANCE_NAME
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and all(isinstance(step["words"], list) for step in document["steps"].values()):
            return document
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} cannot be read as a chain's provenance", "the file that `protomer run` wrote", "bring it back, or remove it")


def planned_parents(folder: Path) -> dict[str, Sequence[str]]:
    """The steps of the chain in a folder, in their order, with those that they read; empty where none is known."""
    document = read_provenance(folder)
    return {} if document is None else {name: tuple(step.get("parents", ())) for name, step in document["steps"].items()}


def command_lines(document: Mapping[str, Any]) -> list[str]:
    """Every command of a chain, as a shell takes it, in an order in which they work; the first one goes to the chain's folder."""
    lines = [shlex.join(["cd", document["folder"]])]
    for step in document["steps"].values():
        ran = {**step, **{key: value for key, value in step.get("ran_on", {}).items() if value}}
        launcher = ["mpiexec", "-n", str(ran["ranks"])] if ran["ranks"] > 1 else []
        lines.append(shlex.join([*launcher, "protomer", *step["words"], "--threads", str(ran["threads"])]))
    return lines
