"""Prefetching: requests to a storage run ahead in a few threads, and their results come in order and bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Step: TypeAlias = "Callable[[], list[Part]]"
"""One request of a search, not yet made. It returns its results and the steps that follow from it, in order."""
Part: TypeAlias = "list[Any] | Step"
"""Results, or a step that yields results."""
_Slot: TypeAlias = "Part | Future[list[Part]]"
"""A place in the queue of a search: results, a step that waits for a thread, or the future of a running step."""


def search(first: Step, *, threads: int, ahead: int) -> Iterator[list[Any]]:
    """Run steps in threads, and yield their results in order.

    A queue holds the parts of the search in the order of their results. When a step finishes, its parts take its place
    in the queue. The results at the front of the queue are yielded.

    Args:
        first: the first step.
        threads: number of concurrent steps.
        ahead: number of results and running steps that the queue may hold behind its front.

    Raises:
        Exception: any exception of a step.
    """
    queue: list[_Slot] = [first]
    with threads_ahead(threads) as pool:
        while queue:
            queue = [part for slot in queue for part in _expanded(slot) if part != []]
            _submit_steps(queue, pool, threads, ahead)
            if queue and isinstance(results := queue[0], list):
                del queue[0]
                yield results
            elif queue:
                wait([slot for slot in queue if isinstance(slot, Future)], return_when=FIRST_COMPLETED)


def _expanded(slot: _Slot) -> list[_Slot]:
    """Return the parts of a finished step, or the slot itself."""
    return [*slot.result()] if isinstance(slot, Future) and slot.done() else [slot]


def _submit_steps(queue: list[_Slot], pool: ThreadPoolExecutor, threads: int, ahead: int) -> None:
    """Submit the next steps of the queue. A step at the front is submitted without regard to `ahead`."""
    running = sum(isinstance(slot, Future) for slot in queue)
    room = ahead - running - sum(isinstance(slot, list) for slot in queue)
    for place, slot in enumerate(queue):
        if running == threads or (place and room <= 0):
            return
        if callable(slot):
            queue[place] = pool.submit(slot)
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
    """Map in threads, in order, and with bounded memory: limits apply to the results that are not yet taken.

    Args:
        pool: the threads.
        function: the function to map. An exception is raised in place of its result, and cancels the items that have
            not started.
        items: the items. At most one more is taken than the limits allow.
        count: number of results that may be running or waiting, 1 or more.
        size: returns the bytes of an item; None sets no limit on bytes.
        total: bytes of the items that may be running or waiting. A larger item runs alone.
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
    """Yield a thread pool. At the end, cancel the calls that have not started, and do not wait for the others."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="ahead")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
