"""A chain: which jobs, on what, in what order. Read from YAML, checked whole before anything starts."""

from __future__ import annotations

import difflib
import graphlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protomer.catalogue import declaration
from protomer.config.job_command import sort_names
from protomer.config.schema import STEP_NAME, chain_schema
from protomer.config.settings import Input, Job, Settings, setting
from protomer.config.yaml_files import read_yaml_mapping
from protomer.errors import InputError, SettingsError
from protomer.running.run_folder import SUMMARY_NAME
from protomer.simulation.shipped_models import is_shipped, shipped_model

DATASET = "dataset"
_TAKEN = (DATASET, "logs", "none", "all")  # "all" is the rule that asks for everything


@dataclass(frozen=True)
class StepResources(Settings):
    """What a step may use; with ranks above 1 it runs under MPI."""

    ranks: int = setting(1, "MPI ranks", minimum=1)
    threads: int = setting(0, "threads of each rank; 0: all cores given to the chain, shared by the ranks, or 4 on a cluster", minimum=0)
    gpus: int = setting(0, "GPUs of each rank; with 1 the step computes on them (--backend cuda)", minimum=0, maximum=1)
    nodes: int = setting(0, "machines over which the ranks are spread; 0: wherever they fit", minimum=0)
    memory_mb: int = setting(0, "memory of the whole step, megabytes; 0: as planned from its inputs", minimum=0)
    minutes: int = setting(0, "longest run time; 0: as planned from its inputs", minimum=0)


@dataclass(frozen=True)
class Step:
    """One job of a chain.

    files: input name -> paths in order, None for a gap, text for a word in a file's place; relative paths are products of other steps.
    texts: inputs that are no files.
    """

    name: str
    job: Job
    files: Mapping[str, tuple[Path | str | None, ...]]
    texts: Mapping[str, str]
    settings: Mapping[str, Any]
    resources: StepResources

    @property
    def paths(self) -> list[Path]:
        """Every file that the step reads."""
        return [path for given in self.files.values() for path in given if isinstance(path, Path)]

    def arguments(self) -> list[str]:
        """The command line of this step after `protomer`, as separate arguments: nothing here is read by a shell."""
        words = [self.job.name, "--output", self.name, *(("--backend", "cuda") if self.resources.gpus else ())]
        for name, paths in self.files.items():
            words += [word for path in paths for word in (f"--{name.replace('_', '-')}", "none" if path is None else str(path))]
        words += [word for name, text in self.texts.items() for word in (f"--{name.replace('_', '-')}", text)]
        return words + [word for name, value in self.settings.items() for word in ("--set", f"{name}={'none' if value is None else value}")]


@dataclass(frozen=True)
class Chain:
    """Steps in an order in which each comes after those it reads. outputs: for each step the files that it must write."""

    steps: tuple[Step, ...]
    outputs: Mapping[str, tuple[Path, ...]]


def read_chain(path: Path) -> Chain:
    """The chain in a YAML file; relative paths in it are seen from the file's folder. Raises InputError and SettingsError."""
    document = read_yaml_mapping(path)
    try:
        return parse_chain(document, path.absolute().parent)
    except InputError as error:
        raise error.within(path) from error


def parse_chain(document: Mapping[str, Any], folder: Path) -> Chain:
    """The chain in a mapping as YAML gives it. Relative paths of files are seen from `folder`. Raises InputError and SettingsError."""
    entries = _entries(document)
    _check_form(document)
    steps = {name: _parse_step(name, entry, entries, folder) for name, entry in entries.items()}
    produced: dict[str, dict[Path, None]] = {name: {Path(name, SUMMARY_NAME): None} for name in steps}
    needs: dict[str, set[str]] = {name: set() for name in steps}
    for name, step in steps.items():
        for path in (path for path in step.paths if not path.is_absolute()):
            produced[path.parts[0]][path] = None
            needs[name].add(path.parts[0])
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        raise InputError(f"the jobs {' -> '.join(error.args[1])} wait for one another", "a chain without a circle",
                         "let one of them read a file in place of a job") from error
    return Chain(tuple(steps[name] for name in order), {name: tuple(paths) for name, paths in produced.items()})


