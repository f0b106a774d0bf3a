"""A second run of a job finds every kernel compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refinement_runs import environment, protomer, refine_words

#: runs `protomer WORDS` for each of the commands given, one after another, and says how many functions Numba compiled during each
COUNTING = """
import json, sys
from protomer.environment import prepare_environment
prepare_environment(1)
from numba.core import event
from protomer.command_line import invoke, jobs
for words in json.loads(sys.argv[1]):
    sys.argv = ["protomer", *words, "--threads", "1"]
    with event.install_recorder("numba:compile") as compiled:
        code = invoke(jobs, "protomer")
    if code:
        sys.exit(code)
    print("COMPILED", words[0], sum(e.is_start for _, e in compiled.buffer))
"""


def compilations(commands: list[list[object]]) -> dict[str, int]:
    """How many functions each job compiled, all run in one new process: what is not in the cache the first job that needs it compiles."""
    words = json.dumps([list(map(str, command)) for command in commands])
    done = subprocess.run([sys.executable, "-c", COUNTING, words], env=environment(), capture_output=True, text=True, check=False,
                          timeout=280)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = {}
    for line in done.stdout.splitlines():
        if line.startswith("COMPILED "):
            _, name, number = line.split()
            counts[name] = counts.get(name, 0) + int(number)
    return counts


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every job, once."""
    folder = tmp_path_factory.mktemp("first")
    for words in commands(folder, ""):
        protomer(*words)
    return folder


def commands(folder: Path, run: str) -> list[list[object]]:
    """A command for every job that computes; those of a later run take the first one's files."""
    sets = [word for pair in ("number=40", "box=32", "pixel_size=7", "snr=0.5") for word in ("--set", pair)]
    names = ("simulated", "imported", "refined", "reconstructed", "postprocessed", "mask", "turned", "part", "subtracted", "found",
             "copies", "states", "aligned", "chosen", "joined", "resolved", "views", "abinitio", "ctf", "moves", "fibre", "segments",
             "helix")
    output = {name: folder / f"{name}{run}" for name in names}
    return [["simulate", "--output", output["simulated"], *sets],
            ["import", "--star", folder / "simulated/particles.star", "--output", output["imported"]],
            ["ab-initio", "--particles", folder / "imported", "--set", "final_resolution=20A", "--set", "starts=1", "--output",
             output["abinitio"]],
            refine_words(folder, output["refined"]),
            ["reconstruct", "--particles", folder / "refined", "--output", output["reconstructed"]],
            ["postprocess", "--volume", folder / "refined", "--output", output["postprocessed"]],
            ["local-resolution", "--volume", folder / "refined", "--output", output["resolved"]],
            ["ctf-refine", "--particles", folder / "refined", "--volume", folder / "refined", "--output", output["ctf"], "--set",
             "min_resolution=70A", "--set", "max_resolution=16A", "--set", "fewest_images=10", "--set", "magnification=on"],
            ["simulate", "--model", "5ni1", "--output", output["fibre"], *sets, "--set", "helical_twist=100", "--set", "helical_rise=18",
             "--set", "symmetry_radius=40", "--set", "filament_segments=2"],
            ["import", "--star", folder / "fibre/particles.star", "--set", "split_by=filament", "--output", output["segments"]],
            ["helical-refine", "--particles", folder / "segments", "--volume", folder / "fibre/start.mrc", "--set", "helical_twist=99",
             "--set", "helical_rise=18", "--output", output["helix"]],
            ["orientations", "--particles", folder / "refined", "--volume", folder / "refined", "--output", output["views"]],
            ["mask", "--volume", folder / "refined", "--set", "asymmetric_unit=C2", "--output", output["mask"]],
            ["volume", "--volume", folder / "refined", "--set", "rotate=0,0,1,20", "--set", "resample=9A", "--output", output["turned"]],
            ["mask", "--volume", folder / "refined", "--set", "sphere=80A", "--set", "centre=22,16,16", "--output", output["part"]],
            ["subtract", "--particles", folder / "refined", "--volume", folder / "reconstructed", "--mask", folder / "part", "--set",
             "recentre=on", "--output", output["subtracted"]],
            ["symmetry-find", "--volume", folder / "refined", "--particles", folder / "refined", "--symmetry", "C2", "--set", "force=true",
             "--output", output["found"]],
            ["symmetry-expand", "--particles", folder / "refined", "--symmetry", "C2", "--output", output["copies"]],
            ["variability", "--particles", folder / "copies", "--set", "modes=1", "--set", "iterations=2", "--set", "frames=2", "--set",
             "filter_resolution=20A", "--output", output["moves"]],
            ["classify-fixed", "--particles", folder / "copies", "--set", "epochs=1", "--set", "class_change=1", "--set", "final_passes=0",
             "--output", output["states"]],
            ["align-maps", "--reference", folder / "refined", "--volume", folder / "reconstructed", "--output", output["aligned"]],
            ["select", "--particles", folder / "copies", "--reference", folder / "copies", "--set", "max_rotation_change=1deg", "--set",
             "copy=0", "--output", output["chosen"]],
            ["join", "--particles", folder / "chosen", "--particles", folder / "chosen/rest.h5", "--output", output["joined"]]]


def test_a_second_run_of_a_job_compiles_nothing(finished: Path) -> None:
    again = commands(finished, "_again")
    assert compilations(again) == {str(words[0]): 0 for words in again}


def test_a_run_with_an_empty_cache_is_seen_to_compile(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", os.fspath(tmp_path))
    assert compilations([["reconstruct", "--particles", finished / "refined", "--output", tmp_path / "reconstructed"]])["reconstruct"] > 0
