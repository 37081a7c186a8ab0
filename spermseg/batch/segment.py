"""The middle of the pipeline: the bytes of a unit's micrographs -> its result object. No Ray."""

import socket

from spermseg.batch.fetch import Fetched
from spermseg.batch.isolation import IsolatedSegmenter
from spermseg.batch.results import OK, encode_unit, results_table
from spermseg.batch.transfer import Row, failure, open_plan
from spermseg.batch.units import UnitSegmenter
from spermseg.batch.worker import Segmenting
from spermseg.storage.filesystem import Location


class SegmentUnit:
    """The bytes of a unit's micrographs -> its result object. Holds the model."""

    def __init__(self, plan: Location, segmenting: Segmenting, threads: int) -> None:
        self.plan = open_plan(plan)
        self.segmenter: UnitSegmenter | IsolatedSegmenter = self._start(segmenting, threads)

    def _start(self, segmenting: Segmenting, threads: int) -> UnitSegmenter | IsolatedSegmenter:
        return segmenting.start(threads)

    def __call__(self, row: Row) -> Row:
        """Segment one unit."""
        if row["failure"]:
            return row
        fetched = [
            Fetched(data=data, reason=reason or None) for data, reason in zip(row["data"], row["reasons"], strict=True)
        ]
        try:
            rows = self.segmenter.segment(self.plan.unit(row["unit"]), fetched)
        except Exception as error:  # noqa: BLE001 (it is told as data)
            return failure(row["unit"], error)
        ok = [one for one in rows if one["status"] == OK]
        return {
            "unit": row["unit"],
            "failure": "",
            "name": self.plan.unit_id(row["unit"]),
            "result": encode_unit(results_table(rows), machine=socket.gethostname()),
            "ok": len(ok),
            "rejected": len(rows) - len(ok),
            "megapixels": sum(one["width_px"] * one["height_px"] for one in ok) / 1e6,
        }


class IsolateUnit(SegmentUnit):
    """The same, each micrograph in a process of its own. The model is in that process."""

    def _start(self, segmenting: Segmenting, threads: int) -> IsolatedSegmenter:  # noqa: ARG002 (one picture a process)
        return IsolatedSegmenter(segmenting)
