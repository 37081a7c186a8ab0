"""Work that waits for a storage, done ahead by a few threads and handed on in order, with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Step: TypeAlias = "Callable[[], list[Part]]"
"""A part of a search that is not done yet: it returns the parts that it is made of, in order."""
Part: TypeAlias = "list[Any] | Step"
"""What was found, or a step that finds it."""


def search(first: Step, *, threads: int, ahead: int) -> Iterator[list[Any]]:
    """Yield what a search finds, in order; later steps are done while earlier ones are waited for.

    Args:
        first: the step to begin with.
        threads: steps that are done at once.
        ahead: parts that may lie ready or be under way behind the first.

    Raises:
        Exception: a step raised it.
    """
    line: list[Part | Future[list[Part]]] = [first]
    with threads_ahead(threads) as pool:
        while line:
            line = [part for slot in line for part in _known(slot) if part != []]
            _begin(line, pool, threads, ahead)
            if line and isinstance(found := line[0], list):
                del line[0]
                yield found
            elif line:
                wait([slot for slot in line if isinstance(slot, Future)], return_when=FIRST_COMPLETED)


def _known(slot: "Part | Future[list[Part]]") -> "list[Part | Future[list[Part]]]":
    """Return what stands in a place of the line by now: of a step that is done, its parts."""
    return [*slot.result()] if isinstance(slot, Future) and slot.done() else [slot]


def _begin(line: "list[Part | Future[list[Part]]]", pool: ThreadPoolExecutor, threads: int, ahead: int) -> None:
    """Begin the next steps in the line; the first one in any case, so that there always is something to wait for."""
    running = sum(isinstance(slot, Future) for slot in line)
    room = ahead - running - sum(isinstance(slot, list) for slot in line)
    for place, slot in enumerate(line):
        if running == threads or (place and room <= 0):
            return
        if callable(slot):
            line[place] = pool.submit(slot)
            running, room = running + 1, room - 1


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


@contextmanager
def threads_ahead(count: int) -> Iterator[ThreadPoolExecutor]:
    """Hold some threads. Once nobody waits for their work any more, what they have not begun is left undone."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="ahead")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
