"""What the steps of a chain ask of a batch system: the plan of --dry-run, more at each attempt, and nothing guessed for files to come."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from protomer.config.chain import Step, StepResources, parse_chain
from protomer.formats.mrc import write_volume
from protomer.maps.volumes import Volume
from protomer.running import step_needs
from protomer.running.job_run import Plan, plan_job
from protomer.running.step_needs import COMPILING_BYTES, SNAKEMAKE_BYTES, SPARE, UNPLANNED_MB, needs_of, plan_of
from refinement_runs import PROJECT, environment


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A map of 40 voxels."""
    write_volume(tmp_path / "map.mrc", Volume(np.ones((40, 40, 40), np.float32), 2.0))
    return tmp_path / "map.mrc"


def mask_step(folder: Path, **resources: Any) -> Step:
    """The step of a chain that masks a map."""
    step = parse_chain({"jobs": {"shape": {"job": "mask", "volume": "map.mrc"}}}, folder).steps[0]
    return replace(step, resources=StepResources.from_mapping(resources))


def test_a_step_asks_for_what_dry_run_says_with_room_to_spare(volume: Path) -> None:
    step = mask_step(volume.parent)
    planned = plan_job(step.job, {"volume": str(volume)}, {}, 1, 2)
    needs = needs_of(step, 2)
    assert plan_of(step, 2) == planned
    assert needs.memory_mb == pytest.approx((SPARE * planned.memory_bytes + COMPILING_BYTES + SNAKEMAKE_BYTES) / 1e6, abs=1)
    assert needs.disk_mb == pytest.approx(planned.disk_bytes / 1e6, abs=1) and 10 <= needs.minutes <= 12 and needs.scratch_mb == 0


def test_each_attempt_asks_for_half_as_much_again_also_of_what_the_chain_says(volume: Path) -> None:
    planned = [needs_of(mask_step(volume.parent), 1, attempt).memory_mb for attempt in (1, 2, 3)]
    assert planned[1] == pytest.approx(1.5 * planned[0], abs=1) and planned[2] == pytest.approx(2 * planned[0], abs=1)
    said = [needs_of(mask_step(volume.parent, memory_mb=3000, minutes=40), 1, attempt) for attempt in (1, 2)]
    assert [(n.memory_mb, n.minutes) for n in said] == [(3000, 40), (4500, 60)]


def test_all_ranks_together_are_asked_for_and_scratch_only_where_memory_is_short(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_needs, "plan_of", lambda step, threads: Plan(1_000_000_000, 0, 60, scratch_bytes=700_000_000))
    four = needs_of(mask_step(volume.parent, ranks=4), 1)
    assert four.memory_mb == 4 * (1200 + 250) + 400 and four.scratch_mb == 0 and four.minutes == 13
    assert needs_of(mask_step(volume.parent, ranks=4, memory_mb=2000), 1).scratch_mb == 2800


def test_an_input_that_is_to_come_is_named_so_that_snakemake_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chain = parse_chain({"jobs": {"truth": {"job": "simulate"}, "shape": {"job": "mask", "volume": "truth/map.mrc"}}}, tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        needs_of(chain.steps[1], 1)
    assert error.value.filename == "truth/map.mrc"


def test_a_step_that_cannot_be_planned_says_so_and_asks_for_the_usual(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume.write_bytes(b"no map")
    assert needs_of(mask_step(volume.parent), 1).memory_mb == UNPLANNED_MB
    said = capsys.readouterr().err
    assert "shape: it cannot be planned" in said and "map.mrc" in said


def test_a_plan_is_made_once_for_files_that_stay_as_they_are(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protomer.jobs import mask
    made: list[int] = []
    monkeypatch.setattr(mask, "plan", lambda *words: made.append(1) or Plan(1, 1, 1))
    step = mask_step(volume.parent)
    assert [needs_of(step, 1, attempt).disk_mb for attempt in (1, 2)] == [1, 1] and len(made) == 1
    volume.touch()
    needs_of(step, 1)
    assert len(made) == 2


def test_snakemake_shows_the_resources_of_steps_whose_inputs_exist(volume: Path) -> None:
    jobs = {"shape": {"job": "mask", "volume": "map.mrc", "resources": {"threads": 1}},
            "turned": {"job": "volume", "volume": "shape/mask.mrc"}}
    (volume.parent / "chain.yaml").write_text(yaml.safe_dump({"jobs": jobs}))
    result = subprocess.run([sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "workflow/Snakefile"), "--cores", "2",
                             "--dry-run"], cwd=volume.parent, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    assert f"mem_mb={needs_of(mask_step(volume.parent), 1).memory_mb}" in said and "mem_mb=<TBD>" in said
