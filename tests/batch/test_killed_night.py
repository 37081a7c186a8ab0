"""A night whose driver is killed on real Ray processes, with what its workers did counted."""

import multiprocessing
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess

import pytest
from support.dark_cells import night_over, picture
from support.hostile_decoder import logging_decode

from spermseg.batch.night import Night
from spermseg.batch.pool import Workers
from spermseg.batch.run import segment_night
from spermseg.batch.worker.segment import SegmentUnit
from spermseg.batch.worker.timing import Spent
from spermseg.errors import RunError
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import list_runs
from spermseg.table.results import list_units, read_units
from spermseg.table.verify import verify

PICTURES, UNIT = 160, 4  # as of `night_over`
WORKERS = 2
IN_FLIGHT = WORKERS * UNIT
"""Micrographs that may be segmented twice: those of the unit that each worker had in hand."""


@pytest.fixture
def uploads(tmp_path) -> Location:
    source = Location(str(tmp_path / "uploads"))
    for number in range(PICTURES):
        source.child(f"patient-{number % 5}/{number:03}.png").write_bytes(picture(number % 9, height=96 + number))
    return source


def nothing(progress: object) -> None:
    pass


def segment_silently(night: Night) -> None:
    segment_night(night, nothing)


def wait_for_units(out: Location, least: int, driver: BaseProcess) -> None:
    deadline = time.monotonic() + 300
    while len(list_units(out)) < least:
        assert driver.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.ray
def test_a_night_whose_driver_is_killed_half_way_decodes_only_what_was_in_flight_again(
    cluster, uploads, out, model, tmp_path
):
    log = tmp_path / "decoded"
    workers = Workers(count=WORKERS, address=cluster, decode=logging_decode(log))
    night = night_over(uploads, out, model, workers=workers)
    driver = multiprocessing.get_context("forkserver").Process(target=segment_silently, args=(night,))
    driver.start()
    wait_for_units(out, PICTURES // UNIT // 2, driver)
    driver.kill()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    (run_id,) = list_runs(out)
    before = {place.uri: place.read_bytes() for place in list_units(out)}
    (receipt,) = segment_night(night, nothing)  # unasked
    assert receipt.run_id == run_id
    assert {uri: Location(uri).read_bytes() for uri in before} == before
    assert verify(out) == (PICTURES, [])
    decoded = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert len(decoded) == PICTURES
    assert sum(times - 1 for times in decoded.values()) <= IN_FLIGHT


class StoppedError(Exception):
    """The run is over before its unit is written."""


def test_workers_that_are_left_over_from_a_killed_run_change_nothing(uploads, out, model, without_ray, monkeypatch):
    night = night_over(uploads, out, model)
    kept: list[tuple] = []
    write = SegmentUnit._write

    def keep_three(stage: SegmentUnit, unit: int, rows: list[dict]) -> Spent:
        kept.append((stage, unit, [{**row, "version": "old"} for row in rows]))
        if len(kept) == 3:
            raise StoppedError
        return Spent()

    with monkeypatch.context() as patch:
        patch.setattr(SegmentUnit, "_write", keep_three)
        with pytest.raises(RunError):
            segment_night(night, nothing)
    (run_id,) = list_runs(out)
    first, *late = kept

    def write_after_an_old_worker(stage: SegmentUnit, unit: int, rows: list[dict]) -> Spent:
        if unit == first[1]:
            write(*first)
        return write(stage, unit, rows)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentUnit, "_write", write_after_an_old_worker)
        (receipt,) = segment_night(night, nothing)
    assert receipt.run_id == run_id
    table = {place.uri: place.read_bytes() for place in list_units(out)}
    for stage, unit, rows in late:  # into a run that is finished
        write(stage, unit, rows)
    assert {place.uri: place.read_bytes() for place in list_units(out)} == table
    assert verify(out) == (PICTURES, [])
    versions = Counter(version for rows in read_units(out) for version in rows["version"].to_pylist())
    assert versions["old"] == UNIT
