"""Damaged files for the readers, and a guard around each reading: no other error than ours, no hang, no memory on a header's word."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from protomer.errors import InputError

TIMES = float(os.environ.get("PROTOMER_FUZZ_TIMES", "1"))  # above 1: that many times the examples, other ones each time
SPARE_BYTES = 256 * 2**20  # address space that a reader of a file of some kilobytes may take
LONGEST_S = 10  # of CPU time: other work on the machine does not count
LONGEST_MESSAGE = 6000
WORDS = (
    tuple(np.array(v, t).tobytes() for t in ("<i4", ">i4") for v in (0, 1, -1, 2**31 - 1, -(2**31), 65536, 1 << 20))
    + tuple(np.array(v, t).tobytes() for t in ("<f4", "<f8") for v in (np.nan, np.inf, -1.0, 1e38))
    + tuple(np.array(v, "<u8").tobytes() for v in (2**63, 2**64 - 1, 2**40))
)


class Hang(BaseException):
    """A reader took too long."""


_happened: list[str] = []


def _listen(event: str, _: tuple[object, ...]) -> None:
    """What no reader may do."""
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        _happened.append(event)


sys.addaudithook(_listen)


def bounded(examples: int) -> settings:
    """Hypothesis settings: the same examples each time, unless more are asked for."""
    return settings(
        max_examples=max(1, round(examples * TIMES)),
        derandomize=TIMES <= 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def require_read_or_refused(reader: Callable[[Path], object], path: Path) -> bool:
    """Whether the file was read. Fails unless it was, or was refused by an InputError that names it, in bounded time and memory."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"{LONGEST_S} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, stop)
    _happened.clear()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (in_use + SPARE_BYTES, limits[1]))
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
        return True
    except InputError as error:
        assert str(path.parent) in str(error) and len(str(error)) < LONGEST_MESSAGE, str(error)[:LONGEST_MESSAGE]
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)
        assert not _happened


def _edit(data: bytes, edit: tuple[str, int, bytes]) -> bytes:
    kind, place, piece = edit
    at = place % (len(data) + 1)
    if kind == "cut":
        return data[:at]
    if kind == "remove":
        return data[:at] + data[at + len(piece) :]
    if kind == "repeat":
        return data[:at] + data[at : at + 64] * (len(piece) + 1) + data[at + 64 :]
    return data[:at] + piece + data[at if kind == "insert" else at + len(piece) :]


def damaged(whole: bytes, hot: int | None = None) -> st.SearchStrategy[bytes]:
    """The bytes of a file with up to four edits, half of them within the first `hot` bytes, numbers of headers at multiples of four."""
    end = len(whole)
    places = st.one_of(
        st.integers(0, end), st.integers(0, min(hot or end, end)), st.integers(0, min(hot or end, end) // 4).map(lambda n: 4 * n)
    )
    pieces = st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=12))
    kinds = st.sampled_from(("replace", "replace", "replace", "insert", "remove", "cut", "repeat"))
    edits = st.lists(st.tuples(kinds, places, pieces), min_size=1, max_size=4)

    def apply(listed: list[tuple[str, int, bytes]]) -> bytes:
        data = whole
        for edit in listed:
            data = _edit(data, edit)
        return data

    return edits.map(apply)


#: words that a text file may hold where another was
ODD_WORDS = st.one_of(
    st.sampled_from(
        (
            "",
            "nan",
            "inf",
            "-inf",
            "-1",
            "0",
            "1e400",
            "-1e400",
            "1e-400",
            "9" * 30,
            "9" * 5000,
            "0x10",
            "1_000",
            "None",
            "\x00",
            "'",
            '"',
            ";",
            "loop_",
            "data_",
            "_rln",
            "#",
            "\u200b",
            "\ud7ff",
            "\N{ARABIC-INDIC DIGIT ONE}",
            "[1,2",
            "[]",
            "[,]",
            "[nan]",
            "a" * 100_000,
            "@",
            "1@",
            "@x",
            "0@x",
            "99999999999@x",
            "../" * 50 + "etc/passwd",
            "~",
            "1 2",
            "\t",
            "\r",
            "save_",
            "stop_",
            "global_",
        )
    ),
    st.text(max_size=8),
)


FOLDER = tempfile.TemporaryDirectory(prefix="fuzz")
HERE = Path(FOLDER.name)


def written(name: str, write: Callable[[Path], Any]) -> bytes:
    """The bytes of a sound file."""
    write(HERE / name)
    return (HERE / name).read_bytes()


def check(name: str, data: bytes, *readers: Callable[[Path], object], beside: Mapping[str, bytes] | None = None) -> int:
    """Write the bytes to a file of that name, with sound files beside it, and let each reader have it; how many could read it."""
    folder = HERE / "damaged"
    folder.mkdir(exist_ok=True)
    for other, sound in (beside or {}).items():
        (folder / other).write_bytes(sound)
    (folder / name).write_bytes(data)
    return sum([require_read_or_refused(reader, folder / name) for reader in readers])
