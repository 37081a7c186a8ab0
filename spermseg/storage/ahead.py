"""Work that waits for a storage, done ahead by a few threads and handed on in order, with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
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
    with _threads(threads) as pool:
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


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """Yield the result for each item, in order; at most `threads` results lie ready or are under way.

    Raises:
        Exception: `function` or `items` raised it.
    """
    waiting = iter(items)
    with _threads(threads) as pool:
        line = deque(pool.submit(function, item) for item in islice(waiting, threads))
        while line:
            yield line.popleft().result()
            line.extend(pool.submit(function, item) for item in islice(waiting, 1))


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Hold some threads. Once nobody waits for their work any more, what they have not begun is left undone."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="ahead")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
