"""How many processes segment, what they wait for, and what became of them. No Ray: it is given what Ray says."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from spermseg.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_WORKERS = 64
"""That are asked for of a cluster at most, unless told otherwise: the limit on what a mistake can cost."""
SAY_EVERY_S = 60.0
LOOK_WAITS_S = 10.0
"""For a look at the cluster that is under way when the work ends."""
Resources = Mapping[str, float]
Actor = Mapping[str, Any]
"""A line of Ray's table of actors."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The processes that segment."""

    gpu: bool
    """Whether each has one."""
    fewest: int
    """To start with: there is room for them now, or an autoscaler makes it for the first."""
    most: int

    @property
    def resource(self) -> str:
        """What each of them waits for."""
        return "GPU" if self.gpu else "CPU"


def pool_for(
    *, count: int | None, most: int, gpu: bool | None, own: bool, there: Resources, fewest: int, units: int
) -> Pool:
    """Return what segments.

    A machine of one's own takes one process a GPU, or one a CPU. Of a cluster nobody can tell how far it would grow:
    so as many are asked for as there are units, and its autoscaler, where it has one, brings what it may.

    Args:
        count: processes that were asked for; None leaves it to the cluster and the plan.
        most: that may be asked for at most where no count is given.
        gpu: whether GPUs were asked for; None takes them where there are some now.
        own: the cluster is this machine alone.
        there: what the cluster has now.
        fewest: more is of no use at the start.
        units: more is never of use.

    Raises:
        ConfigError: a GPU was asked for, and this machine has none.
    """
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if own and gpu and not gpus:
        raise ConfigError("a GPU was asked for, but this machine has none that Ray sees; give --gpu never or --address")
    use_gpu = gpus > 0 if gpu is None else gpu
    room = max(1, gpus if use_gpu else cpus)
    wanted = count or (room if own else most)
    limit = max(1, min(units, wanted))
    return Pool(gpu=use_gpu, fewest=max(1, min(room, fewest, limit)), most=limit)


@dataclass
class Waiting:
    """Says about once a minute what is waited for while no unit is done, and at the end why some are not."""

    actors: Callable[[], Iterable[Actor]]
    """Returns the processes that segment, as Ray's table has them."""
    there: Callable[[], tuple[Resources, Resources]]
    """Returns (what the cluster has, what of it is free)."""
    pool: Pool | None = None
    """What segments, once that is known."""
    timed_out: bool = False
    """Whether the pipeline was ended because it made no progress."""
    _up: bool = False
    _died: bool = False
    _since: float = field(default_factory=time.monotonic)
    _since_when: datetime = field(default_factory=lambda: datetime.now(UTC))

    def progress(self) -> None:
        """Note that a unit is done."""
        self._since, self._since_when, self._up = time.monotonic(), datetime.now(UTC), True

    def look(self) -> str:
        """Return what is waited for, in a line; nothing where a worker is up, or nobody knows."""
        actors = self._look_at_actors()
        if self.pool is None or actors is None or any(actor["State"] == "ALIVE" for actor in actors):
            return ""
        there, free = self.there()
        name = self.pool.resource
        return (
            f"waiting for a {name} since {self._since_when:%H:%M} UTC: the cluster has {there.get(name, 0):g}, "
            f"{free.get(name, 0):g} of them free; of {self.pool.most} workers at most none is up"
        )

    def why(self) -> str:
        """Return why units are left that did not fail by themselves."""
        self._look_at_actors()
        if self._died:
            return "their workers died, or the machines were lost"
        if not self._up:
            return f"no worker came up, since no {self.pool.resource if self.pool else 'machine'} was free"
        return "nothing was done for a long time" if self.timed_out else "their workers were lost"

    def _look_at_actors(self) -> list[Actor] | None:
        try:
            actors = list(self.actors())
        except Exception:  # noqa: BLE001 (Ray may be on its way out: that is told where it matters)
            return None
        self._died |= any(actor["NumRestarts"] or actor["State"] == "RESTARTING" for actor in actors)
        self._up |= self._died or any(actor["State"] == "ALIVE" for actor in actors)
        return actors

    @contextmanager
    def told(self, every_s: float = SAY_EVERY_S) -> Iterator[None]:
        """Say what is waited for, each time that no unit was done for so long, until the block ends."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(every_s):
                line = self.look() if time.monotonic() - self._since >= every_s else ""
                if line:
                    logger.warning("%s", line)

        watching = threading.Thread(target=watch, daemon=True, name="waiting")
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join(LOOK_WAITS_S)  # a look after `ray.shutdown` would start another cluster
