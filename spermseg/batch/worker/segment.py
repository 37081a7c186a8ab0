"""Last stage of the pipeline: the bytes of a unit's micrographs -> its result file, written. Without Ray."""

import os
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict

from spermseg.batch.worker.isolation import IsolatedSegmenter, in_order
from spermseg.batch.worker.loss_limits import Losses
from spermseg.batch.worker.messages import (
    DecodedUnit,
    FailedUnit,
    FetchedUnit,
    IsolatedPicture,
    WrittenUnit,
    failure,
    open_plan,
    unpack_decoded,
    unpack_fetched,
)
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.timing import Spent
from spermseg.errors import ConfigError, ObjectExistsError
from spermseg.storage.patience import be_patient
from spermseg.table.results import OK, ResultRow, encode_unit, results_table
from spermseg.table.run_folder import RunFolder

BROKEN = 1
"""Exit status of a process that can no longer compute."""


class SegmentUnit:
    """Segments units and writes their results. Holds the model.

    A process writes the result of a unit in one PUT before it begins the next unit. So a killed run has to repeat only
    the units that were in progress. The file exists = the unit is done. An existing file is never overwritten, so a
    worker that is left over from a killed run does no harm, and a finished run never changes.

    Args:
        run: the run of the units.
        segmenting: the model, settings and limits.
        threads: number of threads that decode, and of threads that measure.
    """

    def __init__(self, run: RunFolder, segmenting: Segmenting, threads: int) -> None:
        be_patient(segmenting.patience)
        self._segmenting = segmenting
        self.run, self.plan = run, open_plan(run.plan)
        self.unusable: ConfigError | None = None
        """Why this process cannot segment. Raised during the start, it would make Ray restart the process for ever."""
        try:
            self.segmenter: UnitSegmenter | IsolatedSegmenter = self._start(segmenting, threads)
        except ConfigError as error:
            self.unusable = error
        self._free_since = time.perf_counter()

    def _start(self, segmenting: Segmenting, threads: int) -> UnitSegmenter | IsolatedSegmenter:
        return segmenting.start(threads)

    def __call__(
        self, row: FetchedUnit | DecodedUnit | FailedUnit
    ) -> Iterator[WrittenUnit | IsolatedPicture | FailedUnit]:
        """Segment one unit and write its result. Yield messages for its isolated pictures, then one for the unit."""
        if row["kind"] == "failed":
            yield row
            return
        if self.unusable is not None:
            yield failure(row["unit"], self.unusable)
            return
        idle_s = time.perf_counter() - self._free_since
        try:
            rows = yield from self._segment(row)
            written = self._write(row["unit"], rows)
            spent = self.segmenter.spent + written + Spent(**row["spent"]) + Spent(idle_s=idle_s)
            yield _done(row["unit"], rows, spent)
        except Exception as error:  # noqa: BLE001 (it is told as data)
            yield failure(row["unit"], error)
            self._end_if_broken()
        finally:
            self._free_since = time.perf_counter()

    def _end_if_broken(self) -> None:
        """End this process if it has lost its GPU: after a CUDA error, every later unit would fail too.

        Ray starts another process. If the GPU itself is gone, that process reports it.
        """
        try:
            self._segmenting.check_device()
        except ConfigError:
            os._exit(BROKEN)

    def _segment(self, row: FetchedUnit | DecodedUnit) -> Generator[IsolatedPicture, None, list[ResultRow]]:
        """Return the rows of a unit. In isolation, yield a message for each picture first."""
        if isinstance(self.segmenter, IsolatedSegmenter):
            return (yield from self._segment_isolated(self.segmenter, row))
        if row["kind"] == "decoded":
            return self.segmenter.segment_decoded(unpack_decoded(row["decoded"]))
        return self.segmenter.segment(self.plan.unit(row["unit"]), unpack_fetched(row))

    def _segment_isolated(
        self, segmenter: IsolatedSegmenter, row: FetchedUnit | DecodedUnit
    ) -> Generator[IsolatedPicture, None, list[ResultRow]]:
        if row["kind"] == "decoded":
            raise TypeError("got a decoded unit in isolation, where the child decodes; send a fetched unit")
        known = []
        for place, one in segmenter.segment_each(self.plan.unit(row["unit"]), unpack_fetched(row)):
            known.append((place, one))
            yield IsolatedPicture(kind="isolated", unit=row["unit"], reason=one["reason"] or "")
        return in_order(known)

    def _write(self, unit: int, rows: list[ResultRow]) -> Spent:
        started = time.perf_counter()
        result = encode_unit(results_table(rows), machine=socket.gethostname())
        with suppress(ObjectExistsError):
            self.run.unit(self.plan.unit_id(unit)).write_bytes(result, only_if_absent=True)
        return Spent(write_s=time.perf_counter() - started, written_bytes=len(result))


class IsolateUnit(SegmentUnit):
    """Segments units in isolation: each micrograph in a child process, which holds the model.

    Each micrograph gets a message as soon as its row is known. A micrograph may hang for a minute, and a unit has many.
    Without these messages the pipeline would seem to hang.

    Args:
        run: the run of the units.
        segmenting: the model, settings and limits.
        threads: not used, since a child segments one picture at a time.
        losses: counts and limits the time that is lost. None counts for this worker alone, with the default limits.
    """

    def __init__(self, run: RunFolder, segmenting: Segmenting, threads: int, losses: Losses | None = None) -> None:
        self._losses = losses
        super().__init__(run, segmenting, threads)

    def _start(self, segmenting: Segmenting, threads: int) -> IsolatedSegmenter:  # noqa: ARG002 (one picture a process)
        return IsolatedSegmenter(segmenting, self._losses)


def _done(unit: int, rows: list[ResultRow], spent: Spent) -> WrittenUnit:
    ok = sum(one["status"] == OK for one in rows)
    return {
        "kind": "written",
        "unit": unit,
        "ok": ok,
        "rejected": len(rows) - ok,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "spent": asdict(spent),
    }
