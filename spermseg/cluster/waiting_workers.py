"""Messages of workers that wait for the storage, shown by the driver. Imports no Ray.

The log of a worker lies in Ray's files. So a waiting worker sends its message to an
actor (`Note`) on the driver's node. The driver polls that actor and logs one line for all workers.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from spermseg.storage.patience import say_that_somebody_waits

LOOK_EVERY_S = 5.0


class Note:
    """The last line that any of many processes has said."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, line: str) -> None:
        """Replace the stored line."""
        self._line = line

    def take(self) -> str:
        """Return the line and forget it; empty where none came."""
        line, self._line = self._line, ""
        return line


class Teller:
    """Sends lines to the note from any process. It can be pickled.

    Args:
        note: the actor that keeps it.
    """

    def __init__(self, note: Any) -> None:
        self._note = note

    def __call__(self, line: str) -> None:
        """Send one line. A lost note is ignored: its reader is lost, too."""
        with suppress(Exception):
            self._note.write.remote(line)


@contextmanager
def heard(ray: Any, look_every_s: float = LOOK_EVERY_S) -> Iterator[Callable[[str], None]]:
    """Yield a function that workers of this Ray call with a line. This process logs the lines until the block ends.

    Args:
        ray: the module, connected, with `ray.util.scheduling_strategies`.
        look_every_s: how often to look for a line.
    """
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    note = ray.remote(Note).options(num_cpus=0, scheduling_strategy=here).remote()
    done = threading.Event()

    def listen() -> None:
        while not done.wait(look_every_s):
            with suppress(Exception):  # what became of Ray is told where it matters
                if line := ray.get(note.take.remote(), timeout=look_every_s):
                    say_that_somebody_waits(line)

    listening = threading.Thread(target=listen, daemon=True, name="waits")
    listening.start()
    try:
        yield Teller(note)
    finally:
        done.set()
        listening.join(2 * look_every_s)  # asked once more after `ray.shutdown`, Ray would start another cluster
