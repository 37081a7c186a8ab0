"""The heart of the pipeline: the bytes of a unit's micrographs -> its result object, written. No Ray."""

import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from spermseg.batch.isolation import IsolatedSegmenter
from spermseg.batch.results import OK, encode_unit, results_table, unit_location
from spermseg.batch.spent import Spent
from spermseg.batch.transfer import Row, failure, open_plan, unpack_decoded, unpack_fetched
from spermseg.batch.units import UnitSegmenter
from spermseg.batch.worker import Segmenting
from spermseg.errors import ConfigError, ObjectExistsError
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import be_patient


class SegmentUnit:
    """Segments units and writes their results. Holds the model.

    A result is written by the process that made it, in one PUT, before the next unit is begun: what is segmented and
    not written yet is what a killed run has to do again. The object exists = the unit is done. The first one stays, so
    a worker that is left over from a killed run can do no harm, and no finished run is ever touched again.
    """

    def __init__(self, plan: Location, out: Location, segmenting: Segmenting, threads: int) -> None:
        be_patient(segmenting.patience)
        self.plan = open_plan(plan)
        self.out, self.run_id = out, segmenting.run_id
        self.unusable: ConfigError | None = None
        """Why this process can segment nothing: told with the first unit, since Ray would start it again and again."""
        try:
            self.segmenter: UnitSegmenter | IsolatedSegmenter = self._start(segmenting, threads)
        except ConfigError as error:
            self.unusable = error
        self._free_since = time.perf_counter()

    def _start(self, segmenting: Segmenting, threads: int) -> UnitSegmenter | IsolatedSegmenter:
        return segmenting.start(threads)

    def __call__(self, row: Row) -> Row:
        """Segment one unit, and write it."""
        if row["failure"]:
            return row
        if self.unusable is not None:
            return failure(row["unit"], self.unusable)
        idle_s = time.perf_counter() - self._free_since
        try:
            rows = self._segment(row)
            written = self._write(row["unit"], rows)
        except Exception as error:  # noqa: BLE001 (it is told as data)
            return failure(row["unit"], error)
        finally:
            self._free_since = time.perf_counter()
        ok = sum(one["status"] == OK for one in rows)
        spent = self.segmenter.spent + written + Spent(**row["spent"]) + Spent(idle_s=idle_s)
        return {
            "unit": row["unit"],
            "failure": "",
            "ok": ok,
            "rejected": len(rows) - ok,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "spent": asdict(spent),
        }

    def _segment(self, row: Row) -> list[dict[str, Any]]:
        if isinstance(self.segmenter, UnitSegmenter) and "decoded" in row:
            return self.segmenter.segment_decoded(unpack_decoded(row["decoded"]))
        return self.segmenter.segment(self.plan.unit(row["unit"]), unpack_fetched(row))

    def _write(self, unit: int, rows: list[dict[str, Any]]) -> Spent:
        started = time.perf_counter()
        result = encode_unit(results_table(rows), machine=socket.gethostname())
        with suppress(ObjectExistsError):
            unit_location(self.out, self.run_id, self.plan.unit_id(unit)).write_bytes(result, only_if_absent=True)
        return Spent(write_s=time.perf_counter() - started, written_bytes=len(result))


class IsolateUnit(SegmentUnit):
    """The same, each micrograph in a process of its own. The model is in that process."""

    def _start(self, segmenting: Segmenting, threads: int) -> IsolatedSegmenter:  # noqa: ARG002 (one picture a process)
        return IsolatedSegmenter(segmenting)
