"""Ranks that wait in vain for one that never comes up; and which GPU a rank takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from protomer.errors import InputError, SettingsError
from protomer.running import devices
from protomer.running.devices import SHARERS, bind_device, place_on_node
from protomer.running.start_watch import PATIENCE_NAME, patience_of, watching_start
from refinement_runs import environment
from test_ranks import MPIEXEC

LATE = """
import os, sys, time
if os.environ["PMI_RANK"] == "1":
    time.sleep(30)
    sys.exit(3)
from protomer.running.ranks import open_team
open_team()
"""


def test_ranks_that_wait_for_one_that_never_comes_end_in_time_and_say_what_to_do() -> None:
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed beside this Python")
    started = time.monotonic()
    result = subprocess.run([str(MPIEXEC), "-n", "3", sys.executable, "-c", LATE], env={**environment(), PATIENCE_NAME: "2"},
                            capture_output=True, text=True, timeout=120)
    assert result.returncode != 0 and time.monotonic() - started < 25
    assert "the 2 other ranks were not all up after 2 s" in result.stderr and "look in the log of the launcher" in result.stderr


def test_ranks_that_come_up_late_but_in_time_are_waited_for_and_the_watch_ends() -> None:
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed beside this Python")
    code = LATE.replace("time.sleep(30)\n    sys.exit(3)", "time.sleep(1)").replace("open_team()\n", "") + """
team = open_team()
assert team.size == 2
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    os.write(1, b"no child left\\n")
"""
    result = subprocess.run([str(MPIEXEC), "-n", "2", sys.executable, "-c", code], env={**environment(), PATIENCE_NAME: "60"},
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout.count("no child left") == 2, result.stderr


def test_a_start_that_fails_ends_the_watch_too() -> None:
    with pytest.raises(RuntimeError), watching_start(0, 2, {PATIENCE_NAME: "60"}):
        raise RuntimeError("no MPI here")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=PATIENCE_NAME):
        patience_of({PATIENCE_NAME: text})


def test_each_rank_takes_the_gpu_of_its_number_on_the_node() -> None:
    taken = []
    for rank in range(2):
        seen = {"CUDA_VISIBLE_DEVICES": "4,7", "MPI_LOCALRANKID": str(rank), "MPI_LOCALNRANKS": "2"}
        taken.append((bind_device(seen), seen["CUDA_VISIBLE_DEVICES"]))
    assert taken == [("4", "4"), ("7", "7")]


def test_more_ranks_than_gpus_on_a_node_are_refused() -> None:
    seen = {"CUDA_VISIBLE_DEVICES": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    with pytest.raises(InputError, match="2 ranks on a node where 1 GPU"):
        bind_device(seen)
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"


def test_ranks_that_may_share_gpus_take_them_evenly_and_know_how_many_they_are() -> None:
    taken = []
    for rank in range(5):
        seen = {"CUDA_VISIBLE_DEVICES": "4,7", "MPI_LOCALRANKID": str(rank), "MPI_LOCALNRANKS": "5"}
        taken.append((bind_device(seen, may_share=True), seen[SHARERS]))
    assert taken == [("4", "3")] * 3 + [("7", "2")] * 2
    seen = {"CUDA_VISIBLE_DEVICES": "4,7,9", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
    assert (bind_device(seen, may_share=True), seen[SHARERS]) == ("7", "1")


def test_gpus_that_slurm_gave_to_each_rank_stay_with_it_though_all_see_the_same_number() -> None:
    seen = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    assert bind_device(seen) == "0"


def test_without_gpus_nothing_is_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "absent")  # type: ignore[operator]
    assert bind_device({}) is None and bind_device({"CUDA_VISIBLE_DEVICES": ""}) is None
    assert bind_device({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}) is None


@pytest.mark.parametrize(("node", "local", "place"), [("0", "2", (2, 3)), ("1", "0", (0, 3)), ("2", "0", (0, 1))])
def test_slurm_says_how_many_ranks_share_a_node(node: str, local: str, place: tuple[int, int]) -> None:
    assert place_on_node({"SLURM_LOCALID": local, "SLURM_NODEID": node, "SLURM_STEP_TASKS_PER_NODE": "3(x2),1"}) == place
    assert place_on_node({}) == (0, 1)
