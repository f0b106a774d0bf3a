"""Before a chain starts: disks that refuse, other runs in its folder, what killed runs left, and profiles that SLURM would refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from protomer.config.chain import Chain, parse_chain
from protomer.errors import InputError
from protomer.running import locks
from protomer.running.chain_start import enter_chain, prepare_chain_folder, queued_jobs
from protomer.running.cluster_check import check_profile, mpi_library
from protomer.running.locks import CHAIN_LOCK, RUN_LOCK, Holder, Lock, holder_of, read_holder, take_lock
from refinement_runs import PROJECT, environment
from test_job_run import count
from test_ranks import COUNTING


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """One job."""
    return parse_chain({"jobs": {"truth": {"job": "simulate"}}}, tmp_path)


@pytest.mark.parametrize("place", ["/proc/protomer", "/sys/protomer"])
def test_a_chain_for_a_read_only_disk_is_refused_before_anything_starts(place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        prepare_chain_folder(Path(place))
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"jobs": {"truth": {"job": "simulate"}}}))
    done = subprocess.run([sys.executable, "-m", "protomer", "run", str(tmp_path / "chain.yaml"), "--folder", place], env=environment(),
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "choose another --folder" in done.stderr and "Building DAG" not in done.stdout + done.stderr


def test_a_second_run_of_a_chain_in_the_same_folder_is_refused_and_names_the_first(chain: Chain, tmp_path: Path) -> None:
    first = enter_chain(tmp_path, chain, False)
    with pytest.raises(InputError, match=rf"another `protomer run` is at work there \(process {os.getpid()} on"):
        enter_chain(tmp_path, chain, False)
    first.release()
    enter_chain(tmp_path, chain, False).release()


def test_a_job_that_a_killed_run_left_at_work_is_named_with_how_to_stop_it(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    lock = tmp_path / ".snakemake/locks/0.output.lock"  # of the run that was killed
    lock.parent.mkdir(parents=True)
    lock.write_text("truth/map.mrc")
    (tmp_path / CHAIN_LOCK).write_text(json.dumps(asdict(Holder.here())))
    orphan = take_lock(tmp_path / "truth" / RUN_LOCK)
    assert isinstance(orphan, Lock)
    with pytest.raises(InputError, match=rf"truth: process {os.getpid()} on .*; `kill {os.getpid()}` on"):
        enter_chain(tmp_path, chain, False)
    assert holder_of(tmp_path / CHAIN_LOCK) is None and lock.exists()
    orphan.release()
    enter_chain(tmp_path, chain, False).release()
    assert not lock.exists()


def test_the_lock_of_a_snakemake_killed_here_is_removed_and_one_of_another_machine_is_explained(chain: Chain, tmp_path: Path) -> None:
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    for holder, is_here in ((Holder.here(), True), (replace(Holder.here(), host="elsewhere"), False)):
        lock.write_text("truth/map.mrc")
        (tmp_path / CHAIN_LOCK).write_text(json.dumps(asdict(holder)))
        if is_here:
            enter_chain(tmp_path, chain, False).release()
        else:
            with pytest.raises(InputError, match=r"process \d+ on elsewhere.*did not end in order") as error:
                enter_chain(tmp_path, chain, False)
            assert "-- --unlock" in error.value.remedy
            enter_chain(tmp_path, chain, True).release()
        assert lock.exists() is not is_here


def test_a_folder_is_held_through_the_program_that_replaces_the_process_but_not_by_its_children(tmp_path: Path) -> None:
    code = ("import os, sys; from protomer.running.locks import take_lock; from pathlib import Path; "
            "take_lock(Path(sys.argv[1])).keep_through_exec(); os.execv(sys.executable, [sys.executable, '-c', sys.argv[2]])")
    then = "import subprocess, time; subprocess.Popen(['sleep', '20']); print('up', flush=True); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock"), then], env=environment(), stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    found = holder_of(tmp_path / "lock")
    process.kill()
    process.wait()
    assert found is not None and found.process == process.pid and holder_of(tmp_path / "lock") is None
    assert read_holder(tmp_path / "lock") == found


def test_a_second_process_in_the_folder_of_a_run_is_refused_and_a_killed_one_leaves_it_free(tmp_path: Path,
                                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.3)
    numbers, out = tmp_path / "numbers.txt", tmp_path / "out"
    numbers.write_text("1\n2\n")
    words = [*COUNTING, "--numbers", str(numbers), "--output", str(out), "--steps", "400", "--pause", "0.1"]
    process = subprocess.Popen(words, env={**environment(), "PYTHONPATH": f"{environment()['PYTHONPATH']}{os.pathsep}{PROJECT / 'tests'}"},
                               stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (out / "checkpoint.h5").exists():
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.02)
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(InputError, match=rf"is in use: process {process.pid} on") as error:
            count(numbers, out, {"steps": 400, "pause": 0.1}, resume=True)
        assert f"`kill {process.pid}`" in error.value.remedy and RUN_LOCK in before
        with pytest.raises(InputError, match="is in use"):
            count(numbers, out, overwrite=True)
    finally:
        process.kill()
        process.wait()
    (out / "settings.yaml").write_text((out / "settings.yaml").read_text().replace("pause: 0.1", "pause: 0.0"))
    (out / "checkpoint.h5").unlink()
    assert count(numbers, out, {"steps": 400}, resume=True)["sum"] == 1200 and not (out / RUN_LOCK).exists()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that answer as a SLURM without a default partition does."""
    queue = ("17|rule_refined|PENDING|{tmp_path}", "18|rule_other|RUNNING|/elsewhere", "19||RUNNING|{tmp_path}")
    answers = {"sinfo": "echo normal; echo gpu", "srun": "printf 'MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n\\tpmix\\n'",
               "sbatch": "exit 1", "squeue": "; ".join(f"echo '{line.format(tmp_path=tmp_path)}'" for line in queue)}
    for name, answer in answers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def profile(folder: Path, *resources: str) -> Path:
    """The shipped profile, with more default resources."""
    content = yaml.safe_load((PROJECT / "cluster/slurm/config.yaml").read_text())
    content["default-resources"] += resources
    (folder / "profile").mkdir(exist_ok=True)
    (folder / "profile/config.yaml").write_text(yaml.safe_dump(content))
    return folder / "profile"


