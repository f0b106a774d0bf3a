"""What killed ranks left in a node's shared memory goes; what living or starting ones use stays."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from protomer.running.shared_memory import clear_left_shared_memory


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Memory that was made long ago."""
    path = tmp_path / "mpich_shm_1a2b3c_0"
    path.write_bytes(bytes(4096))
    os.utime(path, (1e9, 1e9))
    return path


def test_memory_of_dead_ranks_is_removed(left: Path) -> None:
    assert clear_left_shared_memory(left.parent) == [left]
    assert not left.exists()


def test_memory_that_a_process_has_mapped_stays(left: Path) -> None:
    with left.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert clear_left_shared_memory(left.parent) == []
    assert clear_left_shared_memory(left.parent) == [left]


def test_young_memory_and_that_of_other_programs_stays(left: Path) -> None:
    os.utime(left)
    other = left.with_name("psm_4711")
    other.write_bytes(bytes(16))
    os.utime(other, (1e9, 1e9))
    assert clear_left_shared_memory(left.parent) == []
    assert left.exists() and other.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_memory_of_another_user_stays(left: Path) -> None:
    os.chown(left, 12345, 12345)
    assert clear_left_shared_memory(left.parent) == []
