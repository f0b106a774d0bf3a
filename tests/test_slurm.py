"""On a real SLURM: a chain that is preempted in its middle, ranks that die or do not find each other, GPUs, lost nodes.

SLURM is installed and started on this machine, and only where PROTOMER_SLURM_TEST=1 says that it may be.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from refinement_runs import PROJECT, environment, values
from slurm_site import WANTED, WHY_NOT, restarts_of, start_site, state_of, submit, surroundings, wait_until

pytestmark = [pytest.mark.skipif(not WANTED, reason=WHY_NOT), pytest.mark.timeout(900)]
REFINED = {"job": "refine", "particles": "dataset", "volume": "simulated/start.mrc", "resources": {"ranks": 3, "threads": 1, "nodes": 2},
           "settings": {"initial_low_pass": "40A", "rehearse": False}}
CHAIN = {"dataset": {"star": "simulated"},
         "jobs": {"simulated": {"job": "simulate", "settings": {"number": 60, "box": 32, "pixel_size": "7A", "snr": 0.4},
                                "resources": {"threads": 1}}, "refined": REFINED}}
#: the profile that is shipped, but quicker to look, and for this site's partition
QUICK = {"latency-wait": 5, "slurm-init-seconds-before-status-checks": 2, "seconds-between-status-checks": 1}


@pytest.fixture(scope="module", autouse=True)
def site() -> Iterator[None]:
    """SLURM, running."""
    if not WANTED:
        pytest.skip(WHY_NOT)
    stop = start_site()
    yield
    stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain as it runs on this machine, without SLURM, on one rank."""
    folder = tmp_path_factory.mktemp("local")
    one_rank = {**CHAIN, "jobs": {**CHAIN["jobs"], "refined": {**REFINED, "resources": {"threads": 1}}}}
    (folder / "chain.yaml").write_text(yaml.safe_dump(one_rank))
    done = subprocess.run([sys.executable, "-m", "protomer", "run", "chain.yaml"], cwd=folder, env=environment(), capture_output=True,
                          text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def same_bits(one: Path, other: Path) -> None:
    """Maps by their bytes, particles by every value but where and when things were written."""
    names = sorted(path.name for path in one.glob("*.mrc"))
    assert "map.mrc" in names and names == sorted(path.name for path in other.glob("*.mrc"))
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    tables = [values(folder / "particles.h5") for folder in (one, other)]
    assert {name for name in tables[0] if tables[0][name] != tables[1].get(name)} <= {"provenance", "stacks/mtime_ns", "stacks/path"}


def test_a_chain_through_slurm_that_is_preempted_ends_in_the_bits_of_the_local_run(local: Path, tmp_path: Path) -> None:
    jobs = {"refined": {**REFINED, "volume": str(local / "simulated/start.mrc")}}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"dataset": {"star": str(local / "simulated")}, "jobs": jobs}))
    profile = yaml.safe_load((PROJECT / "cluster/slurm/config.yaml").read_text()) | QUICK
    profile["default-resources"] = [*profile["default-resources"], "slurm_partition=main"]
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(profile))
    with (tmp_path / "said.txt").open("w") as said:
        chain = subprocess.Popen([sys.executable, "-m", "protomer", "run", "chain.yaml", "--profile", "profile"], cwd=tmp_path,
                                 env=surroundings(tmp_path), stdout=said, stderr=subprocess.STDOUT)
    try:
        wait_until((tmp_path / "refined/checkpoint.h5").exists, "a checkpoint of the refinement")
        urgent = submit(["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"], tmp_path)
        wait_until(lambda: state_of(urgent) == "COMPLETED", "the job that preempts")
        assert chain.wait(timeout=400) == 0, (tmp_path / "said.txt").read_text()
    finally:
        if chain.poll() is None:
            chain.send_signal(signal.SIGINT)  # Snakemake cancels its jobs
            chain.wait(timeout=100)
    begun = [json.loads(line) for line in (tmp_path / "refined/log.jsonl").read_text().splitlines() if '"begin"' in line]
    assert [event["resumed"] for event in begun] == [False, True] and {event["ranks"] for event in begun} == {3}
    log = (tmp_path / "logs/refined.log").read_text()
    assert "the last attempt" in log and "going on from its last checkpoint" in log and "refine: done" in log
    same_bits(local / "refined", tmp_path / "refined")


