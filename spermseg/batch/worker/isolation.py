"""Micrographs that crash, hang or starve the process that decodes them: each in a process of its own, with limits.

A unit whose worker died again and again is segmented here, one micrograph at a time in a child process that is bounded
in memory and time. First each is tried briefly, since most are whole, and those get the rows that they always get; then
those that failed, at length and in a new child each. A micrograph that ends a child which has segmented nothing but a
synthetic picture is rejected, where the child after it segments a synthetic one: else it is the machine's fault, and no
upload's. The time that is lost to such micrographs has an end (`loss_limits.py`): what would come after it is rejected.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import replace
from operator import itemgetter

import cv2
import numpy as np
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

from spermseg.batch.worker.decode import Row
from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.loss_limits import CRASHED, STRANGE, LossCount, Losses, LossLimits, Trial
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.timing import Spent, peak_bytes
from spermseg.errors import RunError, SpermsegError, first_line
from spermseg.table.plan import Planned
from spermseg.table.results import REJECTED

START_S = 300
"""Time for a child to start and load the model; a busy machine is slow at it."""
BRIEF_SHARE, BRIEF_LEAST_S = 0.1, 2.0
"""Of the time that a decoder may take, that of a brief trial; where that is long enough for any."""
DRAWN = np.full((256, 320, 3), 225, np.uint8)
"""An empty field: what draws cells would make every worker load matplotlib."""
CHILD_FAILED = (BrokenProcessPool, NotInTimeError, OSError)
"""What is raised of a child that ended, or never began."""


def brief_s(hang_s: float) -> float:
    """Return how long a brief trial takes, of a decoder that may take `hang_s`."""
    return max(BRIEF_LEAST_S, BRIEF_SHARE * hang_s)


def in_order(rows: Iterable[tuple[int, Row]]) -> list[Row]:
    """Return the rows of a unit in their places."""
    return [row for _, row in sorted(rows, key=itemgetter(0))]


class IsolatedSegmenter:
    """Segments units one micrograph at a time, in a child process that is replaced when a micrograph ends it.

    Args:
        segmenting: with what, and how.
        losses: what micrographs that end their process may cost; None takes the default limits, for this object alone.
    """

    def __init__(self, segmenting: Segmenting, losses: Losses | None = None) -> None:
        self._segmenting = segmenting
        self._losses = losses or LossCount(LossLimits())
        self.spent = Spent()
        """What the last unit took."""
        self._child: ProcessPoolExecutor | None = None
        self._is_fresh = True  # no upload was given to the child

    def segment(self, unit: Sequence[Planned], fetched: Iterable[Fetched]) -> list[Row]:
        """Return one result row for each micrograph of a unit, in order. Raises as `segment_each`."""
        return in_order(self.segment_each(unit, fetched))

    def segment_each(self, unit: Sequence[Planned], fetched: Iterable[Fetched]) -> Iterator[tuple[int, Row]]:
        """Yield (place in the unit, result row) of each micrograph, as soon as it is known.

        Raises:
            RunError: no child could be started, or none can segment anything here.
            SpermsegError: what a child raised when it started.
        """
        started, rows = time.perf_counter(), []
        for place, row in self._rows(zip(unit, fetched, strict=True)):
            rows.append(row)
            yield place, row
        network_s = sum(row.get("predict_ms") or 0.0 for row in rows) / 1000
        self.spent = Spent.of(rows, wall_s=time.perf_counter() - started, waited_s=0.0, network_s=network_s)

    def child_peak_bytes(self) -> float:
        """Return the most memory that the child has had."""
        try:
            peak: float = self._started().submit(peak_bytes).result(START_S)
        except CHILD_FAILED as error:
            raise RunError(f"the process that segments ended: {first_line(error)}") from error
        return peak

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.shutdown(kill_workers=True)
            self._child, self._is_fresh = None, True

    def _rows(self, pairs: Iterable[tuple[Planned, Fetched]]) -> Iterator[tuple[int, Row]]:
        suspects = []
        for place, (one, data) in enumerate(pairs):
            tried = self._tried_briefly(one, data)
            if isinstance(tried, dict):
                yield place, tried
            else:
                suspects.append((place, one, data, tried))
        for place, one, data, lost_s in suspects:
            yield place, self._tried_fully(one, data, lost_s)

    def _tried_briefly(self, one: Planned, fetched: Fetched) -> Row | float:
        """Return the row of a micrograph, or the seconds that were lost where it is to be tried again."""
        if reason := fetched.reason or self._losses.refusal(one.group, Trial.BRIEF):
            return self._rejected(one, fetched, reason)
        row, lost_s = self._try(one, fetched, brief_s(self._segmenting.hang_s))
        if isinstance(row, dict):
            return row
        self._losses.lose(one.group, Trial.BRIEF, lost_s)
        return lost_s

    def _tried_fully(self, one: Planned, fetched: Fetched, lost_s: float) -> Row:
        """Return the row of a micrograph that failed a brief trial, which took so long."""
        if refusal := self._losses.refusal(one.group, Trial.FULL):
            return self._rejected(one, fetched, refusal)
        if not self._is_fresh:  # it may have failed for what an earlier micrograph left behind
            self.close()
        # The child keeps watch over itself; the time given here is for what no watch can see.
        row, more_lost_s = self._try(one, fetched, self._segmenting.limits.longest_s)
        if isinstance(row, dict):
            self._losses.forgive(one.group, Trial.BRIEF, lost_s)
            return row
        self._losses.lose(one.group, Trial.FULL, more_lost_s)
        return self._rejected(one, fetched, f"{row}; export the picture again")

    def _rejected(self, one: Planned, fetched: Fetched, reason: str) -> Row:
        return self._segmenting.provenance.row(one, fetched) | {"status": REJECTED, "reason": reason}

    def _try(self, one: Planned, fetched: Fetched, within_s: float) -> tuple[Row | str, float]:
        """Return (the row of a micrograph, or what it did to the child; the seconds lost with the child, which is new).

        Raises:
            RunError: the child after it cannot segment anything.
        """
        child = self._ready()
        started, self._is_fresh = time.perf_counter(), False
        row = self._submit(child, one, fetched, within_s)
        if isinstance(row, dict):
            return row, 0.0
        self.close()
        self._ready()
        return row, time.perf_counter() - started

    def _ready(self) -> ProcessPoolExecutor:
        """Return a child that has segmented a synthetic picture at least: what is loaded at the first one is loaded.

        Raises:
            RunError: not even that can be segmented.
        """
        if self._child is not None:
            return self._child
        child, data = self._started(), cv2.imencode(".png", DRAWN)[1].tobytes()
        synthetic = Planned(image_id="synthetic", uri="synthetic.png", size=len(data), data_size=len(data), etag="")
        row = self._submit(child, synthetic, Fetched(data=data), self._segmenting.limits.longest_s)
        if not isinstance(row, dict):
            self.close()
            raise RunError(f"not even a synthetic picture can be segmented here: {row}")
        return child

    def _submit(self, child: ProcessPoolExecutor, one: Planned, fetched: Fetched, within_s: float) -> Row | str:
        """Return the row of a micrograph, or what it did to the child."""
        ended = f"{CRASHED} (it hung for {self._segmenting.hang_s:g} s, or ended its process)"
        try:
            row: Row = child.submit(_segment, one, fetched).result(within_s)
        except TerminatedWorkerError as error:
            signal = re.search(r"\{(SIG[A-Z]+)", str(error))  # told in its text only
            return f"{CRASHED} ({signal[1]})" if signal else ended
        except NotInTimeError:
            return ended
        except MemoryError:
            return f"{CRASHED}: it takes more memory than the largest picture allowed"
        except Exception as error:  # noqa: BLE001 (whatever went wrong, it went wrong with this micrograph alone)
            return f"{STRANGE}: {type(error).__name__}: {first_line(error)}"
        return row

    def _started(self) -> ProcessPoolExecutor:
        if self._child is None:
            try:
                self._child = ProcessPoolExecutor(1, initializer=_start, initargs=(without_ray(self._segmenting),))
                wrong = self._child.submit(_started).result(START_S)
            except CHILD_FAILED as error:
                self.close()
                raise RunError(f"a process that segments could not be started: {first_line(error)}") from error
            if wrong:
                self.close()
                raise wrong
        return self._child


_segmenter: UnitSegmenter
"""Of a child process."""
_wrong: SpermsegError | None = None
"""Why it has none: raised where the process starts, its stack trace would be shown, and the error be lost."""


def without_ray(segmenting: Segmenting) -> Segmenting:
    """Return what a child process can be given: it is none of Ray's, and what takes lines to the driver is an actor."""
    return replace(segmenting, patience=replace(segmenting.patience, tell=None))


def _start(segmenting: Segmenting) -> None:
    global _segmenter, _wrong
    try:
        _segmenter = segmenting.start(threads=1)
    except SpermsegError as error:
        _wrong = error


def _started() -> SpermsegError | None:
    """Return what went wrong when this process started; that it returns tells that it has."""
    return _wrong


def _segment(one: Planned, fetched: Fetched) -> Row:
    return _segmenter.segment([one], [fetched])[0]
