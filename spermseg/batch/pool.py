"""The number of worker processes, what they wait for, and how they ended.

Without Ray: its answers are arguments here.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from spermseg.batch.worker.decode import Decode
from spermseg.batch.worker.loss_limits import LossLimits
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.errors import ConfigError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.model.predict import PredictConfig

logger = logging.getLogger(__name__)

MAX_WORKERS = 64
"""Default of the most workers that a run asks a cluster for. It limits the cost of a mistake."""
SAY_EVERY_S = 60.0
"""Seconds between two lines about what the run waits for."""
LOOK_WAITS_S = 10.0
"""Seconds to wait, when the work ends, for a query of the cluster that is still running."""
Resources = Mapping[str, float]
Actor = Mapping[str, Any]
"""A row of Ray's actor table."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The number and kind of the processes that segment."""

    count: int | None = None
    """Number of processes. None takes one per GPU or CPU of this machine, or as many as a cluster gives."""
    most: int = MAX_WORKERS
    """Most processes that a cluster is asked for if no count is given."""
    gpu: bool | None = None
    """Whether each process has a GPU. None takes GPUs if the cluster has some."""
    decode_threads: int = 2
    """Decoding threads of each process."""
    decode_apart: bool = False
    """Decode in separate tasks on any machine, for GPUs that are faster than the CPUs beside them."""
    decode: Decode = decode_micrograph
    """Turns the bytes of a file into a picture."""
    hang_s: float = 60
    """Seconds. A picture that takes longer to decode counts as hanging its decoder."""
    losses: LossLimits = field(default_factory=LossLimits)
    """Time that a run may lose to pictures that end their process."""
    address: str | None = None
    """Address of the Ray cluster. None takes `RAY_ADDRESS` if set, else this machine."""

    def __post_init__(self) -> None:
        if (self.count is not None and self.count < 1) or min(self.most, self.decode_threads) < 1:
            raise ConfigError(
                f"got {self.count} workers, {self.most} at most, {self.decode_threads} decode threads; 1 or more is "
                "needed"
            )
        if not self.hang_s > 0:
            raise ConfigError(f"got a time limit of {self.hang_s} s to decode a picture; more than 0 is needed")

    def segmenting(self, model: bytes, settings: SegmentSettings, predict: PredictConfig, run_id: str) -> Segmenting:
        """Return what each process needs to segment for a run."""
        return Segmenting(
            model=model, settings=settings, predict=predict, run_id=run_id, decode=self.decode, hang_s=self.hang_s
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The processes that segment."""

    gpu: bool
    """Whether each process has a GPU."""
    fewest: int
    """Processes at the start. The cluster has room for them now, or its autoscaler makes room for the first."""
    most: int

    @property
    def resource(self) -> str:
        """The Ray resource that each process waits for."""
        return "GPU" if self.gpu else "CPU"


def pool_for(
    *, count: int | None, most: int, gpu: bool | None, own: bool, there: Resources, fewest: int, units: int
) -> Pool:
    """Return the processes that segment.

    This machine alone gets one process per GPU, or one per CPU. A cluster may grow by an unknown amount. So the run
    asks it for as many processes as there are units, up to `most`, and an autoscaler brings what it can.

    Args:
        count: number of processes asked for. None takes the number from the cluster and the plan.
        most: most processes to ask a cluster for if no count is given.
        gpu: whether GPUs were asked for. None takes GPUs if the cluster has some now.
        own: whether the cluster is this machine alone.
        there: the resources that the cluster has now.
        fewest: number of processes that can be of use at the start.
        units: number of units. More processes are never of use.

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
    """Logs about once a minute what the run waits for, while no unit finishes. Tells why units are left at the end."""

    actors: Callable[[], Iterable[Actor]]
    """Returns the processes that segment, as rows of Ray's actor table."""
    there: Callable[[], tuple[Resources, Resources]]
    """Returns (resources of the cluster, its free resources)."""
    pool: Pool | None = None
    """The processes that segment, once known."""
    timed_out: bool = False
    """Whether the pipeline was stopped because it made no progress."""
    _up: bool = False
    _died: bool = False
    _since: float = field(default_factory=time.monotonic)
    _since_when: datetime = field(default_factory=lambda: datetime.now(UTC))

    def progress(self) -> None:
        """Note that a unit finished, or an isolated picture."""
        self._since, self._since_when, self._up = time.monotonic(), datetime.now(UTC), True

    def look(self) -> str:
        """Return a line that says what the run waits for; empty if a worker is up or the state is unknown."""
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
        """Return why units are left although none failed."""
        self._look_at_actors()
        if self._died:
            return "their workers died, or the machines were lost"
        if not self._up:
            return f"no worker came up, since no {self.pool.resource if self.pool else 'machine'} was free"
        return "nothing was done for a long time" if self.timed_out else "their workers were lost"

    def _look_at_actors(self) -> list[Actor] | None:
        try:
            actors = list(self.actors())
        except Exception:  # noqa: BLE001 (Ray may be shutting down; another place reports that)
            return None
        self._died |= any(actor["NumRestarts"] or actor["State"] == "RESTARTING" for actor in actors)
        self._up |= self._died or any(actor["State"] == "ALIVE" for actor in actors)
        return actors

    @contextmanager
    def told(self, every_s: float = SAY_EVERY_S) -> Iterator[None]:
        """Log what the run waits for, each time that no unit finished for so long, until the block ends."""
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
            watching.join(LOOK_WAITS_S)  # a query after `ray.shutdown` would start another cluster
