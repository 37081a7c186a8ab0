"""Isolation: one micrograph at a time in a child process, since a micrograph may crash, hang or starve its decoder.

A unit whose worker died repeatedly is segmented here. The child process has limits of memory and time.

1. Each micrograph gets a brief trial. Most are sound, and get the same rows as in a shared process.
2. Each that failed gets a full trial in a new child, which has segmented nothing but a synthetic picture.
3. A micrograph that ends such a child is rejected, if the next child can segment a synthetic picture. If it cannot, the
   machine is at fault, not an upload.

`loss_limits.py` limits the time that is lost to such micrographs. Those left when the limit is reached are rejected.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import replace
from multiprocessing.process import BaseProcess
from operator import itemgetter

import cv2
import numpy as np
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.loss_limits import CRASHED, STRANGE, LossCount, Losses, LossLimits, Trial
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.timing import Spent, peak_bytes
from spermseg.errors import RunError, SpermsegError, first_line
from spermseg.table.plan import Planned
from spermseg.table.results import REJECTED, ResultRow

START_S = 300
"""Time for a child to start and load the model. A busy machine is slow."""
BRIEF_SHARE, BRIEF_LEAST_S = 0.1, 2.0
"""Time of a brief trial: this share of the time limit of a decoder, but at least so many seconds."""
DRAWN = np.full((256, 320, 3), 225, np.uint8)
"""The synthetic picture: an empty field, since drawing cells would need matplotlib in every worker."""
END_S = 5.0
"""Time for the exit status of a child that has ended."""
CHILD_FAILED = (BrokenProcessPool, NotInTimeError, OSError)
"""Errors of a child that ended or could not start."""


def brief_s(hang_s: float) -> float:
    """Return the time of a brief trial, s, given the time limit of a decoder."""
    return max(BRIEF_LEAST_S, BRIEF_SHARE * hang_s)


def in_order(rows: Iterable[tuple[int, ResultRow]]) -> list[ResultRow]:
    """Return the rows of a unit, given (place in the unit, row) pairs in any order."""
    return [row for _, row in sorted(rows, key=itemgetter(0))]


class IsolatedSegmenter:
    """Segments units one micrograph at a time, in a child process that is replaced when a micrograph ends it.

    Args:
        segmenting: the model, settings and limits of the child.
        losses: counts and limits the time that is lost. None counts for this object alone, with the default limits.
    """

    def __init__(self, segmenting: Segmenting, losses: Losses | None = None) -> None:
        self._segmenting = segmenting
        self._losses = losses or LossCount(LossLimits())
        self.spent = Spent()
        """Time and memory that the last unit took."""
        self._child: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        """The process of the child, for its exit status."""
        self._is_fresh = True  # the child has received no upload

    def segment(self, unit: Sequence[Planned], fetched: Iterable[Fetched]) -> list[ResultRow]:
        """Return one result row for each micrograph of a unit, in order. Raises the errors of `segment_each`."""
        return in_order(self.segment_each(unit, fetched))

    def segment_each(self, unit: Sequence[Planned], fetched: Iterable[Fetched]) -> Iterator[tuple[int, ResultRow]]:
        """Yield (place in the unit, result row) of each micrograph, as soon as the row is known.

        Raises:
            RunError: no child could be started, or a child cannot segment even a synthetic picture.
            SpermsegError: the error that a child raised when it started.
        """
        started, rows = time.perf_counter(), []
        for place, row in self._rows(zip(unit, fetched, strict=True)):
            rows.append(row)
            yield place, row
        network_s = sum(row.get("predict_ms") or 0.0 for row in rows) / 1000
        self.spent = Spent.of(rows, wall_s=time.perf_counter() - started, waited_s=0.0, network_s=network_s)

    def child_peak_bytes(self) -> float:
        """Return the peak memory of the child."""
        try:
            peak: float = self._started().submit(peak_bytes).result(START_S)
        except CHILD_FAILED as error:
            raise RunError(f"the process that segments ended: {first_line(error)}") from error
        return peak

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.shutdown(kill_workers=True)
            self._child, self._process, self._is_fresh = None, None, True

    def _rows(self, pairs: Iterable[tuple[Planned, Fetched]]) -> Iterator[tuple[int, ResultRow]]:
        suspects = []
        for place, (one, data) in enumerate(pairs):
            tried = self._tried_briefly(one, data)
            if isinstance(tried, dict):
                yield place, tried
            else:
                suspects.append((place, one, data, tried))
        for place, one, data, lost_s in suspects:
            yield place, self._tried_fully(one, data, lost_s)

    def _tried_briefly(self, one: Planned, fetched: Fetched) -> ResultRow | float:
        """Return the row of a micrograph, or the seconds lost if it needs a full trial."""
        if reason := fetched.reason or self._losses.refusal(one.group, Trial.BRIEF):
            return self._rejected(one, fetched, reason)
        row, lost_s = self._try(one, fetched, brief_s(self._segmenting.hang_s))
        if isinstance(row, dict):
            return row
        self._losses.lose(one.group, Trial.BRIEF, lost_s)
        return lost_s

    def _tried_fully(self, one: Planned, fetched: Fetched, lost_s: float) -> ResultRow:
        """Return the row of a micrograph that failed its brief trial and lost `lost_s` there."""
        if refusal := self._losses.refusal(one.group, Trial.FULL):
            return self._rejected(one, fetched, refusal)
        if not self._is_fresh:  # an earlier micrograph may have left something behind that makes this one fail
            self.close()
        # The child ends itself when a step takes too long. The limit here is for hangs that its watch cannot see.
        row, more_lost_s = self._try(one, fetched, self._segmenting.limits.longest_s)
        if isinstance(row, dict):
            self._losses.forgive(one.group, Trial.BRIEF, lost_s)
            return row
        self._losses.lose(one.group, Trial.FULL, more_lost_s)
        return self._rejected(one, fetched, f"{row}; export the picture again")

    def _rejected(self, one: Planned, fetched: Fetched, reason: str) -> ResultRow:
        return self._segmenting.provenance.row(one, fetched) | {"status": REJECTED, "reason": reason}

    def _try(self, one: Planned, fetched: Fetched, within_s: float) -> tuple[ResultRow | str, float]:
        """Try one micrograph. If it fails, replace the child.

        Returns:
            The row, or what the micrograph did to the child; and the seconds lost, the start of the new child included.

        Raises:
            RunError: the new child cannot segment a synthetic picture.
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
        """Return the child, or a new one that has segmented a synthetic picture: the first picture loads libraries.

        Raises:
            RunError: the new child cannot segment the synthetic picture.
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

    def _submit(self, child: ProcessPoolExecutor, one: Planned, fetched: Fetched, within_s: float) -> ResultRow | str:
        """Return the row of a micrograph, or what it did to the child."""
        ended = f"{CRASHED} (it hung for {self._segmenting.hang_s:g} s, or ended its process)"
        try:
            row: ResultRow = child.submit(_segment, one, fetched).result(within_s)
        except TerminatedWorkerError:
            name = self._signal_of_child()
            return f"{CRASHED} ({name})" if name else ended
        except NotInTimeError:
            return ended
        except MemoryError:
            return f"{CRASHED}: it takes more memory than the largest picture allowed"
        except Exception as error:  # noqa: BLE001 (any other error concerns this micrograph alone)
            return f"{STRANGE}: {type(error).__name__}: {first_line(error)}"
        return row

    def _signal_of_child(self) -> str:
        """Return the name of the signal that ended the child; empty if none did."""
        if self._process is None:
            return ""
        self._process.join(END_S)
        status = self._process.exitcode
        return signal.Signals(-status).name if status is not None and status < 0 else ""

    def _started(self) -> ProcessPoolExecutor:
        if self._child is None:
            try:
                self._child = ProcessPoolExecutor(1, initializer=_start, initargs=(without_ray(self._segmenting),))
                pid, wrong = self._child.submit(_started).result(START_S)
                self._process = next((one for one in multiprocessing.active_children() if one.pid == pid), None)
            except CHILD_FAILED as error:
                self.close()
                raise RunError(f"a process that segments could not be started: {first_line(error)}") from error
            if wrong:
                self.close()
                raise wrong
        return self._child


_segmenter: UnitSegmenter
"""The segmenter of this child process."""
_wrong: SpermsegError | None = None
"""The error that kept this child process from making a segmenter. Raised during the start, the error would be lost, and
its stack trace be printed."""


def without_ray(segmenting: Segmenting) -> Segmenting:
    """Return a copy for a child process, without the function that sends messages: it calls a Ray actor."""
    return replace(segmenting, patience=replace(segmenting.patience, tell=None))


def _start(segmenting: Segmenting) -> None:
    global _segmenter, _wrong
    try:
        _segmenter = segmenting.start(threads=1)
    except SpermsegError as error:
        _wrong = error


def _started() -> tuple[int, SpermsegError | None]:
    """Return the id of this process and the error of its start. The answer tells the caller that it has started."""
    return os.getpid(), _wrong


def _segment(one: Planned, fetched: Fetched) -> ResultRow:
    return _segmenter.segment([one], [fetched])[0]
