"""The form of a chain file as a JSON schema, and the table of a job's settings for the documentation, from the declarations."""

from __future__ import annotations

from typing import Any

from protomer.catalogue import JOB_NAMES, declaration
from protomer.config.setting_values import base_type
from protomer.config.settings import Input, Job, SettingField

#: names that a chain may give its jobs: folders, rules and log files are named by them
STEP_NAME = "^[A-Za-z][A-Za-z0-9_-]{0,63}$"
_WORDS: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}


def chain_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) of a chain: an optional data set to import, and jobs by name."""
    jobs = [declaration(name) for name in JOB_NAMES if declaration(name).keeps_folder]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Protomer chain", "type": "object",
            "required": ["jobs"], "additionalProperties": False,
            "properties": {
                "dataset": {"type": "object", "properties": _properties(declaration("import")), "additionalProperties": False},
                "jobs": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": STEP_NAME},
                         "additionalProperties": {"type": "object", "required": ["job"],
                                                  "properties": {"job": {"enum": [job.name for job in jobs]}},
                                                  "allOf": [_for_job(job) for job in jobs]}}}}


def _for_job(job: Job) -> dict[str, Any]:
    """What an entry may hold once its `job` is known."""
    known = {"job": {"const": job.name}, **_properties(job)}
    return {"if": {"properties": {"job": {"const": job.name}}}, "then": {"properties": known, "additionalProperties": False}}


def _properties(job: Job) -> dict[str, Any]:
    settings = {field.name: _setting_schema(field) for field in job.settings.fields().values()}
    inputs = {given.name.replace("-", "_"): _input_schema(given) for given in job.inputs}
    return {**inputs, **settings, "settings": {"type": "object", "properties": settings, "additionalProperties": False},
            "resources": {"type": "object"}}


def _setting_schema(field: SettingField) -> dict[str, Any]:
    kind, may_be_unset = base_type(field.annotation)
    names = {int: ["integer", "string"], float: ["number", "string"], bool: ["boolean", "string"],
             str: ["string", "number", "array", "boolean"]}
    unset = ["null", "boolean"] if may_be_unset else []  # YAML reads an unquoted off as false
    unit = f" ({field.unit})" if field.unit else ""
    return {"description": field.text + unit, "default": field.default, "type": list(dict.fromkeys([*names[kind], *unset]))}


def _input_schema(given: Input) -> dict[str, Any]:
    one = {**_WORDS, "description": given.text}
    return {"anyOf": [one, {"type": "array", "items": one}]} if given.repeatable else one


def settings_table(job: Job) -> str:
    """A Markdown table of a job's settings: name, default, unit, meaning."""
    rows = ["| setting | default | unit | meaning |", "|---|---|---|---|"]
    for field in job.settings.fields().values():
        choices, later = f" ({', '.join(field.choices)})" if field.choices else "", "; not in this version" if field.later else ""
        meaning = field.text + choices + later
        rows.append(f"| {field.name} | {field.describe_default()} | {field.unit} | {meaning} |")
    return "\n".join(rows) + "\n"
