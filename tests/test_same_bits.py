"""The kernels give the same bits in the process that compiled them, in one that loads them, and on any number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
CLEARED = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "OMP_NUM_THREADS")


def run_kernels(cache: Path, threads: int) -> dict:
    """What tests/kernel_digests.py prints in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in CLEARED}
    environment |= {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(str(PROJECT / part) for part in ("pipeline", "kernels"))}
    command = [sys.executable, str(PROJECT / "tests" / "kernel_digests.py"), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first_and_later(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, dict]:
    """A process that compiles, one that loads what it compiled, and one that loads it and shares it among two threads."""
    cache = tmp_path_factory.mktemp("numba")
    return run_kernels(cache, 1), run_kernels(cache, 1), run_kernels(cache, 2)


@pytest.mark.slow
def test_a_kernel_from_the_cache_has_the_bits_of_the_one_just_compiled(first_and_later: tuple[dict, dict, dict]) -> None:
    compiling, loading, _ = first_and_later
    assert compiling["compiled"] == loading["loaded"] == 7 and compiling["loaded"] == loading["compiled"] == 0
    assert loading["bits"] == compiling["bits"] and len(set(compiling["bits"].values())) == 7


def test_two_threads_give_the_bits_of_one(first_and_later: tuple[dict, dict, dict]) -> None:
    compiling, _, sharing = first_and_later
    assert sharing["bits"] == compiling["bits"]
