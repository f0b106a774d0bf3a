"""A small chain whose Snakemake is killed while a job is at work goes on to the bits of the undisturbed one (benchmarks/kills.py)."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from refinement_runs import PROJECT, environment

ONE = {"threads": 1}
SMALL = {"dataset": {"star": "simulated", "resources": ONE}, "jobs": {
    "simulated": {"job": "simulate", "settings": {"number": 150, "box": 48, "pixel_size": "4.7A"}, "resources": ONE},
    "shape": {"job": "mask", "volume": "simulated/map.mrc", "resources": ONE}}}


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, with a small chain."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("kills_bench", PROJECT / "benchmarks/kills.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kills_bench", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CHAIN", SMALL)
    monkeypatch.setattr(module, "MOMENTS", (0.3, 0.6))
    return module


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_chain_whose_snakemake_is_killed_at_work_ends_in_the_same_bits(kills: ModuleType, monkeypatch: pytest.MonkeyPatch,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kills, "KILLS", (("snakemake", signal.SIGKILL),))
    monkeypatch.setattr(sys, "argv", ["kills.py", "--kills", "1"])
    assert kills.main() == 0
    said = capsys.readouterr().out
    assert "| SIGKILL | snakemake |" in said and "1 of 1 kills, in 1 chains, ended in the same bits" in said


def test_a_file_cut_short_is_found_and_whole_ones_are_not(kills: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job/summary.json").write_text('{"status": "do')
    (tmp_path / "job/.partial-1-map.mrc").write_bytes(b"half")
    (tmp_path / "job/settings.json").write_text("{}")
    assert [Path(line.partition(":")[0]).name for line in kills.broken_files(tmp_path)] == ["summary.json"]
    (tmp_path / "job/volume.h5").write_bytes(os.urandom(100))
    assert len(kills.broken_files(tmp_path)) == 2