def test_a_profile_without_a_partition_where_slurm_has_no_default_is_refused(site: Path) -> None:
    with pytest.raises(InputError, match="names no partition, and this SLURM has no default"):
        check_profile(profile(site), False)
    check_profile(profile(site, "slurm_partition=gpu"), False)
    with pytest.raises(InputError, match="slurm_partition=nomal") as error:
        check_profile(profile(site, "slurm_partition=nomal"), False)
    assert "did you mean 'normal'" in error.value.remedy
    (site / "sinfo").write_text("#!/bin/sh\necho 'normal*'\n")
    check_profile(profile(site), False)


def test_a_launcher_with_a_pmi_that_slurm_or_the_mpi_library_does_not_have_is_refused(site: Path) -> None:
    if not mpi_library().startswith("MPICH"):
        pytest.skip(f"the MPI library here is {mpi_library()}")
    wrong = profile(site, "slurm_partition=gpu", "launcher='srun --mpi=pmix'")
    check_profile(wrong, False)
    with pytest.raises(InputError, match="every rank would believe that it is alone"):
        check_profile(wrong, True)
    with pytest.raises(InputError, match="no such type"):
        check_profile(profile(site, "slurm_partition=gpu", "launcher='srun --mpi=pmi7'"), True)
    check_profile(profile(site, "slurm_partition=gpu"), True)


def test_default_resources_of_another_form_and_a_machine_without_slurm_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("executor: slurm\ndefault-resources: [nonsense]\n")
    with pytest.raises(InputError, match="name=value"):
        check_profile(tmp_path, False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch"):
        check_profile(PROJECT / "cluster/slurm", False)
    check_profile(PROJECT / "cluster/local", True)


def test_jobs_that_a_killed_run_left_in_slurms_queue_are_named(site: Path, chain: Chain) -> None:
    assert queued_jobs(site) == [("17", "refined", "PENDING")]
    with pytest.raises(InputError, match="refined: SLURM job 17, pending; `scancel 17` stops it"):
        enter_chain(site, chain, False)
