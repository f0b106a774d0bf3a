"""The command of one job: its flags from its declaration, and what they, --set and --config amount to together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from protomer.config.setting_values import base_type
from protomer.config.settings import Job, SettingField, unknown_name
from protomer.config.yaml_files import read_yaml_mapping
from protomer.errors import InputError, SettingsError


@dataclass(frozen=True)
class Call:
    """A job as it was asked for on a command line. arguments: what stood after `--`."""

    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    output: Path | None
    backend: str = "auto"
    resume: bool = False
    overwrite: bool = False
    threads: int | None = None
    cache: Path | None = None
    dry_run: bool = False
    share_gpus: bool = False
    arguments: tuple[str, ...] = ()


def job_parameters(job: Job) -> list[click.Parameter]:
    """The flags and arguments of a job: inputs, settings, and what all jobs share."""
    positional = [given for given in job.inputs if given.positional]
    arguments: list[click.Parameter] = [click.Argument([given.name], required=False, nargs=-1 if given.repeatable else 1)
                                        for given in positional]
    flags: list[click.Parameter] = [
        click.Option([f"--{given.name}"], multiple=given.repeatable, metavar="FILE" if given.file else "TEXT",
                     help=given.text + (" (required)" if given.required else "") + (f" [{given.default}]" if given.default else ""))
        for given in job.inputs if not given.positional]
    return arguments + flags + _shared_options(job) + [_setting_option(field) for field in job.settings.fields().values()]


def interpret(job: Job, values: Mapping[str, Any], arguments: Sequence[str] = ()) -> Call:
    """What the flags say, over what --set says, over what --config says. Raises InputError and SettingsError."""
    inputs, settings = _from_config(job, values.get("config"))
    for text in values.get("set", ()):
        name, separator, value = text.partition("=")
        if not separator:
            raise SettingsError(f"--set {text}", "--set name=value", "write the name, an equals sign and the value")
        _place(job, name.strip(), value.strip(), inputs, settings)
    for name, value in values.items():
        if value is None or value == ():
            continue
        if job.input(name) is not None:
            inputs[name] = value
        elif name in job.settings.fields():
            settings[name] = value
    output, cache = values.get("output"), values.get("cache") or os.environ.get("PROTOMER_CACHE")
    return Call(inputs, settings, Path(output) if output else None, values.get("backend") or "auto", bool(values.get("resume")),
                bool(values.get("overwrite")), values.get("threads"), Path(cache) if cache else None, bool(values.get("dry_run")),
                bool(values.get("share_gpus")), tuple(arguments))


def _from_config(job: Job, path: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and settings of a --config file: flat names, a `settings` mapping, or the settings.yaml of a run."""
    if path is None:
        return {}, {}
    document = read_yaml_mapping(Path(path))
    if document.get("job", job.name) != job.name:
        raise InputError(f"{path} is for the job {document['job']!r}", f"a file for {job.name}",
                         f"start protomer {document['job']} with it")
    try:
        inputs, settings = sort_names(job, document)
        job.settings.from_mapping(settings)
    except InputError as error:
        raise error.within(path) from error
    return inputs, settings


def sort_names(job: Job, document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the settings in a mapping of flat names, which may also hold a mapping `settings`. Raises SettingsError."""
    inputs: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in document.items():
        if name == "settings" and isinstance(value, Mapping):
            for key, each in value.items():
                _place(job, str(key), each, inputs, settings)
        elif name not in ("job", "provenance", "resources"):
            _place(job, name, value, inputs, settings)
    return inputs, settings


def _place(job: Job, name: str, value: Any, inputs: dict[str, Any], settings: dict[str, Any]) -> None:
    plain = name.replace("-", "_")
    if job.input(plain) is not None:
        inputs[plain] = value
    elif plain in job.settings.fields():
        settings[plain] = value
    else:
        inputs_too = (given.name.replace("-", "_") for given in job.inputs)
        raise unknown_name(f"setting of {job.name}", plain, [*job.settings.fields(), *inputs_too])


def _setting_option(field: SettingField) -> click.Option:
    kind, _ = base_type(field.annotation)
    hint = "|".join(field.choices) or {int: "N", float: "NUMBER", bool: "on|off", str: "TEXT"}[kind]
    default = field.describe_default()
    later = "; not in this version" if field.later else ""
    switch: dict[str, Any] = {"is_flag": False, "flag_value": "on"} if kind is bool else {}
    unit = f" {field.unit}" if field.unit and field.default is not None else ""
    return click.Option([f"--{field.name.replace('_', '-')}"], metavar=hint, **switch,
                        help=f"{field.text}{f' ({field.unit})' if field.unit and not unit else ''} [{default}{unit}{later}]")


def _shared_options(job: Job) -> list[click.Parameter]:
    config: list[click.Parameter] = [
        click.Option(["--config"], metavar="FILE.yaml", help="inputs and settings, `name: value`; a run's settings.yaml will do"),
        click.Option(["--set"], multiple=True, metavar="NAME=VALUE", help="a setting by name; may be repeated"),
        click.Option(["--dry-run", "-n"], is_flag=True, help="check everything, print what it would take, write nothing")]
    if not job.keeps_folder:
        return config
    return [click.Option(["--output"], metavar="DIR", help="the folder of this run (required)"), *config,
            click.Option(["--backend"], metavar="auto|cpu|cuda", help="where to compute [auto]"),
            click.Option(["--share-gpus"], is_flag=True, help="let several ranks use one GPU where a node has fewer GPUs than ranks"),
            click.Option(["--resume"], is_flag=True, help="go on from the checkpoint; do nothing if the same run is finished"),
            click.Option(["--overwrite"], is_flag=True, help="replace a different run in the folder"),
            click.Option(["--threads"], type=click.IntRange(min=1), metavar="N", help="threads of each rank [its share of the CPUs]"),
            click.Option(["--cache"], metavar="DIR", help="folder on this machine's own disk for prepared images, shared and kept; "
                         "$PROTOMER_CACHE_GB limits its size [$PROTOMER_CACHE]")]
