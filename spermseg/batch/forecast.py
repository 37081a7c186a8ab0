"""The forecast of a night from a sample of its uploads: pictures, time, memory, and the size of the table.

A few uploads are segmented in a child process, so an upload that ends its process costs only its place in the sample.
`extrapolate` scales the sample to all uploads in proportion.
"""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from spermseg.batch.random_rows import draw_rows
from spermseg.batch.worker.fetch import fetch_all
from spermseg.batch.worker.isolation import IsolatedSegmenter
from spermseg.batch.worker.loss_limits import LossCount, LossLimits
from spermseg.batch.worker.process import Segmenting
from spermseg.model.predict import window_layout
from spermseg.model.saved import decode_model
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Plan, Planned
from spermseg.table.results import OK, encode_unit, results_table

SAMPLED = 16
"""Uploads that are segmented for a forecast. The first one that is ok is not timed, since it warms up the process."""
START_S = 15.0
"""Approximate time from the start of Ray to the first picture, s."""
LOSS_LIMITS = LossLimits(group_s=60, run_s=60)
"""Time that the sample may lose to pictures that end their process, so that the night does not wait for them."""
MS = 1000.0


def cpus() -> int:
    """Return the number of CPUs that this process may use. Without GPUs, each has a worker."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(kw_only=True)
class Uploads:
    """Counts a stream of uploads, and keeps a random sample of it. All uploads are equally likely."""

    count: int = 0
    bytes: int = 0
    """Bytes to fetch."""
    _kept: list[tuple[int, Planned]] = field(default_factory=list)

    @property
    def kept(self) -> list[Planned]:
        """The sample, in the order of the stream: compressed archives can only be read in order."""
        return [one for _, one in sorted(self._kept, key=itemgetter(0))]

    def passing(self, planned: Iterable[Planned]) -> Iterator[Planned]:
        """Yield the uploads of a stream unchanged, and sample them (algorithm R of Vitter, 1985)."""
        dice = random.Random(0)  # noqa: S311 (no secret)
        for one in planned:
            self.count += 1
            self.bytes += one.size
            place = self.count - 1 if self.count <= SAMPLED else dice.randrange(self.count)
            if place < len(self._kept):
                self._kept[place] = self.count, one
            elif place < SAMPLED:
                self._kept.append((self.count, one))
            yield one


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a few uploads took in one process, with one thread for each kind of work."""

    uploads: int
    """Uploads of the sample."""
    ok: int
    megapixels: float
    """Of the uploads that are ok."""
    windows: int
    """Windows of the uploads that are ok, for the network."""
    timed_megapixels: float
    decode_s: float
    network_s: float
    measure_s: float
    table_bytes: int
    """Bytes of the rows of all uploads."""
    worker_bytes: float
    """Peak memory of the process."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast of a night."""

    uploads: int
    rejected: int
    megapixels: float
    windows: float
    """Windows that the network reads."""
    cpu_s: float
    """Time of decoding, network and measuring, on one core of the machine that made the forecast."""
    beside_network_s: float
    """The part of that time without the network. If GPUs run the network, this part is left for the CPUs."""
    worker_bytes: float
    """Memory of a worker."""
    table_bytes: float

    def seconds(self, workers: int) -> float:
        """Return the time of the night, s, with this number of workers. Each has a core."""
        return START_S + self.cpu_s / workers

    def least_seconds_on_gpus(self, gpus: int, threads: int) -> float:
        """Return the time of decoding and measuring, s: no network on these GPUs can make the night shorter.

        Args:
            gpus: number of GPUs. Each has a worker.
            threads: decoding threads of a worker.
        """
        return START_S + self.beside_network_s / (gpus * threads)


def measure_sample(sample: Sequence[Planned], segmenting: Segmenting, source: Location) -> Sample:
    """Segment a few uploads in a child process.

    Raises:
        StorageError: the storage failed.
        RunError: the child process could not be started.
    """
    segmenter = IsolatedSegmenter(segmenting, LossCount(LOSS_LIMITS))
    try:
        rows = segmenter.segment(sample, fetch_all(sample, source))
        memory = segmenter.child_peak_bytes()
    finally:
        segmenter.close()
    done = [row for row in rows if row["status"] == OK]
    timed = done[1:] or done
    return Sample(
        uploads=len(rows),
        ok=len(done),
        megapixels=_megapixels(done),
        windows=_windows(done, segmenting),
        timed_megapixels=_megapixels(timed),
        decode_s=sum(row["decode_ms"] for row in timed) / MS,
        network_s=sum(row["predict_ms"] for row in timed) / MS,
        measure_s=sum(row["measure_ms"] for row in timed) / MS,
        table_bytes=len(encode_unit(results_table(rows), machine="")),
        worker_bytes=memory,
    )


def _megapixels(rows: Iterable[dict[str, int]]) -> float:
    return sum(row["width_px"] * row["height_px"] for row in rows) / 1e6


def _windows(rows: Iterable[dict[str, int]], segmenting: Segmenting) -> int:
    network, view = decode_model(segmenting.model).description.network, segmenting.settings.view
    layout = window_layout(view, network, segmenting.predict.batch_px)
    return sum(len(layout(view.working_shape((row["height_px"], row["width_px"])))) for row in rows)


def draw_planned(plan: Plan, seed: int = 0) -> list[Planned]:
    """Draw up to `SAMPLED` micrographs of a plan. All are equally likely. Only their units are read."""
    return [plan.unit(unit)[place] for unit, place in sorted(draw_rows(plan.unit_sizes, SAMPLED, seed))]


def extrapolate(sample: Sample, uploads: int) -> Forecast:
    """Return the forecast for this number of uploads like those of a sample."""
    share = uploads / sample.uploads if sample.uploads else 0.0
    megapixels = sample.megapixels * share
    ratio = megapixels / sample.timed_megapixels if sample.timed_megapixels else 0.0
    beside = (sample.decode_s + sample.measure_s) * ratio
    return Forecast(
        uploads=uploads,
        rejected=round((sample.uploads - sample.ok) * share),
        megapixels=megapixels,
        windows=sample.windows * share,
        cpu_s=beside + sample.network_s * ratio,
        beside_network_s=beside,
        worker_bytes=sample.worker_bytes,
        table_bytes=sample.table_bytes * share,
    )
