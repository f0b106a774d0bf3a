"""Reading the next while one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def read_ahead(items: Sequence[T], read: Callable[[T], U], reader: Executor | None = None) -> Iterator[tuple[T, U]]:
    """Each item with what is read of it, the next being read while the caller works on one: on a thread of its own, or by a given reader.

    Nothing is being read any more when it ends, however it does.
    """
    with ThreadPoolExecutor(1, "images") if reader is None else nullcontext(reader) as pool:
        coming = pool.submit(read, items[0]) if len(items) else None
        try:
            for at, item in enumerate(items):
                assert coming is not None
                found = coming.result()
                coming = pool.submit(read, items[at + 1]) if at + 1 < len(items) else None
                yield item, found
        finally:
            wait([coming] if coming is not None else [])
