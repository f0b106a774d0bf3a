"""A watchdog for the start of MPI: ranks that wait for one that never comes up are ended, with a word on what to do.

While MPI starts it holds Python's lock and hears no Python code, neither threads nor signal handlers; so the watch is a process of its
own. It is forked before anything heavy is imported, and ends with the start, or with its parent.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from protomer.errors import SettingsError

PATIENCE_NAME, PATIENCE_S = "PROTOMER_START_TIMEOUT_S", 300.0


@contextmanager
def watching_start(rank: int, expected: int | None, environment: Mapping[str, str]) -> Iterator[None]:
    """Terminate this process (SIGTERM), having said why on stderr, where the block has not ended in time. expected: ranks started."""
    patience_s = patience_of(environment)
    reading, writing = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        os.close(writing)
        if not select.select([reading], [], [], patience_s)[0]:
            os.write(2, describe_wait(rank, expected, patience_s).encode())
            os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(watcher, 0)


def patience_of(environment: Mapping[str, str]) -> float:
    """Seconds that all ranks may take to come up, as the environment says. Raises SettingsError where that is no positive number."""
    text = environment.get(PATIENCE_NAME, str(PATIENCE_S))
    try:
        patience_s = float(text)
    except ValueError:
        patience_s = 0.0
    if not 0 < patience_s < 1e6:
        raise SettingsError(f"{PATIENCE_NAME}={text}", "a number of seconds above 0", f"unset it: {PATIENCE_S:.0f} s are waited then")
    return patience_s


def describe_wait(rank: int, expected: int | None, patience_s: float) -> str:
    """What a rank says that waited in vain."""
    others = f"{expected - 1} other" if expected else "other"
    return (f"protomer: rank {rank}: the {others} ranks were not all up after {patience_s:.0f} s, and MPI starts with all or none\n"
            f"  expected: every rank that the launcher started to come up and find the others\n"
            f"  what to do: look in the log of the launcher for a rank that failed before this; check that each node can start "
            f"`protomer --version`, and that --mpi of srun is what mpi4py's library speaks; where nodes are only slow to begin, raise "
            f"{PATIENCE_NAME}; then give the same command with --resume\n")
