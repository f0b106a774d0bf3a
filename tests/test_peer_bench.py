"""The comparison with RELION goes on where RELION is absent or fails, and says why."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks/relion.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("relion_bench", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "relion_bench", module)
    spec.loader.exec_module(module)
    return module


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """A PATH with these shell scripts alone."""
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def prepared(folder: Path) -> Path:
    (folder / "simulated").mkdir()
    for name in ("particles.star", "start.mrc", "particles.mrcs"):
        (folder / "simulated" / name).write_text("")
    return folder


MPIRUN = """[ "$1" = --version ] && { echo "mpirun (Open MPI) 4.1.4"; exit 0; }
while [ "$1" != cost_ ]; do shift; done; shift; exec "$@" """


def test_where_relion_is_absent_the_reason_is_said(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, mpirun=MPIRUN)
    with pytest.raises(bench.PeerFailure, match="relion_refine_mpi is not on the PATH"):
        bench.relion_version()


def test_another_mpi_than_relions_is_not_used(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, relion_refine_mpi="exit 0", mpirun="echo HYDRA")
    with pytest.raises(bench.PeerFailure, match="Open MPI's mpirun is not on the PATH"):
        bench.relion_version()


def test_a_relion_that_fails_is_quoted(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepared(tmp_path)
    programs(tmp_path, monkeypatch, mpirun=MPIRUN, relion_refine_mpi='echo "ERROR: the reference has no size" >&2; exit 3')
    with pytest.raises(bench.PeerFailure, match=r"ended with 3; its last words:\n    ERROR: the reference has no size"):
        bench.by_relion(folder, bench.relion_words(64, 3.5, 2, False), 60.0)


def test_a_relion_that_takes_too_long_is_stopped(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepared(tmp_path)
    programs(tmp_path, monkeypatch, mpirun=MPIRUN, relion_refine_mpi="exec /bin/sleep 60")
    with pytest.raises(bench.PeerFailure, match=r"was stopped after .* minutes, at iteration 0"):
        bench.by_relion(folder, bench.relion_words(64, 3.5, 2, False), 0.5)


def test_accelerated_code_is_used_where_relion_has_it(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    help_text = 'case "$1" in --version) echo "RELION version: 5.0";; *) echo " --cpu (false) : Use accelerated code";; esac'
    programs(tmp_path, monkeypatch, mpirun=MPIRUN, relion_refine_mpi="exit 0", relion_refine=help_text)
    assert "accelerated CPU code" in bench.relion_version() and "no --cpu" not in bench.relion_version()
    assert bench.relion_words(64, 3.5, 2, True)[-1] == "--cpu"
