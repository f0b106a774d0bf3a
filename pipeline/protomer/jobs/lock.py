"""lock: write the environment to protomer.lock, or compare the two."""

from __future__ import annotations

from pathlib import Path

import click

from protomer.config.job_command import Call
from protomer.config.job_inputs import Inputs
from protomer.declarations.lock import LockSettings
from protomer.running.environment_lock import environment_now, lock_differences, read_lock, write_lock


def execute(inputs: Inputs, settings: LockSettings, call: Call) -> int:
    """0 where the file was written or agrees, 1 where it differs. Raises InputError where there is no file to compare."""
    path = Path(inputs.path)
    if settings.check:
        found = lock_differences(read_lock(path), environment_now())
        for line in found:
            click.echo(f"{path}: {line}")
        click.echo(f"{path}: {len(found)} differences" if found else f"{path}: this is the environment that it holds")
        return 1 if found else 0
    if call.dry_run:
        click.echo(f"would write {path}")
        return 0
    written = write_lock(path)
    click.echo(f"{path}: Protomer {written['protomer']['version']}, Python {written['python']['version']}, {len(written['packages'])} "
               f"packages, {written['machine']['cpu']}, {written['machine']['threads']} threads, {written['mpi']}")
    return 0