def _entries(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every step by name, the data set's import among them, with names and jobs checked."""
    jobs = document.get("jobs")
    if not isinstance(jobs, Mapping) or not jobs:
        raise InputError(f"a chain with jobs: {jobs!r}", "a mapping `jobs` with one entry for each job",
                         "write `jobs:` and below it `NAME: {job: refine, particles: dataset, ...}`")
    entries: dict[str, dict[str, Any]] = {}
    if DATASET in document:
        entries[DATASET] = {"job": "import", **_mapping(DATASET, document[DATASET])}
    for name, entry in jobs.items():
        if not isinstance(name, str) or not re.fullmatch(STEP_NAME, name) or name in _TAKEN:
            raise InputError(f"the job name {name!r}", f"letters, digits, - and _, beginning with a letter, and not {', '.join(_TAKEN)}",
                             "choose another name: folders and rules are named by it")
        entries[name] = dict(_mapping(name, entry))
        if not isinstance(entries[name].get("job"), str):
            raise InputError(f"{name} has no `job`", "the name of the job it is", f"write `{name}: {{job: refine, ...}}`")
        if not declaration(entries[name]["job"]).keeps_folder:
            raise InputError(f"{name}: {entries[name]['job']} in a chain", "a job that writes a folder", "call it after the chain")
    return entries


def _mapping(name: str, entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise InputError(f"{name} is {entry!r}", "a mapping of names to values", f"write `{name}: {{name: value, ...}}`")
    return entry


def _check_form(document: Mapping[str, Any]) -> None:
    """Names and values of every entry are checked by the declarations (which suggest the nearest name), the rest by the schema."""
    for name, entry in _entries(document).items():
        job = declaration(entry["job"])
        try:
            inputs, settings = sort_names(job, entry)
            job.settings.from_mapping(settings)
            _check_group(job, inputs)
            resources = StepResources.from_mapping(_mapping("resources", entry.get("resources") or {}))
            if resources.ranks > 1 and not job.ranks:
                raise InputError(f"{job.name} on {resources.ranks} ranks", "one rank: this job does not share its work",
                                 "leave `ranks` out")
            if resources.gpus and not job.cuda:
                raise InputError(f"{job.name} on GPUs", "no GPUs: this job computes on CPUs only", "leave `gpus` out")
        except InputError as error:
            raise SettingsError(f"{name}: {error.found}", error.expected, error.remedy) from error
    import jsonschema
    worst = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(chain_schema()).iter_errors(document))
    if worst is not None:
        raise InputError(f"the chain at {'/'.join(map(str, worst.absolute_path)) or 'its top'}: {worst.message}",
                         "the form that the schema describes", "mend that entry")


def _check_group(job: Job, inputs: Mapping[str, Any]) -> None:
    """Raise InputError for a point group, or a convention of axes, that does not exist: hours later a job would."""
    if "symmetry" in inputs and job.name != "symmetry-find":  # which takes other words too
        from protomer.symmetry.point_groups import operators
        operators(str(inputs["symmetry"]), str(inputs.get("axes", "relion")))


def _parse_step(name: str, entry: Mapping[str, Any], entries: Mapping[str, Any], folder: Path) -> Step:
    job = declaration(entry["job"])
    inputs, settings = sort_names(job, entry)
    files: dict[str, tuple[Path | str | None, ...]] = {}
    texts: dict[str, str] = {}
    for declared in job.inputs:
        value = inputs.get(declared.name.replace("-", "_"))
        if value is None and declared.required:
            raise InputError(f"{name}: {job.name} was given no {declared.name}", declared.text, f"add `{declared.name}: ...`")
        if value is None:
            continue
        if declared.file is None:
            texts[declared.name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        else:
            parts = value if isinstance(value, list) else [value]
            files[declared.name] = tuple(_parse_file(name, declared, str(part), entries, folder) for part in parts)
    return Step(name, job, files, texts, settings, StepResources.from_mapping(entry.get("resources") or {}))


def _parse_file(step: str, declared: Input, value: str, entries: Mapping[str, Any], folder: Path) -> Path | str | None:
    """A job's name: its file of that kind. JOB/FILE: that file. A word that may stand for a file: itself. Anything else: a file or folder
    that exists."""
    if declared.repeatable and value == "none":
        return None
    assert declared.file is not None
    if declared.is_word(value) and not os.path.exists(folder / value):
        return value
    first, _, rest = value.partition("/")
    if first in entries:
        if first == step or ".." in Path(rest).parts:
            raise InputError(f"{step}: {declared.name}: {value}", "a file of another job", "name another job or a file")
        return Path(first, rest or declared.file)
    path = (folder / os.path.expanduser(value)).absolute()
    if set("{}") & set(str(path)):
        raise InputError(f"{step}: {declared.name}: {path}", "a path without { and }, which Snakemake takes for wildcards",
                         "rename the file or its folder")
    path = path / declared.file if os.path.isdir(path) else path
    if declared.shipped and not os.path.exists(path) and is_shipped(value):
        return shipped_model(value)
    if not os.path.exists(path):
        near = difflib.get_close_matches(value, list(entries), n=1)
        raise InputError(f"{step}: {declared.name}: {value} is no job of this chain, and there is no file {path}",
                         f"a job ({', '.join(name for name in entries if name != step)}) or a file",
                         f"did you mean {near[0]!r}?" if near else "check the spelling")
    return path
