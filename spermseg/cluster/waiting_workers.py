"""Workers that wait for a storage: what they say is heard where the person is. Imports no Ray.

The log of a worker lies in Ray's files. What one says while it waits goes to a note beside the driver, and the driver
says it, as one line for all of them.
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
        """Put a line in the place of the last one."""
        self._line = line

    def take(self) -> str:
        """Return the line and forget it; empty where none came."""
        line, self._line = self._line, ""
        return line


class Teller:
    """Takes lines to the note, from whatever process it travels to.

    Args:
        note: the actor that keeps it.
    """

    def __init__(self, note: Any) -> None:
        self._note = note

    def __call__(self, line: str) -> None:
        """Take one line there; where the note is gone, so is who would read it."""
        with suppress(Exception):
            self._note.write.remote(line)


@contextmanager
def heard(ray: Any, look_every_s: float = LOOK_EVERY_S) -> Iterator[Callable[[str], None]]:
    """Yield what takes lines from workers of this Ray, to be said by this process until the block ends.

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
