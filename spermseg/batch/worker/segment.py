"""The heart of the pipeline: the bytes of a unit's micrographs -> its result object, written. No Ray."""

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
"""Status of a process that ends since it can compute no more."""


class SegmentUnit:
    """Segments units and writes their results. Holds the model.

    A result is written by the process that made it, in one PUT, before the next unit is begun: what is segmented and
    not written yet is what a killed run has to do again. The object exists = the unit is done. The first one stays, so
    a worker that is left over from a killed run can do no harm, and no finished run is ever touched again.
    """

    def __init__(self, run: RunFolder, segmenting: Segmenting, threads: int) -> None:
        be_patient(segmenting.patience)
        self._segmenting = segmenting
        self.run, self.plan = run, open_plan(run.plan)
        self.unusable: ConfigError | None = None
        """Why this process can segment nothing: told with the first unit, since Ray would start it again and again."""
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
        """Segment one unit, and write it; yield what is known of it meanwhile, and at last the unit."""
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
        """End this process where it has lost its GPU: after an error of CUDA's every later unit would fail, too.

        Ray starts another in its place. That one tells what is wrong, where the GPU itself is gone.
        """
        try:
            self._segmenting.check_device()
        except ConfigError:
            os._exit(BROKEN)

    def _segment(self, row: FetchedUnit | DecodedUnit) -> Generator[IsolatedPicture, None, list[ResultRow]]:
        """Return the rows of a unit; yield what is to be told of each before."""
        if row["kind"] == "decoded":
            if isinstance(self.segmenter, IsolatedSegmenter):
                raise TypeError("isolated pictures are decoded by the process that may end")
            return self.segmenter.segment_decoded(unpack_decoded(row["decoded"]))
        if isinstance(self.segmenter, IsolatedSegmenter):
            known = []
            for place, one in self.segmenter.segment_each(self.plan.unit(row["unit"]), unpack_fetched(row)):
                known.append((place, one))
                yield IsolatedPicture(kind="isolated", unit=row["unit"], reason=one["reason"] or "")
            return in_order(known)
        return self.segmenter.segment(self.plan.unit(row["unit"]), unpack_fetched(row))

    def _write(self, unit: int, rows: list[ResultRow]) -> Spent:
        started = time.perf_counter()
        result = encode_unit(results_table(rows), machine=socket.gethostname())
        with suppress(ObjectExistsError):
            self.run.unit(self.plan.unit_id(unit)).write_bytes(result, only_if_absent=True)
        return Spent(write_s=time.perf_counter() - started, written_bytes=len(result))


class IsolateUnit(SegmentUnit):
    """The same, each micrograph in a process of its own, which has the model; each is told of as soon as it is known.

    One may hang for a minute, and a unit has many: a pipeline that says nothing for so long is taken to hang itself.

    Args:
        run: that the units are of.
        segmenting: with what, and how.
        threads: of none is made use.
        losses: what micrographs that end their process may cost; None takes the default limits, for this worker alone.
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
