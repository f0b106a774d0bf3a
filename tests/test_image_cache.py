"""The cache of prepared images: what is found, what goes, what never goes, and what happens on a full disk, after a kill, among several."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from protomer.errors import InputError, SettingsError
from protomer.imaging import image_cache, image_memory
from protomer.imaging.image_cache import ImageCache
from protomer.running.events import Events
from refinement_runs import environment

ONE = 8 * 1000  # bytes of an entry


def name_of(number: int) -> str:
    return f"{number:032x}"


def entry(number: int) -> Callable[[], np.ndarray]:
    return lambda: np.full(1000, number, np.complex64)


def never() -> np.ndarray:
    raise AssertionError("made again")


def kept(folder: Path) -> set[int]:
    return {int(path.stem, 16) for path in folder.glob("*.npy") if not path.name.startswith(".")}


class Told:
    """What a cache warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, code: str, text: str) -> None:
        assert code == "image_cache_full"
        self.texts.append(text)


def opened(folder: Path, entries: float | None = None, told: Told | None = None, is_temporary: bool = False) -> ImageCache:
    """A cache with room for so many entries."""
    return ImageCache(folder, None if entries is None else int(entries * (ONE + 260)), told or Told(), is_temporary)


HOLD = """
import sys, time
from pathlib import Path
import numpy as np
from protomer.imaging.image_cache import ImageCache
cache = ImageCache(Path(sys.argv[1]), None, print)
for number in map(int, sys.argv[2:]):
    assert (cache.fetch(f"{number:032x}", 8000, lambda: np.full(1000, number, np.complex64)) == number).all()
print("holding", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that use entries of a cache until they are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, *numbers: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, str(folder), *map(str, numbers)]
        started.append(subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "holding\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_an_entry_is_made_once_and_found_by_later_users(tmp_path: Path) -> None:
    first = opened(tmp_path)
    made = first.fetch(name_of(1), ONE, entry(1))
    assert made is not None and (made == 1).all() and not made.flags.writeable
    for later in (first, opened(tmp_path)):
        found = later.fetch(name_of(1), ONE, never)
        assert found is not None and found.dtype == np.complex64 and (found == 1).all()


def test_what_was_used_longest_ago_goes_first_but_nothing_that_is_in_use(tmp_path: Path) -> None:
    old = opened(tmp_path, 3)
    for number in (1, 2, 3):
        old.fetch(name_of(number), ONE, entry(number))
        os.utime(tmp_path / f"{name_of(number)}.npy", (number, number))
    old.close()
    told = Told()
    cache = opened(tmp_path, 3, told)
    assert cache.fetch(name_of(1), ONE, never) is not None  # the oldest, used again
    cache.fetch(name_of(4), ONE, entry(4))
    assert kept(tmp_path) == {1, 3, 4}
    cache.fetch(name_of(5), ONE, entry(5))
    assert kept(tmp_path) == {1, 4, 5} and not told.texts
    assert cache.fetch(name_of(6), ONE, never) is None and cache.fetch(name_of(7), ONE, never) is None
    assert kept(tmp_path) == {1, 4, 5} and cache.refused == 2
    assert "running jobs use" in told.texts[0]


def test_what_another_living_process_uses_stays_and_goes_once_it_was_killed(
    tmp_path: Path, other_process: Callable[..., subprocess.Popen[str]]
) -> None:
    process = other_process(tmp_path, 1, 2)
    cache = opened(tmp_path, 2.5)
    assert cache.fetch(name_of(3), ONE, never) is None and kept(tmp_path) == {1, 2}
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cache.fetch(name_of(3), ONE, entry(3)) is not None and kept(tmp_path) in ({1, 3}, {2, 3})
    assert len(list(tmp_path.glob(".user-*"))) == 1


def test_two_processes_at_once_make_each_entry_once_and_both_get_the_same(tmp_path: Path) -> None:
    code = HOLD.replace("np.full(1000, number, np.complex64))", "made(number))").replace("cache = ", """
def made(number):
    open(f"{sys.argv[1]}/../made.log", "a").write(f"{number}\\n")
    time.sleep(0.02)
    return np.full(1000, number, np.complex64)
