"""Ranks: sums and gathers on real MPI processes, launchers that disagree, one rank that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from protomer.errors import InputError
from protomer.running import ranks
from protomer.running.batches import share_of_batches
from protomer.running.ranks import Team, launched_rank, launched_size

TESTS = Path(__file__).resolve().parent
MPIEXEC = Path(sys.executable).with_name("mpiexec")
COUNTING = [sys.executable, str(TESTS / "counting_job.py")]


@pytest.fixture
def environment() -> dict[str, str]:
    """An environment in which child processes find the packages and the counting job."""
    roots = [str(TESTS.parent / "pipeline"), str(TESTS.parent / "kernels"), str(TESTS)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("\n".join(str(n) for n in range(11)))
    return path


def on_ranks(number: int, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command on ranks; skips where there is no mpiexec."""
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed beside this Python")
    return subprocess.run([str(MPIEXEC), "-n", str(number), *command], env=environment, capture_output=True, text=True, timeout=200)


def test_without_a_launcher_a_team_is_one_process_and_mpi_is_never_imported(environment: dict[str, str]) -> None:
    code = "import sys; from protomer.running.ranks import open_team; assert open_team().size == 1; assert 'mpi4py' not in sys.modules"
    bare = {name: value for name, value in environment.items() if not name.startswith(("PMI", "PMIX", "OMPI", "SLURM"))}
    subprocess.run([sys.executable, "-c", code], env=bare, check=True)


def test_one_process_adds_gathers_and_broadcasts_to_itself() -> None:
    team, rows = Team(), np.arange(6).reshape(3, 2)
    assert np.array_equal(team.total(rows), rows) and team.total(rows) is not rows
    assert np.array_equal(team.gather_rows(rows), rows) and np.array_equal(team.largest(rows), rows)
    assert team.broadcast("x") == "x" and team.any(True) and not team.any(False)
    assert team.on_first(lambda: 3) == 3 and team.cpus() >= 1


CHECK = """
import numpy as np
from protomer.running import ranks
from protomer.errors import InputError
ranks.CHUNK = 7                                     # so that a small array needs several chunks
team = ranks.open_team()
assert team.size == 3
big = np.arange(40, dtype=np.int64).reshape(5, 8) * (team.rank + 1) + 2**60 * (team.rank == 0)
assert np.array_equal(team.total(big), np.arange(40).reshape(5, 8) * 6 + 2**60)
assert np.array_equal(team.largest(np.array([team.rank, -team.rank])), [2, 0])
own = np.full((team.rank * 2, 2), team.rank, np.float32)      # rank 0 has no rows
assert np.array_equal(team.gather_rows(own)[:, 1], [1, 1, 2, 2, 2, 2])
assert team.gather_rows(np.full(1, f"m{team.rank}", object)).tolist() == ["m0", "m1", "m2"]
assert team.gather_rows(np.zeros((0, 3))).shape == (0, 3)
assert team.broadcast({"rank": team.rank}) == {"rank": 0}
assert team.any(team.rank == 2) and not team.any(False)
def bad():
    raise InputError("bad", "good", "mend")
try:
    team.on_first(bad)
except InputError as error:
    assert error.found == "bad"
else:
    raise AssertionError("no error")
team.barrier()
import os
os.write(1, f"well {team.rank}\\n".encode())             # whole lines, though ranks share one output
"""


def test_three_ranks_add_gather_and_share_errors(environment: dict[str, str]) -> None:
    result = on_ranks(3, [sys.executable, "-c", CHECK], environment)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split("\n")) == ["", "well 0", "well 1", "well 2"]


@pytest.mark.parametrize(("batches", "ranks"), [(7, 3), (2, 4), (0, 2), (64, 1)])
def test_the_ranks_shares_of_the_batches_follow_one_another_and_leave_none_out(batches: int, ranks: int) -> None:
    shares = [share_of_batches(batches, rank, ranks) for rank in range(ranks)]
    assert [number for share in shares for number in share] == list(range(batches))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


RELAY = """
import os, time
from protomer.running import ranks
team = ranks.open_team()
assert not team.hears(False) and not team.agrees(False)
deadline = time.monotonic() + 20
if team.rank != 1:                              # only rank 1 is asked; the others notice without any of them waiting in a collective
    while not team.hears(False):
        assert time.monotonic() < deadline, "the word did not come"
else:
    assert team.hears(True) and team.hears(True)
assert team.agrees(team.rank == 1)
assert not team.hears(False) and not team.agrees(False)      # nothing is left under way
assert team.hears(True) and team.agrees(False)               # all asked at once, and each told the others
assert not team.hears(False)
assert team.agrees(team.rank == 2)                           # asked too late to tell
os.write(1, f"well {team.rank}\\n".encode())
"""


