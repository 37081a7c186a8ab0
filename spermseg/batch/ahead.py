"""Mapping in threads, ahead of whoever takes the results, in order, and bounded in number and in bytes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    count: int,
    size: Callable[[Item], int] | None = None,
    total: int = 0,
) -> Iterator[Result]:
    """Map in threads, in order. No more is begun than the bounds allow before it is taken: memory is bounded.

    Args:
        pool: the threads.
        function: what to do; what it raises is raised where its result would come, and what is not begun is dropped.
        items: taken as far ahead as the bounds allow, and one more.
        count: results that may be under way or waiting at a time, 1 or more.
        size: bytes of an item; None leaves the bytes out.
        total: bytes that may be under way or waiting at a time. An item that is larger is alone.
    """
    running: deque[tuple[int, Future[Result]]] = deque()
    held = 0
    try:
        for item in items:
            more = size(item) if size else 0
            while running and (len(running) >= count or held + more > total):
                less, done = running.popleft()
                yield done.result()
                held -= less
            running.append((more, pool.submit(function, item)))
            held += more
        while running:
            yield running.popleft()[1].result()
    finally:
        for _, future in running:
            future.cancel()
