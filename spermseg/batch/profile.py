"""The time of a run by stage, the bottleneck, and what helps."""

import math
from dataclasses import dataclass, field

from spermseg.batch.worker.timing import Spent

WAITING = 0.1
"""Share of the workers' time. A stage for which they wait at least so long is the bottleneck."""
MB = 1e6


@dataclass(kw_only=True)
class Profile:
    """Time and memory of all units of a run together."""

    decode_threads: int
    """Decoding threads of each worker."""
    spent: Spent = field(default_factory=Spent)
    workers: set[str] = field(default_factory=set)
    """The processes that segmented: host name and process id."""

    def add(self, worker: str, spent: Spent) -> None:
        """Add a unit."""
        self.workers.add(worker)
        self.spent += spent

    @property
    def worker_s(self) -> float:
        """Seconds of all workers together: segmenting, writing, and waiting for bytes."""
        return self.spent.idle_s + self.spent.segment_s + self.spent.write_s

    def table(self) -> str:
        """Return the table as text, with one line per stage."""
        lines = [f"{'stage':<9}{'at work':>9}{'busy':>7}{'Mpx/s':>9}{'MB/s':>8}   what it is"]
        wall = self.worker_s / max(1, len(self.workers))
        for name, seconds, places, moved, what in self._stages():
            at_work = seconds / wall if wall else 0.0
            busy = f"{at_work / places:.0%}" if places else "-"
            rate = f"{self.spent.megapixels / seconds:.1f}" if seconds else "-"
            moving = f"{moved / MB / wall:.1f}" if moved and wall else "-"
            lines.append(f"{name:<9}{at_work:>9.2f}{busy:>7}{rate:>9}{moving:>8}   {what}")
        idle, wait = self._share(self.spent.idle_s), self._share(self.spent.wait_s)
        lines.append(f"workers wait for bytes {idle:.0%} and for decoding {wait:.0%} of their time; {self.advice()}")
        return "\n".join(lines)

    def advice(self) -> str:
        """Return the bottleneck, and what helps."""
        idle, wait = self._share(self.spent.idle_s), self._share(self.spent.wait_s)
        if not self.workers:
            return "nothing was segmented"
        if idle >= WAITING and idle >= wait:
            return "fetch-bound: the storage, or the network to it, is slower than the workers; fewer would do"
        if wait >= WAITING:
            return f"decode-bound: add {self._threads_short()} CPUs a worker, and as many --decode-threads"
        return "network-bound: more workers, or GPUs, make it faster"

    def _threads_short(self) -> int:
        """Return the number of decoding threads that a worker lacks to keep its network busy."""
        working = self.spent.segment_s - self.spent.wait_s
        needed = math.ceil(self.spent.decode_s / working) if working > 0 else self.decode_threads + 1
        return max(1, needed - self.decode_threads)

    def _share(self, seconds: float) -> float:
        return seconds / self.worker_s if self.worker_s else 0.0

    def _stages(self) -> list[tuple[str, float, int, float, str]]:
        """Return (name, seconds, threads that can work at the same time or 0, bytes moved, meaning) of each stage."""
        one, workers = self.spent, len(self.workers)
        threads = workers * self.decode_threads
        return [
            ("fetch", one.fetch_s, 0, one.fetched_bytes, "bytes from the storage, in tasks"),
            ("decode", one.decode_s, threads, one.fetched_bytes, "bytes to pixels, in threads of the workers"),
            ("network", one.network_s, workers, 0.0, "pixels to probability"),
            ("cells", one.measure_s, threads, 0.0, "probability to cells, in threads of the workers"),
            ("write", one.write_s, workers, one.written_bytes, "rows to the storage"),
        ]