def test_a_rank_that_is_asked_to_stop_tells_the_others_and_all_agree(environment: dict[str, str]) -> None:
    result = on_ranks(3, [sys.executable, "-c", RELAY], environment)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split("\n")) == ["", "well 0", "well 1", "well 2"]


def test_launchers_are_recognised_by_their_environment() -> None:
    assert launched_size({}) == 1 and launched_rank({}) == 0
    assert launched_size({"PMI_SIZE": "4"}) == 4 and launched_rank({"PMI_RANK": "3"}) == 3
    assert launched_size({"OMPI_COMM_WORLD_SIZE": "2"}) == 2
    assert launched_size({"PMIX_RANK": "1"}) is None
    assert launched_size({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "1", "SLURM_PROCID": "1"}) == 8


def test_a_launcher_whose_ranks_do_not_find_each_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"MPI sees 1 rank\(s\) where the launcher started 4"):
        ranks.open_team()


def test_any_number_of_ranks_gives_the_same_output(tmp_path: Path, numbers: Path, environment: dict[str, str]) -> None:
    digests = []
    for size in (1, 3):
        output = tmp_path / f"out{size}"
        result = on_ranks(size, [*COUNTING, "--numbers", str(numbers), "--output", str(output)], environment)
        assert result.returncode == 0 and result.stdout.count("done") == 1, result.stderr
        digests.append(json.loads((output / "summary.json").read_text())["outputs"]["sum.txt"]["sha256"])
    assert digests[0] == digests[1]


def test_an_input_error_on_all_ranks_is_said_once_and_leaves_nothing(tmp_path: Path, numbers: Path, environment: dict[str, str]) -> None:
    output = tmp_path / "out"
    result = on_ranks(3, [*COUNTING, "--numbers", str(numbers), "--output", str(output), "--trouble", "input"], environment)
    assert result.returncode == 2 and result.stderr.count("a bad number") == 1
    assert not output.exists()


def test_an_input_error_that_rank_0_meets_alone_ends_all_in_order(tmp_path: Path, environment: dict[str, str]) -> None:
    result = on_ranks(3, [*COUNTING, "--numbers", str(tmp_path / "absent"), "--output", str(tmp_path / "out")], environment)
    assert result.returncode == 2 and result.stderr.count("there is no such file") == 1 and "Abort" not in result.stderr


@pytest.mark.parametrize("trouble", ["rank", "kill"])
def test_one_rank_that_fails_or_is_killed_ends_all_and_leaves_no_result(trouble: str, tmp_path: Path, numbers: Path,
                                                                       environment: dict[str, str]) -> None:
    output = tmp_path / "out"
    started = time.monotonic()
    result = on_ranks(3, [*COUNTING, "--numbers", str(numbers), "--output", str(output), "--trouble", trouble], environment)
    assert result.returncode != 0 and time.monotonic() - started < 30
    assert not (output / "summary.json").exists() and not (output / "sum.txt").exists()
    again = on_ranks(2, [*COUNTING, "--numbers", str(numbers), "--output", str(output), "--resume", "--overwrite"], environment)
    assert again.returncode == 0 and (output / "sum.txt").read_text() == "220\n"
    assert not list(output.glob(".partial-*"))


def test_a_signal_to_mpiexec_stops_all_ranks_with_75_and_resume_gives_the_undisturbed_result(tmp_path: Path, numbers: Path,
                                                                                            environment: dict[str, str]) -> None:
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed beside this Python")
    output = tmp_path / "out"
    words = [str(MPIEXEC), "-n", "2", *COUNTING, "--numbers", str(numbers), "--output", str(output), "--steps", "40", "--pause", "0.1"]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_step(output / "log.jsonl")
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert (output / "checkpoint.h5").exists() and not (output / "summary.json").exists()
    again = subprocess.run([*words, "--resume"], env=environment, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert (output / "sum.txt").read_text() == f"{55 * 40}\n"


def wait_for_step(log: Path, timeout_s: float = 20.0) -> None:
    """Wait until a counting job has taken a step."""
    deadline = time.monotonic() + timeout_s
    while not (log.exists() and '"step"' in log.read_text()):
        assert time.monotonic() < deadline, "the job took no step"
        time.sleep(0.02)
