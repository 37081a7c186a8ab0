"""A night whose driver is killed on real Ray processes, with what its workers did counted."""

import multiprocessing
import signal
import time
from collections import Counter
from dataclasses import replace

import pytest
from dark_cells import night_over, picture
from hostile_decoder import logging_decode

from spermseg.batch import plan, transfer
from spermseg.batch.night import Night
from spermseg.batch.pipeline import Workers
from spermseg.batch.receipt import list_runs, verify
from spermseg.batch.results import list_units
from spermseg.batch.run import segment_night
from spermseg.storage.filesystem import Location

PICTURES, UNIT = 160, 4
WORKERS = 2
IN_FLIGHT = WORKERS * UNIT
"""Micrographs that may be decoded twice: those of the unit that each worker had in hand."""


@pytest.fixture
def uploads(tmp_path) -> Location:
    source = Location(str(tmp_path / "uploads"))
    for number in range(PICTURES):
        source.child(f"patient-{number % 5}/{number:03}.png").write_bytes(picture(number % 9, height=96 + number))
    return source


def nothing(progress: object) -> None:
    pass


def segment_in_small_units(night: Night) -> None:
    plan.UNIT_MICROGRAPHS = UNIT
    segment_night(night, nothing)


def wait_for_units(out: Location, least: int) -> None:
    deadline = time.monotonic() + 300
    while len(list_units(out)) < least:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.ray
def test_a_night_whose_driver_is_killed_half_way_decodes_only_what_was_in_flight_again(
    cluster, uploads, out, model, tmp_path
):
    log = tmp_path / "decoded"
    workers = Workers(count=WORKERS, address=cluster, decode=logging_decode(log))
    night = night_over(uploads, out, model, workers=workers)
    driver = multiprocessing.get_context("spawn").Process(target=segment_in_small_units, args=(night,))
    driver.start()
    wait_for_units(out, PICTURES // UNIT // 2)
    driver.kill()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    (run_id,) = list_runs(out)
    before = {place.uri: place.read_bytes() for place in list_units(out)}
    (receipt,) = segment_night(replace(night, take_over=True), nothing)
    assert receipt.run_id == run_id
    assert {uri: Location(uri).read_bytes() for uri in before} == before
    assert verify(out) == (PICTURES, [])
    decoded = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert len(decoded) == PICTURES
    assert sum(times - 1 for times in decoded.values()) <= IN_FLIGHT


class StoppedError(Exception):
    """The run is over before its unit is written."""


def test_workers_that_are_left_over_from_a_killed_run_change_nothing(
    uploads, out, model, without_ray, small_units, monkeypatch
):
    night = night_over(uploads, out, model)
    kept: list[tuple[transfer.WriteUnit, dict]] = []
    write = transfer.WriteUnit.__call__

    def keep_three(stage: transfer.WriteUnit, row: dict) -> dict:
        kept.append((stage, row))
        if len(kept) == 3:
            raise StoppedError
        return {name: row[name] for name in ("unit", "failure", "ok", "rejected", "megapixels")}

    with monkeypatch.context() as patch:
        patch.setattr(transfer.WriteUnit, "__call__", keep_three)
        with pytest.raises(StoppedError):
            segment_night(night, nothing)
    (run_id,) = list_runs(out)

    def write_beside_the_old_workers(stage: transfer.WriteUnit, row: dict) -> dict:
        if kept and row["name"] == kept[0][1]["name"]:
            write(*kept.pop(0))  # an old worker comes first
        return write(stage, row)

    with monkeypatch.context() as patch:
        patch.setattr(transfer.WriteUnit, "__call__", write_beside_the_old_workers)
        (receipt,) = segment_night(night, nothing)
    assert receipt.run_id == run_id
    table = {place.uri: place.read_bytes() for place in list_units(out)}
    for stage, row in kept:  # and the others last, into a run that is finished
        write(stage, row)
    assert {place.uri: place.read_bytes() for place in list_units(out)} == table
    assert verify(out) == (PICTURES, [])
