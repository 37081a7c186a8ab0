"""What a process that segments does when it can segment no more. Without Ray."""

from types import SimpleNamespace

import pytest

from spermseg.batch.worker import segment
from spermseg.batch.worker.segment import SegmentUnit
from spermseg.errors import ConfigError
from spermseg.storage.filesystem import Location
from spermseg.table.run_folder import RunFolder

UNIT = {"kind": "fetched", "unit": 3, "data": [], "reasons": [], "spent": {}}


class Ended(BaseException):
    """Stands for the end of the process."""


def unit_whose_network_fails(monkeypatch, check_device) -> SegmentUnit:
    """Return what segments units with a network that raises, and a device that is checked in this way."""

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(segment, "open_plan", lambda _: SimpleNamespace(unit=lambda number: []))
    monkeypatch.setattr(segment, "be_patient", lambda _: None)
    monkeypatch.setattr(segment.os, "_exit", end)
    segmenting = SimpleNamespace(
        patience=None, run_id="night-1", check_device=check_device, start=lambda _: SimpleNamespace(segment=fail)
    )
    return SegmentUnit(RunFolder(Location("/out"), "night-1"), segmenting, 1)


def test_a_process_that_has_lost_its_gpu_tells_of_its_unit_and_ends_for_another_to_take_its_place(monkeypatch):
    def lost():
        raise ConfigError("the GPU of this machine cannot be used")

    rows = unit_whose_network_fails(monkeypatch, lost)(UNIT)
    assert next(rows)["failure"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    with pytest.raises(Ended):
        next(rows)


def test_a_process_whose_gpu_still_computes_goes_on_after_a_unit_that_failed(monkeypatch):
    rows = unit_whose_network_fails(monkeypatch, lambda: None)(UNIT)
    assert [row["unit"] for row in rows] == [3]
