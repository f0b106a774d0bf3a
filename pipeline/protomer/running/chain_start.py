"""Before a chain starts: its folder can be written, nobody else runs it there, and what a killed run left behind is told or tidied up."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from protomer.config.chain import Chain
from protomer.errors import InputError
from protomer.running.locks import CHAIN_LOCK, RUN_LOCK, Holder, Lock, holder_of, take_lock
from protomer.running.output import storage_message

SNAKEMAKE_LOCKS = Path(".snakemake/locks")


def prepare_chain_folder(folder: Path) -> None:
    """Make the folder of a chain and try to write there. Raises InputError where the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--folder {folder}: {storage_message(folder / 'summary.json', error).partition(chr(10))[0]}",
                         "a folder in which the jobs can write", "choose another --folder, on a disk that is not read-only") from error


def enter_chain(folder: Path, chain: Chain, may_unlock: bool) -> Lock:
    """Hold the folder of a chain, which exists, for this process and the Snakemake that replaces it.

    Raises InputError where another run is at work there, or jobs that a killed run left behind still are: two of one kind would spoil
    each other's files. A lock of Snakemake that such a run left is removed where it is sure that it is dead.
    """
    found = take_lock(folder / CHAIN_LOCK)
    if isinstance(found, Holder):
        raise InputError(f"{folder} is in use: another `protomer run` is at work there ({found.describe()})",
                         "one run of a chain in a folder",
                         f"wait for it; or stop it, which cancels its jobs, with `kill -INT {found.process}` on {found.host}; or choose "
                         "another --folder")
    try:
        refuse_orphans(folder, chain)
        clear_stale_locks(folder, found.before, may_unlock)
    except InputError:
        found.give_back()
        raise
    return found


def refuse_orphans(folder: Path, chain: Chain) -> None:
    """Raises InputError where jobs of this chain are at work, or wait in SLURM's queue, though no run of it is there."""
    working = {step.name: holder_of(folder / step.name / RUN_LOCK) for step in chain.steps}
    orphans = [f"{name}: {holder.describe()}; {holder.how_to_stop()} stops it" for name, holder in working.items() if holder is not None]
    orphans += [f"{name}: SLURM job {number}, {state.lower()}; `scancel {number}` stops it" for number, name, state in queued_jobs(folder)
                if working.get(name) is None]
    if orphans:
        raise InputError("jobs of a run that was killed are still there\n    " + "\n    ".join(orphans),
                         "a chain without jobs of an earlier run",
                         "wait until they have ended, which keeps their work, or stop them; then give the same command again")


def queued_jobs(folder: Path) -> list[tuple[str, str, str]]:
    """SLURM's jobs that Snakemake submitted from a folder: number, step, state. None where there is no SLURM, or it does not answer."""
    if shutil.which("squeue") is None:
        return []
    try:
        said = subprocess.run(["squeue", "--noheader", "--me", "--format=%A|%k|%T|%Z"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    jobs = [line.split("|", 3) for line in said.stdout.splitlines() if line.count("|") >= 3]
    here = str(folder.resolve())
    return [(number, comment.removeprefix("rule_"), state) for number, comment, state, place in jobs
            if comment.startswith("rule_") and str(Path(place).resolve()) == here]


def clear_stale_locks(folder: Path, before: Holder | None, may_unlock: bool) -> None:
    """Remove the locks of a Snakemake that was killed on this machine; InputError where it may be alive on another one."""
    locks = folder / SNAKEMAKE_LOCKS
    if may_unlock or not locks.is_dir() or not any(locks.iterdir()):
        return
    if before is None or before.host != socket.gethostname():
        who = "Snakemake" if before is None else f"a run of {before.describe()}"
        raise InputError(f"{folder} is locked by {who} that did not end in order", "no other run of this chain",
                         "make sure that it is no longer there; then give the same command with ` -- --unlock`, and once more without")
    for lock in locks.iterdir():
        lock.unlink()
    print(f"the last run in {folder} ({before.describe()}) was killed; its lock is removed, and the chain goes on where it stopped")
