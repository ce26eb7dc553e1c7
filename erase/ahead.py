"""Work done in threads ahead of the one who uses it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
IN_ADVANCE = 2  # items for each thread


def ahead(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    threads: int,
    depth: int | None = None,
    start: Callable[[], None] | None = None,
) -> Generator[tuple[Item, Made], None, None]:
    """``(item, make(item))`` in order, made in ``threads`` threads, at most ``depth`` items in advance.

    ``start`` is called by each thread before its first item.
    """
    depth = IN_ADVANCE * threads if depth is None else depth
    pool = ThreadPoolExecutor(threads, initializer=start)
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > depth:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
