"""What a step of a chain asks of a batch system: its job's own plan, as --dry-run prints it, with room to spare, more at each attempt."""

from __future__ import annotations

import errno
import functools
import importlib
import math
import os
import sys
from dataclasses import dataclass

from protomer.config.chain import Step
from protomer.config.job_inputs import resolve_inputs
from protomer.errors import ProtomerError
from protomer.running.job_run import Plan

#: measured peaks lie within a fifth of what is planned (benchmarks/memory.py)
SPARE = 1.2
#: of each rank, once for a version; and of the two Snakemakes that a batch system starts around the ranks
COMPILING_BYTES, SNAKEMAKE_BYTES = 250_000_000, 400_000_000
#: a node may be this much slower than the machine that the rates were measured on; what beginning may take, with a cold file system
SLOWER, BEGINNING_MINUTES = 3.0, 10
#: by how much each further attempt raises what was asked the first time
MORE_AT_EACH_ATTEMPT = 0.5
#: what a step asks for where its job cannot be planned: the run itself will say why
UNPLANNED_MB, UNPLANNED_MINUTES = 8000, 240


@dataclass(frozen=True)
class Needs:
    """What is asked for a whole step, all ranks together: memory, disk for its outputs and scratch in megabytes, time in minutes."""

    memory_mb: int
    minutes: int
    disk_mb: int
    scratch_mb: int


def needs_of(step: Step, threads: int, attempt: int = 1) -> Needs:
    """What a step needs at its n-th attempt, from 1; what the chain says about memory and time goes before what is planned.

    Relative paths are seen from the current folder. Raises FileNotFoundError, with its name as the step has it, for an input that is not
    there yet: Snakemake then asks again when it is.
    """
    ranks, more = step.resources.ranks, 1 + MORE_AT_EACH_ATTEMPT * (attempt - 1)
    try:
        plan = plan_of(step, threads)
        memory = ranks * (SPARE * plan.memory_bytes + COMPILING_BYTES) + SNAKEMAKE_BYTES
        memory_mb, minutes = memory / 1e6, BEGINNING_MINUTES + SLOWER * plan.seconds / 60
        disk, scratch = plan.disk_bytes, plan.scratch_bytes
    except ProtomerError as error:
        memory_mb, minutes, disk, scratch = UNPLANNED_MB, UNPLANNED_MINUTES, 0, 0
        print(f"{step.name}: it cannot be planned ({error}); it asks for {memory_mb} MB and {minutes} minutes", file=sys.stderr)
    given = step.resources
    is_short = 0 < given.memory_mb < memory_mb
    return Needs(math.ceil(more * (given.memory_mb or memory_mb)), math.ceil(more * (given.minutes or minutes)), math.ceil(disk / 1e6),
                 math.ceil(ranks * scratch / 1e6) if is_short else 0)


def plan_of(step: Step, threads: int) -> Plan:
    """The plan of a step's job on its inputs, which must exist: the numbers of --dry-run. Raises FileNotFoundError and ProtomerError."""
    stamps = []
    for path in step.paths:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        stamps.append((str(path.absolute()), path.stat().st_mtime_ns))
    return _plan(_Hashable(step), threads, tuple(stamps))


class _Hashable:
    """A step as a key of a cache: two with the same command line are the same."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._key = (step.resources.ranks, *step.arguments())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self._key == other._key


@functools.lru_cache(maxsize=256)
def _plan(wanted: _Hashable, threads: int, stamps: tuple[tuple[str, int], ...]) -> Plan:
    """Snakemake asks for each resource by itself, and again before it submits: tables are read once while they stay as they are."""
    step = wanted.step
    given = {name: [str(path or "none") for path in paths] for name, paths in step.files.items()}
    plan: Plan = importlib.import_module(step.job.entry).plan(
        resolve_inputs(step.job, {**given, **step.texts}), step.job.settings.from_mapping(step.settings), step.resources.ranks, threads)
    return plan
