"""Micrographs that crash, hang or starve the process that decodes them: each in a process of its own, with limits.

A unit whose worker died again and again is segmented here, one micrograph at a time in a child process that is bounded
in memory and time. A micrograph that ends a fresh child is rejected, where the child after it segments a drawn one:
else it is the machine's fault, and no upload's. The others get the rows that they always get.
"""

import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError as NotInTimeError

import cv2
import numpy as np
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

from spermseg.batch.decoding import Row
from spermseg.batch.fetch import Fetched
from spermseg.batch.plan import Planned
from spermseg.batch.spent import Spent, peak_bytes
from spermseg.batch.units import UnitSegmenter
from spermseg.batch.worker import Segmenting
from spermseg.errors import RunError, SpermsegError, first_line

START_S = 300
"""Time for a child to start and load the model; a busy machine is slow at it."""
CRASHED = "crashed the decoder"
DRAWN = np.full((256, 320, 3), 225, np.uint8)
"""An empty field: what draws cells would make every worker load matplotlib."""
CHILD_FAILED = (BrokenProcessPool, NotInTimeError, OSError)
"""What is raised of a child that ended, or never began."""


class IsolatedSegmenter:
    """Segments units one micrograph at a time, in a child process that is replaced when a micrograph ends it."""

    def __init__(self, segmenting: Segmenting) -> None:
        self._segmenting = segmenting
        self.spent = Spent()
        """What the last unit took."""
        self._child: ProcessPoolExecutor | None = None
        self._is_fresh = True  # no upload was given to the child

    def segment(self, unit: Sequence[Planned], fetched: Iterable[Fetched]) -> list[Row]:
        """Return one result row for each micrograph of a unit, in order.

        Raises:
            RunError: no child could be started, or none can segment anything here.
            SpermsegError: what a child raised when it started.
        """
        started = time.perf_counter()
        rows = [self._row(one, data) for one, data in zip(unit, fetched, strict=True)]
        network_s = sum(row.get("predict_ms") or 0.0 for row in rows) / 1000
        self.spent = Spent.of(rows, wall_s=time.perf_counter() - started, waited_s=0.0, network_s=network_s)
        return rows

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

    def _try_drawn(self) -> None:
        """Segment a drawn picture in a new child, which stays.

        Raises:
            RunError: not even that can be segmented.
        """
        data = cv2.imencode(".png", DRAWN)[1].tobytes()
        drawn = Planned(image_id="drawn", uri="drawn.png", size=len(data), data_size=len(data), etag="")
        row = self._try(drawn, Fetched(data=data))
        if not isinstance(row, dict):
            self.close()
            raise RunError(f"not even a drawn picture can be segmented here: {row}")

    def _row(self, one: Planned, fetched: Fetched) -> Row:
        reason = fetched.reason
        while not reason:
            fresh, self._is_fresh = self._is_fresh, False
            row = self._try(one, fetched)
            if isinstance(row, dict):
                return row
            self.close()
            if fresh:  # another may have died of what an earlier micrograph left behind
                self._try_drawn()
                reason = f"{row}; export the picture again"
        return self._segmenting.provenance.row(one, fetched) | {"reason": reason}

    def _try(self, one: Planned, fetched: Fetched) -> Row | str:
        """Return the row of a micrograph, or what it did to the child."""
        child = self._started()
        limits = self._segmenting.limits
        ended = f"{CRASHED} (it hung for {limits.decode_s:g} s, or ended its process)"
        try:
            # The child keeps watch over itself; the time given here is for what no watch can see.
            row: Row = child.submit(_segment, one, fetched).result(2 * (limits.decode_s + limits.segment_s))
        except TerminatedWorkerError as error:
            signal = re.search(r"\{(SIG[A-Z]+)", str(error))  # told in its text only
            return f"{CRASHED} ({signal[1]})" if signal else ended
        except NotInTimeError:
            return ended
        except MemoryError:
            return f"{CRASHED}: it takes more memory than the largest picture allowed"
        except Exception as error:  # noqa: BLE001 (whatever went wrong, it went wrong with this micrograph alone)
            return f"could not be segmented: {type(error).__name__}: {first_line(error)}"
        return row

    def _started(self) -> ProcessPoolExecutor:
        if self._child is None:
            try:
                self._child = ProcessPoolExecutor(1, initializer=_start, initargs=(self._segmenting,))
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
