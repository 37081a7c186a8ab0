"""Messages of workers that wait for the storage, shown by the driver. Imports no Ray.

The log of a worker is in Ray's files, where users do not see it. So a waiting worker sends its message to an actor
(`Note`) on the driver's node. The driver polls this actor, and logs one line for all workers.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from spermseg.storage.patience import say_that_somebody_waits

LOOK_EVERY_S = 5.0


class Note:
    """The latest line of any worker, as a Ray actor."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, line: str) -> None:
        """Replace the stored line."""
        self._line = line

    def take(self) -> str:
        """Return the line and forget it; empty if there is none."""
        line, self._line = self._line, ""
        return line


class Teller:
    """Sends lines to a `Note` from any process. It can be pickled.

    Args:
        note: the handle of the actor.
    """

    def __init__(self, note: Any) -> None:
        self._note = note

    def __call__(self, line: str) -> None:
        """Send one line. A lost actor is ignored, since the driver is lost, too."""
        with suppress(Exception):
            self._note.write.remote(line)


@contextmanager
def heard(ray: Any, look_every_s: float = LOOK_EVERY_S) -> Iterator[Callable[[str], None]]:
    """Yield a function that workers of this cluster call with a line. This process logs the lines during the block.

    Args:
        ray: the module `ray`, connected, with `ray.util.scheduling_strategies` imported.
        look_every_s: time between two polls of the actor.
    """
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    note = ray.remote(Note).options(num_cpus=0, scheduling_strategy=here).remote()
    done = threading.Event()

    def listen() -> None:
        while not done.wait(look_every_s):
            with suppress(Exception):  # other code reports that Ray is lost
                if line := ray.get(note.take.remote(), timeout=look_every_s):
                    say_that_somebody_waits(line)

    listening = threading.Thread(target=listen, daemon=True, name="waits")
    listening.start()
    try:
        yield Teller(note)
    finally:
        done.set()
        listening.join(2 * look_every_s)  # a `ray.get` after `ray.shutdown` would start another cluster
