"""report: the runs in a folder -> chain_report.html."""

from __future__ import annotations

from pathlib import Path

import click

from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.report import ReportSettings
from protomer.errors import InputError
from protomer.report.chain_report import write_chain_report


def execute(inputs: Inputs, settings: ReportSettings, call: Call) -> int:
    """Write the page; 0. Raises InputError where the folder holds no run."""
    folder = Path(inputs.folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", "the folder of a chain, or of one run", "check the path")
    page = folder / settings.page if Path(settings.page).name == settings.page else Path(settings.page)
    if call.dry_run:
        click.echo(f"would write {page}")
        return 0
    counts = write_chain_report(folder, page)
    click.echo(f"{page}: {counts['done']} of {counts['runs']} jobs done")
    return 0
