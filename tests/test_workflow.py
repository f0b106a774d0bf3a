"""Chains: what is refused before anything starts, how names reach the shell, and one real chain through Snakemake."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from protomer.config.chain import Chain, parse_chain, read_chain
from protomer.errors import InputError, SettingsError
from protomer.jobs.run import describe_chain, find_profile, find_shipped, snakemake_command

PROJECT = Path(__file__).resolve().parent.parent
SMALL = {"job": "simulate", "settings": {"number": 12, "box": 32, "pixel_size": "7A"}, "resources": {"threads": 1}}


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment in which child processes find the packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT / "pipeline"), str(PROJECT / "kernels")])}


def names(chain: Chain) -> list[str]:
    return [step.name for step in chain.steps]


def test_steps_come_in_the_order_in_which_they_need_each_other_and_declare_the_files_that_others_read(tmp_path: Path) -> None:
    chain = parse_chain({"dataset": {"star": "truth", "pixel_size": "7A"},
                         "jobs": {"shape": {"job": "mask", "volume": "truth/map.mrc", "settings": {"soft_edge": "12A"}}, "truth": SMALL}},
                        tmp_path)
    assert names(chain).index("truth") < min(names(chain).index("dataset"), names(chain).index("shape"))
    assert set(map(str, chain.outputs["truth"])) == {"truth/summary.json", "truth/particles.star", "truth/map.mrc"}
    dataset = next(step for step in chain.steps if step.name == "dataset")
    assert dataset.arguments() == ["import", "--output", "dataset", "--star", "truth/particles.star", "--set", "pixel_size=7A"]


def test_the_demo_chain_is_a_chain() -> None:
    assert names(read_chain(PROJECT / "workflow" / "demo.yaml")) == ["simulated", "dataset", "consensus"]


@pytest.mark.parametrize(("jobs", "words"), [
    ({"a b": SMALL}, "the job name 'a b'"), ({"a;rm": SMALL}, "the job name"), ({"../up": SMALL}, "the job name"),
    ({"$(x)": SMALL}, "the job name"),
    ({"logs": SMALL}, "the job name 'logs'"), ({"all": SMALL}, "the job name 'all'"),
    ({"dataset": SMALL}, "the job name"), ({3: SMALL}, "the job name 3"),
    ({"x": {"job": "simulat"}}, "did you mean 'simulate'"), ({"x": {"particles": "y"}}, "has no `job`"),
    ({"x": "simulate"}, "x is 'simulate'"),
    ({"x": {"job": "verify", "folder": "y"}}, "verify in a chain"), ({}, "jobs"),
    ({"x": {**SMALL, "settings": {"nmber": 3}}}, "did you mean 'number'"), ({"x": {**SMALL, "nmber": 3}}, "did you mean 'number'"),
    ({"x": {**SMALL, "settings": {"number": "3A"}}}, "x: setting number"), ({"x": {**SMALL, "resources": {"ranks": 0}}}, "at least 1"),
    ({"x": {**SMALL, "resources": {"knots": 2}}}, "unknown setting 'knots'"), ({"x": {**SMALL, "settings": 3}}, "settings"),
    ({"x": {**SMALL, "symmetry": "Q2"}}, "x: unknown point group 'Q2'"),
    ({"x": {**SMALL, "resources": {"ranks": 2}}}, "simulate on 2 ranks"),
    ({"x": {**SMALL, "resources": {"gpus": 1}}}, "simulate on GPUs"), ({"x": {**SMALL, "resources": {"gpus": 2}}}, "at most 1"),
    ({"x": {"job": "mask", "volume": "truht"}, "truth": SMALL}, "did you mean 'truth'"),
    ({"x": {"job": "mask", "volume": "x"}}, "a file of another job"),
    ({"x": {"job": "mask", "volume": "y/../../etc"}, "y": SMALL}, "another job"),
    ({"x": {"job": "mask", "volume": "y"}, "y": {"job": "mask", "volume": "x"}}, "wait for one another"),
    ({"x": {"job": "mask", "volume": "odd{x}.mrc"}}, "without { and }"), ({"x": {"job": "postprocess"}}, "was given no volume")])
def test_a_chain_that_cannot_work_is_refused_before_anything_starts(jobs: dict[Any, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        parse_chain({"jobs": jobs}, tmp_path)
    assert words in str(error.value)


def test_a_step_that_asks_for_gpus_computes_on_them(tmp_path: Path) -> None:
    (tmp_path / "particles.h5").write_text("")
    entry = {"job": "refine", "particles": "particles.h5", "volume": "particles.h5"}
    for gpus, asked in ((0, False), (1, True)):
        [step] = parse_chain({"jobs": {"x": {**entry, "resources": {"gpus": gpus}}}}, tmp_path).steps
        assert (" --backend cuda " in " ".join(step.arguments())) is asked


def test_a_chain_file_with_code_or_a_repeated_name_is_refused(tmp_path: Path) -> None:
    for text in ("__use_yte__: true\njobs: {x: {job: simulate}}", "jobs: !!python/object/apply:os.system ['true']",
                 "jobs: {x: {job: simulate}, x: {job: simulate}}"):
        (tmp_path / "chain.yaml").write_text(text)
        with pytest.raises(InputError):
            read_chain(tmp_path / "chain.yaml")


def test_an_impossible_setting_in_a_chain_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "particles.h5").write_text("")
    entry = {"job": "reconstruct", "particles": "particles.h5", "settings": {"ewald_sign": "2"}}
    with pytest.raises(SettingsError, match="ewald_sign"):
        parse_chain({"jobs": {"one": entry}}, tmp_path)


def test_profiles_and_the_snakefile_are_found_and_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    assert find_shipped("workflow/Snakefile").is_file() and find_profile("slurm").name == "slurm"
    (tmp_path / "config.yaml").write_text("jobs: 1")
    assert find_profile(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="no such profile"):
        find_profile("pbs")
    with pytest.raises(InputError, match="complete installation"):
        find_shipped("workflow/absent")
    local, slurm = (snakemake_command(Path("c.yaml"), tmp_path, name, 4) for name in ("local", "slurm"))
    assert local[-4:] == ["--cores", "4", "--resources", "slots=4"] and "--cores" not in slurm


def test_the_plan_estimates_what_can_be_known_before_anything_ran(tmp_path: Path) -> None:
    chain = parse_chain({"jobs": {"truth": SMALL, "data": {"job": "import", "star": "truth"}}}, tmp_path)
    said = describe_chain(chain, Path("chain.yaml"), 2).splitlines()
    assert "GB on each of 1 rank(s)" in said[1] and said[2] == "  data: import from truth/particles.star"


def test_a_chain_with_odd_names_runs_through_snakemake_once_and_only_once(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "odd; touch hacked"
    folder.mkdir()
    (folder / "chain.yaml").write_text(yaml.safe_dump({"dataset": {"star": "truth"}, "jobs": {"truth": SMALL}}))
    command = [sys.executable, "-m", "protomer", "run", str(folder / "chain.yaml"), "--folder", str(folder / "$(touch hacked) 'out")]
    first = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0, first.stdout + first.stderr
    made = folder / "$(touch hacked) 'out"
    assert json.loads((made / "dataset" / "summary.json").read_text())["status"] == "done"
    assert "import: done" in (made / "logs" / "dataset.log").read_text()
    again = subprocess.run([*command, "--", "--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr
    assert not list(tmp_path.rglob("hacked"))


def test_the_words_of_a_chain_are_quoted_one_by_one_in_the_shell(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "$(touch hacked) 'x.star").write_text("")
    entry = {"job": "import", "star": "$(touch hacked) 'x.star", "settings": {}, "resources": {"ranks": 1, "threads": 1, "memory_mb": 100}}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"jobs": {"data": entry}}))
    result = subprocess.run([sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "workflow" / "Snakefile"), "--cores", "1",
                             "--dry-run", "--printshellcmds"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert shlex.quote(str(tmp_path / "$(touch hacked) 'x.star")) in result.stdout + result.stderr
    assert not list(tmp_path.rglob("hacked"))
