"""Reading the next while one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def read_ahead(items: Sequence[T], read: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Each item with what is read of it, the next being read while the caller works on one."""
    with ThreadPoolExecutor(1, "images") as pool:
        coming = pool.submit(read, items[0]) if len(items) else None
        for at, item in enumerate(items):
            assert coming is not None
            found = coming.result()
            coming = pool.submit(read, items[at + 1]) if at + 1 < len(items) else None
            yield item, found