def test_an_sbatch_example_asked_to_stop_and_then_robbed_of_its_node_goes_on_to_the_same_bits(local: Path, tmp_path: Path,
                                                                                                request: pytest.FixtureRequest) -> None:
    words = ["--partition=main", "--ntasks=2", "--nodes=2", "--cpus-per-task=1", "--mem-per-cpu=500", "--job-name=example",
             str(PROJECT / "cluster/sbatch/ranks.sh"), "refine", "--particles", str(local / "dataset"), "--volume",
             str(local / "simulated/start.mrc"), "--output", "refined", "--set", "initial_low_pass=40A", "--set", "rehearse=off"]
    job = submit(words, tmp_path)
    request.addfinalizer(lambda: subprocess.run(["scancel", job]) and None)
    checkpoint = tmp_path / "refined/checkpoint.h5"
    wait_until(checkpoint.exists, "a checkpoint")
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    wait_until(lambda: restarts_of(job) == 1 and state_of(job) == "RUNNING", "the job to be requeued and to run again")
    before = checkpoint.stat().st_mtime_ns
    wait_until(lambda: not checkpoint.exists() or checkpoint.stat().st_mtime_ns != before, "another checkpoint")
    subprocess.run(["scontrol", "update", "nodename=n2", "state=down", "reason=test"], check=True)
    try:
        wait_until(lambda: restarts_of(job) == 2 or state_of(job) == "COMPLETED", "the job to be requeued")
    finally:
        subprocess.run(["scontrol", "update", "nodename=n2", "state=resume"])  # refused where the node has come back by itself
    log = tmp_path / f"protomer-{job}.log"
    wait_until(lambda: state_of(job) == "COMPLETED", f"the job to end: {log.read_text()}")
    assert "stopped by a signal; the same command with --resume goes on from the last checkpoint" in log.read_text()
    same_bits(local / "refined", tmp_path / "refined")


PATIENCE_S = 280  # with a step, which on a busy machine waits for others' before its processes start
COUNTING = [sys.executable, str(PROJECT / "tests/counting_job.py"), "--numbers", "numbers.txt", "--output", "out"]


def srun(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """srun, to its end."""
    return subprocess.run(["srun", "--kill-on-bad-exit=1", *words], cwd=folder, env=surroundings(folder), capture_output=True, text=True,
                          timeout=PATIENCE_S)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A folder with numbers to add up."""
    (tmp_path / "numbers.txt").write_text("\n".join(str(n) for n in range(11)))
    return tmp_path


def test_ranks_started_under_the_wrong_pmi_refuse_to_work_each_for_itself(numbers: Path) -> None:
    result = srun(["--mpi=none", "--ntasks=3", *COUNTING], numbers)
    assert result.returncode != 0 and "MPI sees 1 rank(s) where the launcher started 3" in result.stderr
    assert "--mpi=pmi2" in result.stderr and not (numbers / "out").exists()
    assert srun(["--mpi=pmi2", "--ntasks=3", "--nodes=2", *COUNTING], numbers).returncode == 0
    assert (numbers / "out/sum.txt").read_text() == "220\n"


def test_a_rank_that_is_killed_takes_the_others_with_it_and_the_run_goes_on_later(numbers: Path) -> None:
    started = time.monotonic()
    result = srun(["--mpi=pmi2", "--ntasks=4", *COUNTING, "--trouble", "kill"], numbers)
    assert result.returncode != 0 and time.monotonic() - started < PATIENCE_S / 2, result.stderr
    assert not (numbers / "out/summary.json").exists() and (numbers / "out/checkpoint.h5").exists(), result.stdout + result.stderr
    again = srun(["--mpi=pmi2", "--ntasks=2", *COUNTING, "--resume", "--overwrite"], numbers)
    assert again.returncode == 0 and (numbers / "out/sum.txt").read_text() == "220\n"


BIND = "import os; from protomer.running.devices import bind_device; print(os.environ['SLURM_NODEID'], bind_device(os.environ))"


@pytest.mark.parametrize("asked", ["--gpus-per-task=1", "--gpus-per-node=2"])
def test_each_rank_of_a_node_is_bound_to_a_gpu_of_its_own(asked: str, tmp_path: Path) -> None:
    result = srun(["--mpi=none", "--ntasks=4", "--nodes=2", "--ntasks-per-node=2", asked, sys.executable, "-c", BIND], tmp_path)
    assert sorted(result.stdout.split("\n")) == ["", "0 0", "0 1", "1 0", "1 1"], result.stderr


def test_three_ranks_for_the_two_gpus_of_a_node_are_refused(tmp_path: Path) -> None:
    result = srun(["--mpi=none", "--ntasks=3", "--nodes=1", "--gpus-per-node=2", sys.executable, "-c", BIND], tmp_path)
    assert result.returncode != 0 and "3 ranks on a node where 2 GPU(s) may be used" in result.stderr
