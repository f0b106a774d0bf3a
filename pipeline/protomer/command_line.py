"""The command line: `protomer JOB ...`, and `protomer-JOB ...` for each job."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from protomer import __version__
from protomer.catalogue import JOB_NAMES, declaration, unknown_job
from protomer.config.job_command import Call, interpret, job_parameters
from protomer.config.settings import Job
from protomer.environment import prepare_environment
from protomer.errors import InputError, ProtomerError, SettingsError
from protomer.running.ranks import Team, launched_rank, open_team

_HELP = """Cryo-EM single-particle refinement in batch: one job per command, files in, files out.

Every job writes a folder; a job's folder may be given wherever one of its files is meant. `protomer JOB --help` says what a job takes.
"""
_CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": lambda name: name.replace("_", "-"), "max_content_width": 120}


class _Jobs(click.Group):
    """The jobs as commands, each built from its declaration when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The jobs in the order of a project."""
        return list(JOB_NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a job, or None."""
        return job_command(declaration(cmd_name)) if cmd_name in JOB_NAMES else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown job is an error that names the nearest."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_job(args[0])
        return super().resolve_command(ctx, args)


class _JobCommand(click.Command):
    """The command of one job; a word without a flag is an error that says which flags there are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if type(error) is not click.UsageError or "unexpected extra argument" not in error.message:
                raise
            words = error.message.partition("(")[2].rstrip(")")
            flags = [option.opts[0] for option in self.params if isinstance(option, click.Option) and option.metavar == "FILE"]
            example = f"protomer {self.name} {flags[0] if flags else '--set'} ..."
            raise InputError(f"{words}: given without a flag", f"files by their flags: {', '.join(flags)}",
                             f"write for example `{example}`; --help lists them all") from error


def job_command(job: Job) -> click.Command:
    """The click command of a job."""

    def callback(**values: Any) -> int:
        rest: tuple[str, ...] = values.pop("arguments", ())
        return carry_out(job, interpret(job, values, rest))

    parameters = job_parameters(job)
    if job.passes_on:
        parameters.append(click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED))
    return _JobCommand(job.name, callback=callback, params=parameters, help=f"{job.summary}.\n\n{_laid_out(job.teaches)}",
                       short_help=job.summary, context_settings=_CONTEXT)


def _laid_out(text: str) -> str:
    """The text with click's mark before paragraphs that are indented, so that commands keep a line each."""
    return "\n\n".join(f"\b\n{part}" if part.startswith("    ") else part for part in text.split("\n\n"))


def carry_out(job: Job, call: Call) -> int:
    """Run a job as its command line says, on this rank; the exit code."""
    if not job.keeps_folder:
        return _execute_plain(job, call)
    return under_one_roof(lambda team: _run_in_folder(job, call, team))


def _execute_plain(job: Job, call: Call) -> int:
    """A job without a run folder: its module's `execute(inputs, settings, call)` gives the exit code."""
    import importlib

    from protomer.config.job_inputs import resolve_inputs
    settings = job.settings.from_mapping(call.settings)
    code: int = importlib.import_module(job.entry).execute(resolve_inputs(job, call.inputs), settings, call)
    return code


def _run_in_folder(job: Job, call: Call, team: Team) -> int:
    threads = call.threads or team.cpus()
    prepare_environment(threads)
    from protomer.running.job_run import RunOptions, plan_job, run_job
    if call.dry_run:
        plan = plan_job(job, call.inputs, call.settings, team.size, threads, call.backend)
        if team.is_first:
            click.echo(plan.describe(job.name, team.size, threads))
        return 0
    if call.output is None:
        raise InputError(f"{job.name} was given no --output", "a folder for this run", "add --output DIR")
    options = RunOptions(call.output, call.backend, call.resume, call.overwrite, threads, call.cache, call.share_gpus)
    summary = run_job(job, call.inputs, call.settings, options, team)
    if team.is_first:
        already = " already: nothing to do" if summary.get("was_done_already") else f" in {summary['seconds']:.1f} s"
        report = call.output / "report.html"
        click.echo(f"{job.name}: done{already}; see {report if report.exists() else call.output}")
    return 0


def under_one_roof(work: Callable[[Team], int]) -> int:
    """Do the work on every rank of the launcher. When a rank fails all end: in order where all failed alike, else by aborting.

    An error that all ranks meet is printed once, by rank 0.
    """
    team = open_team()
    try:
        return work(team)
    except BaseException as error:
        code = exit_code(error)
        if team.is_first:
            report_error(error)
        if team.size > 1 and not team.all_fail():
            if not team.is_first:
                report_error(error, f"rank {team.rank}: ")
            sys.stderr.flush()
            team.abort(code)
        return code


def exit_code(error: BaseException) -> int:
    """0 done, 2 bad input or settings, 75 stopped by a signal (resume me), 130 interrupted by Ctrl-C, 1 any other fault."""
    if isinstance(error, ProtomerError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, click.UsageError) else 1


def report_error(error: BaseException, prefix: str = "") -> None:
    """One short message on stderr; the traceback too where PROTOMER_DEBUG=1."""
    if os.environ.get("PROTOMER_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error.show()
    elif isinstance(error, ProtomerError):
        print(f"protomer: {prefix}{error}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print(f"protomer: {prefix}interrupted; the same command with --resume goes on from the last checkpoint, or starts again where "
              "there is none", file=sys.stderr)
    else:
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({Path(place[0].filename).name}, line {place[0].lineno})" if place else ""
        print(f"protomer: {prefix}fault: {type(error).__name__}: {error}{where}\n  what to do: set PROTOMER_DEBUG=1 for a traceback, and "
              f"report it", file=sys.stderr)


@click.group(cls=_Jobs, help=_HELP, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="protomer")
def jobs() -> None:
    """All jobs."""


def main() -> None:
    """The `protomer` command."""
    sys.exit(invoke(jobs, "protomer"))


def job_main() -> None:
    """The `protomer-JOB` commands: the job is named by the script."""
    script = Path(sys.argv[0]).stem
    try:
        command = job_command(declaration(script.removeprefix("protomer-")))
    except SettingsError as error:
        report_error(error)
        sys.exit(2)
    sys.exit(invoke(command, script))


def invoke(command: click.Command, name: str) -> int:
    """Run a click command; errors in the command line itself are said once, by the launcher's rank 0."""
    try:
        result = command.main(prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        if launched_rank(os.environ) == 0:
            report_error(error)
        return exit_code(error)
