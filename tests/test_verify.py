"""verify --rerun and --commands, chains, provenance.json, and protomer.lock."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from protomer.command_line import job_command
from protomer.declarations.lock import JOB as LOCK
from protomer.declarations.verify import JOB as VERIFY
from protomer.errors import InputError
from protomer.formats.mrc import write_volume
from protomer.jobs.run import check_environment
from protomer.maps.volumes import Volume
from protomer.running.environment_lock import environment_now, lock_differences, read_lock, write_lock
from protomer.running.file_differences import differing
from refinement_runs import environment, protomer


def verify(*words: object) -> int:
    code: int = job_command(VERIFY).main(list(map(str, words)), standalone_mode=False)
    return code


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain that has run: particles made and imported, and a mask."""
    folder = tmp_path_factory.mktemp("chain")
    entry = {"job": "simulate", "settings": {"number": 6, "box": 24, "pixel_size": "9A"}}
    jobs = {"truth": entry, "shape": {"job": "mask", "volume": "truth/map.mrc", "settings": {"sphere": "90A"}}}
    (folder / "chain.yaml").write_text(yaml.safe_dump({"dataset": {"star": "truth"}, "jobs": jobs}))
    command = [sys.executable, "-m", "protomer", "run", "chain.yaml", "--folder", "out", "--cores", "1"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_a_chain_leaves_its_report_and_one_file_that_names_its_steps_and_what_they_read_and_wrote(chain: Path) -> None:
    assert "3 of 3" in (chain / "chain_report.html").read_text()
    document = json.loads((chain / "provenance.json").read_text())
    assert yaml.safe_load(document["chain"]["text"])["jobs"]["shape"]["job"] == "mask"
    steps = document["steps"]
    assert list(steps) == ["truth", "dataset", "shape"] and steps["shape"]["parents"] == ["truth"]
    made = json.loads((chain / "truth/summary.json").read_text())["outputs"]["map.mrc"]["sha256"]
    assert steps["shape"]["inputs"]["volume"]["sha256"] == steps["truth"]["outputs"]["map.mrc"]["sha256"] == made
    assert steps["shape"]["settings"]["sphere"] == 90.0 and document["environment"]["packages"]["numpy"] == np.__version__


def test_the_printed_commands_make_the_same_bits_in_another_folder(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(chain, "--commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == shlex.join(["cd", str(chain)]) and [line.split()[1] for line in lines[1:]] == ["simulate", "import", "mask"]
    for line in (lines[1], lines[3]):
        subprocess.run([sys.executable, "-m", *shlex.split(line)], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    for name in ("truth/particles.mrcs", "truth/map.mrc", "shape/mask.mrc"):
        assert (tmp_path / name).read_bytes() == (chain / name).read_bytes()


def test_a_chain_computed_again_gives_the_same_bits(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(chain, "--rerun", "--scratch", tmp_path) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert said.count("computed again it gives the same bits") == 3 and not list(tmp_path.iterdir())


def test_an_output_that_its_records_agree_with_but_that_is_computed_otherwise_is_found_and_named(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = tmp_path / "shape"
    protomer("mask", "--volume", chain / "truth/map.mrc", "--set", "sphere=90A", "--output", forged)
    path = forged / "mask.mrc"
    data = np.fromfile(path, np.float32, offset=1024)
    data[100] += 0.25
    path.write_bytes(path.read_bytes()[:1024] + data.tobytes())
    assert verify(forged) == 1
    assert "another SHA-256" in capsys.readouterr().out
    summary = json.loads((forged / "summary.json").read_text())
    summary["outputs"]["mask.mrc"]["sha256"] = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    summary["fraction_of_box"] = 0.5
    (forged / "summary.json").write_text(json.dumps(summary))
    assert verify(forged) == 0
    capsys.readouterr()
    assert verify(forged, "--rerun") == 1
    said = capsys.readouterr().out
    assert f"output mask.mrc computed again: voxels: 1 of {24**3} values differ, by up to 0.25" in said
    assert "summary fraction_of_box: 0.5 there" in said


def test_differences_are_named_by_column_voxel_and_line_and_the_folders_own_names_are_none(tmp_path: Path) -> None:
    one, other = (tmp_path / name / "x" for name in ("one", "another"))
    for folder in (one, other):
        folder.mkdir(parents=True)
        with h5py.File(folder / "p.h5", "w") as file:
            file["shift"] = np.arange(6.0)
            file["stacks/mtime_ns"] = [len(str(folder))]
            file["stacks/path"] = [str(folder / "a.mrcs")]
            file.attrs["kind"] = "particles"
        (folder / "t.star").write_text(f"data_\n{folder}/a.mrcs 1\n")
    assert differing(one / "p.h5", other / "p.h5") == [] and differing(one / "t.star", other / "t.star") == []
    with h5py.File(other / "p.h5", "a") as file:
        file["shift"][2] = 5.0
        file["extra"] = [1]
        file.attrs["kind"] = "others"
    found = differing(one / "p.h5", other / "p.h5")
    assert found == ["@kind: 'particles' there, 'others' now", "extra: only now",
                     "shift: 1 of 6 values differ, by up to 3 where the largest is 5"]
    (other / "t.star").write_text("data_\nelsewhere/a.mrcs 1\n")
    assert "the first of them line 2" in differing(one / "t.star", other / "t.star")[0]
    for folder, box in ((one, 8), (other, 10)):
        write_volume(folder / "map.mrc", Volume(np.zeros((box,) * 3, np.float32), 1.0))
    assert "(8, 8, 8)" in differing(one / "map.mrc", other / "map.mrc")[0]


def test_a_chain_whose_step_was_computed_anew_or_whose_file_was_changed_is_told(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = (chain / "provenance.json").read_text()
    text = (chain.parent / "chain.yaml").read_text()
    try:
        changed = json.loads(document)
        changed["steps"]["shape"]["outputs"]["mask.mrc"]["sha256"] = "0" * 64
        changed["environment"]["packages"]["numpy"] = "1.0"
        (chain / "provenance.json").write_text(json.dumps(changed))
        (chain.parent / "chain.yaml").write_text(text + "# changed\n")
        assert verify(chain) == 1
        said = capsys.readouterr().out
        assert "shape was computed again" in said and "was changed since the chain ran" in said
        assert "note: the environment was another: packages.numpy: '1.0' then" in said
    finally:
        (chain / "provenance.json").write_text(document)
        (chain.parent / "chain.yaml").write_text(text)


def test_a_lock_holds_the_environment_and_every_difference_is_told(tmp_path: Path) -> None:
    path = tmp_path / "protomer.lock"
    write_lock(path)
    locked, now = read_lock(path), environment_now()
    assert lock_differences(locked, now) == [] and locked["packages"]["numpy"] == np.__version__
    assert locked["machine"]["cpu"] and "MPICH" in locked["mpi"]
    locked["packages"]["numba"], locked["machine"]["threads"], locked["protomer"]["commit"] = "0.1", 999, "another"
    found = lock_differences(locked, now)
    assert len(found) == 2 and found[0].startswith("packages.numba: '0.1' in the lock, ") and found[1].startswith("machine.threads: 999")


def test_a_chain_beside_a_lock_of_another_environment_is_refused_unless_that_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain_file, path = tmp_path / "chain.yaml", tmp_path / "protomer.lock"
    check_environment(chain_file, False)
    assert job_command(LOCK).main([str(path)], standalone_mode=False) == 0
    assert job_command(LOCK).main([str(path), "--check"], standalone_mode=False) == 0
    check_environment(chain_file, False)
    path.write_text(path.read_text().replace(np.__version__, "1.0.0"))
    assert job_command(LOCK).main([str(path), "--check"], standalone_mode=False) == 1
    with pytest.raises(InputError, match="allow-other-environment"):
        check_environment(chain_file, False)
    assert "packages.numpy: '1.0.0' in the lock" in capsys.readouterr().err
    check_environment(chain_file, True)
    path.write_text("protomer: 1\n")
    with pytest.raises(InputError, match="has no python"):
        check_environment(chain_file, True)