cache = """).replace("time.sleep(60)", "")
    folder = tmp_path / "cache"
    words = [sys.executable, "-c", code, str(folder), *map(str, range(20))]
    both = [subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=100)[1] for process in both] == [""] * 3
    assert sorted(map(int, (tmp_path / "made.log").read_text().split())) == list(range(20)) and kept(folder) == set(range(20))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_share_a_folder_that_both_may_write_to() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o1777)
        share_with_nobody(Path(place))


def share_with_nobody(folder: Path) -> None:
    mine = opened(folder, 3)
    assert all(mine.fetch(name_of(number), ONE, entry(number)) is not None for number in (1, 2))
    child = os.fork()
    if child == 0:  # nobody's process: finds the entry, adds one, and cannot add another
        code = 1
        try:
            os.setuid(65534)
            theirs = opened(folder, 3)
            found, made = theirs.fetch(name_of(1), ONE, never), theirs.fetch(name_of(3), ONE, entry(3))
            is_right = found is not None and (found == 1).all() and made is not None and (made == 3).all()
            code = 0 if is_right and theirs.fetch(name_of(4), ONE, never) is None else 2
            theirs.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert kept(folder) == {1, 2, 3}
    assert mine.fetch(name_of(3), ONE, never) is not None
    mine.close()


def test_a_damaged_or_half_written_entry_is_made_again_and_what_a_dead_process_left_is_cleared(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for number in (1, 2):
        first.fetch(name_of(number), ONE, entry(number))
    first.close()
    whole = (tmp_path / f"{name_of(1)}.npy").read_bytes()
    (tmp_path / f"{name_of(1)}.npy").write_bytes(whole[:300] + b"x" + whole[301:])
    (tmp_path / f"{name_of(2)}.npy").write_bytes(whole[:-1000])
    (tmp_path / f".partial-.user-1-gone-{name_of(9)}").write_bytes(bytes(ONE))
    cache = opened(tmp_path, 2.5)
    for number in (1, 2):
        found = cache.fetch(name_of(number), ONE, entry(number))
        assert found is not None and (found == number).all()
    assert not list(tmp_path.glob(".partial-*"))


def test_an_error_while_an_entry_is_made_leaves_nothing_and_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def broken() -> np.ndarray:
        raise InputError("the image stack is gone", "the stack", "bring it back")

    cache = opened(tmp_path)
    with pytest.raises(InputError, match="stack is gone"):
        cache.fetch(name_of(1), ONE, broken)
    assert not kept(tmp_path) and not list(tmp_path.glob(".partial-*")) and cache.refused == 0
    assert cache.fetch(name_of(1), ONE, entry(1)) is not None


@pytest.mark.parametrize("call", ["posix_fallocate", "replace"])
def test_a_disk_that_fills_up_at_any_moment_is_warned_of_and_the_caller_prepares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = Told()
    cache = opened(tmp_path, None, told)
    with monkeypatch.context() as patch:
        patch.setattr(image_cache.os, call, full)
        assert cache.fetch(name_of(1), ONE, entry(1)) is None
    assert "No space left" in told.texts[0] and not kept(tmp_path) and not list(tmp_path.glob(".partial-*"))
    assert cache.fetch(name_of(1), ONE, entry(1)) is not None  # there is room again


def test_a_real_disk_that_is_full_is_warned_of(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)],
                                           capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        told = Told()
        cache = opened(tmp_path / "cache", None, told)
        results = [cache.fetch(name_of(number), ONE, entry(number)) for number in range(12)]
        stored = [found is not None for found in results]
        assert stored[0] and not stored[-1] and told.texts
        assert all((found == number).all() for number, found in enumerate(results) if found is not None)
        (tmp_path / "filler").write_bytes(bytes(os.statvfs(tmp_path).f_bavail * 4096))
        late = opened(tmp_path / "cache", None, told)
        assert late.fetch(name_of(20), ONE, entry(20)) is None
        cache.close()
        late.close()
    finally:
        del results
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_temporary_cache_goes_with_the_last_who_uses_it(tmp_path: Path) -> None:
    first, second = (opened(tmp_path / "cache", is_temporary=True) for _ in range(2))
    first.fetch(name_of(1), ONE, entry(1))
    first.close()
    assert second.fetch(name_of(1), ONE, never) is not None
    second.close()
    assert not (tmp_path / "cache").exists()
    again = opened(tmp_path / "cache", is_temporary=True)
    assert (tmp_path / "cache").stat().st_mode & 0o77 == 0
    again.close()


def test_a_folder_that_others_could_have_filled_is_not_used_as_one_s_own(tmp_path: Path) -> None:
    usual = image_memory.own_folder(tmp_path)
    usual.mkdir(mode=0o700)
    assert image_memory.own_folder(tmp_path) == usual == tmp_path / f"protomer-images-{os.getuid()}"
    usual.chmod(0o777)
    assert image_memory.own_folder(tmp_path).parent == tmp_path and image_memory.own_folder(tmp_path) != usual
    usual.rmdir()
    usual.symlink_to(tmp_path)
    assert image_memory.own_folder(tmp_path) != usual


def test_a_folder_that_cannot_be_used_and_a_limit_that_is_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        image_memory.image_folder(tmp_path / "file", 1, 1, 1, Events(None))
    assert image_memory.cache_limit_bytes({}) is None and image_memory.cache_limit_bytes({"PROTOMER_CACHE_GB": "0.5"}) == 500_000_000
    for given in ("none", "-1", "nan", "inf", "0"):
        with pytest.raises(SettingsError, match="PROTOMER_CACHE_GB"):
            image_memory.cache_limit_bytes({"PROTOMER_CACHE_GB": given})
