"""What README.md tells people to type exists: jobs, flags, settings, files, names to import."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from protomer.catalogue import JOB_NAMES, declaration
from protomer.command_line import job_command

PROJECT = Path(__file__).resolve().parent.parent
TEXT = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in re.sub(r"\\\n *", "", TEXT).splitlines() if line.startswith("    protomer ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_names_jobs_flags_and_settings_that_exist(command: str) -> None:
    _, name, *words = shlex.split(command, comments=True)
    job = declaration(name)
    values = job_command(job).make_context(name, words, resilient_parsing=False).params
    settings = dict(text.split("=", 1) for text in values["set"]) | {key: values[key] for key in job.settings.fields() if values[key]}
    job.settings.from_mapping({key: value for key, value in settings.items() if job.input(key) is None})
    assert all(key in job.settings.fields() or job.input(key) for key in settings)


def test_the_commands_of_the_readme_are_found() -> None:
    assert len(COMMANDS) >= 20


def test_the_readme_lists_every_job_and_no_other() -> None:
    table = TEXT[TEXT.index("| job | what it does |"):TEXT.index("By hand, the demo reads:")]
    listed = {name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`([a-z-]+)`", row)}
    assert listed == set(JOB_NAMES)


def test_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"(?:benchmarks|workflow|docs|cluster|tests)/[\w./-]*\w", TEXT)
    assert len(names) > 20 and [name for name in names if not (PROJECT / name).exists()] == []


def test_what_the_readme_imports_can_be_imported() -> None:
    imports = re.findall(r"^    from (\S+) import (.+)$", TEXT, re.MULTILINE)
    assert imports
    for module, names in imports:
        assert all(hasattr(importlib.import_module(module), name.strip()) for name in names.split(","))


def test_a_command_with_an_unknown_flag_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        job_command(declaration("refine")).make_context("refine", ["--partcles", "x"])
