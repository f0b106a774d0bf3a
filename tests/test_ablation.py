"""The ablation changes what it says it changes, and scores it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from refinement_runs import environment, simulate_and_import

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """ablation.py, which imports others of its folder, and starts processes that find this checkout."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    for name in ("ablation", "variants", "hard_cases", "accuracy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("ablation")


def test_every_variant_but_the_full_engine_sets_something_that_exists_to_another_value(benchmark: ModuleType) -> None:
    from protomer.declarations.refine import RefineSettings

    assert len({v.name for v in benchmark.VARIANTS}) == len(benchmark.VARIANTS)
    for variant in benchmark.VARIANTS:
        assert bool(variant.settings or variant.constants or variant.device) == (variant.name != benchmark.FULL)
        for name, value in variant.constants.items():
            home, _, constant = name.rpartition(".")
            assert getattr(importlib.import_module(f"protomer.{home}"), constant) != value, name
        for setting in variant.settings:
            assert setting.partition("=")[0] in RefineSettings.fields()


def test_a_constant_is_set_wherever_the_engine_has_imported_it() -> None:
    """In a process of its own: constants stay set."""
    code = "import variants; variants.set_constants({'engine.alignment.MODES': 7}); " \
        "from protomer.engine import alignment, expectation; print(alignment.MODES, expectation.PoseTable.empty(3).weight.shape)"
    paths = {**environment(), "PYTHONPATH": f"{FOLDER}:{environment()['PYTHONPATH']}"}
    assert subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True).stdout == "7 (3, 7)\n"


@pytest.mark.slow
def test_a_variant_is_run_and_scored_beside_the_full_engine(benchmark: ModuleType, tmp_path: Path) -> None:
    folder, case = simulate_and_import(tmp_path, 64, 0.5), benchmark.Case("tiny", 64, 48, 4.7, 0.5, 40.0, False)
    once = benchmark.measure(next(v for v in benchmark.VARIANTS if v.name == "search-once"), case, 0, folder, 1)
    assert once.searches == 1.0 and once.iterations > 1  # the full engine searches more often than once
    assert once.lost < 0.1 and once.median_deg < 4.0 and once.cpu_s > 0.0 and once.shells_true > 6
    lines = benchmark.table("tiny", [replace(once, variant=benchmark.FULL, lost=0.125), replace(once, lost=0.25)])
    assert len(lines) == 4 and lines[2].startswith("| full |") and lines[3].endswith("| 25.0 | +12.5 |")
