"""Small refinements for tests: simulated files, and runs of the command line in this process or in others."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import psutil

from protomer.command_line import exit_code, invoke, jobs

PROJECT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """The environment of a run: this checkout, one thread."""
    paths = [str(PROJECT / "pipeline"), str(PROJECT / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def protomer(*words: object, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `protomer WORDS` in this process, which spares its start, or in processes of their own on several ranks of one thread each: the
    bits are the same."""
    if ranks > 1:
        return protomer_process(*words, ranks=ranks, check=check)
    command = ["protomer", *map(str, words), "--threads", os.environ["NUMBA_NUM_THREADS"]]
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err):
        code = invoke(jobs, "protomer")
    if code == exit_code(KeyboardInterrupt()):
        raise KeyboardInterrupt
    print(*command, out.getvalue(), err.getvalue(), sep="\n")  # shown where the test fails
    result = subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
    if check:
        result.check_returncode()
    return result


def protomer_process(*words: object, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `protomer WORDS` on ranks of one thread each, in processes of their own: for runs that may leave theirs in disorder too."""
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "protomer", *map(str, words), "--threads", "1"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=check, timeout=280)


@contextmanager
def running(words: list[object], output: Path, ranks: int = 1) -> Iterator[subprocess.Popen[str]]:
    """`protomer WORDS --output OUTPUT` on some ranks, running, its first checkpoint written; killed where the test leaves it running."""
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "protomer", *map(str, words), "--threads", "1"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while process.poll() is None and not (output / "checkpoint.h5").exists():
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
        yield process
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            child.kill()


def killed_and_resumed(words: list[object], output: Path) -> None:
    """`protomer WORDS --output OUTPUT`, killed (SIGKILL) once its first checkpoint is written, then resumed to its end."""
    command = [*words, "--output", output]
    with running(command, output) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=200)
    assert not (output / "summary.json").exists()
    protomer(*command, "--resume")


def processes_by_rank(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The Pythons that a running mpiexec has started."""
    found = {}
    for process in psutil.Process(launcher.pid).children(recursive=True):
        rank = process.environ().get("PMI_RANK")
        if rank is not None and "protomer" in process.cmdline():
            found[int(rank)] = process
    return found


def simulate_and_import(
    folder: Path, number: int = 160, snr: float = 0.2, box: int = 48, pixel_size_A: float = 4.7, **settings: object
) -> Path:
    """Simulated images of RNA polymerase II in folder/simulated, imported into folder/imported."""
    design = {"number": number, "box": box, "pixel_size": f"{pixel_size_A}A", "snr": snr, **settings}
    words = [word for name, value in design.items() for word in ("--set", f"{name}={value}")]
    protomer("simulate", "--output", folder / "simulated", *words)
    protomer("import", "--star", folder / "simulated/particles.star", "--output", folder / "imported")
    return folder


def refine_words(folder: Path, output: Path) -> list[object]:
    """The command line of a refinement of simulate_and_import's files."""
    return [
        "refine",
        "--particles",
        folder / "imported",
        "--volume",
        folder / "simulated/start.mrc",
        "--output",
        output,
        "--set",
        "initial_low_pass=40A",
    ]


def values(path: Path) -> dict[str, bytes]:
    """Every dataset of an HDF5 file, as bytes (strings as text)."""
    found: dict[str, bytes] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            data = item[()]
            found[name] = np.asarray(data).tobytes() if not np.asarray(data).dtype.hasobject else repr(np.asarray(data).tolist()).encode()

    with h5py.File(path) as file:
        file.visititems(keep)
    return found
