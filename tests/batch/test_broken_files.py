"""Every way in which an upload can be broken has a reason of its own, which the guide shows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broken_files import BROKEN, BROKEN_FILES, WHOLE, BrokenFile, Trouble, markdown_table
from support.dark_cells import CELLS, VIEW, darkness_model, draw, night_over, picture, run_in_process
from support.fault_proxy import Fault, FaultProxy, Kind
from support.hostile_decoder import decode

from spermseg.batch import run
from spermseg.batch.pool import Workers
from spermseg.batch.worker.segment import IsolateUnit
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.storage.filesystem import Location
from spermseg.table.results import OK, REJECTED, read_units, reason_kind

GUIDE = Path(__file__).parents[2] / "docs/operations.md"
HEADING = "## What is rejected, and why"
CELLS_DRAWN = 3
WORDS_OF_A_PROGRAMMER = ("s3://", "Traceback", "Exception", "Error:", "NoneType", "errno", "0x", "b'")


@pytest.fixture(scope="module")
def proxy(moto_server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def rows(moto_server, proxy) -> list[dict[str, Any]]:
    """The rows of a night over one upload of each kind, which meets its later trouble once it is planned.

    Each is segmented as those are whose worker died, so that one that ends its process ends no other.
    """
    place, out = moto_server.new_bucket(), moto_server.new_bucket().child("results")
    source = Location(place.uri, proxy.endpoint_url)
    for broken in BROKEN_FILES:
        source.child(broken.name).write_bytes(broken.make(draw(CELLS_DRAWN)[0]))
    night = night_over(
        source,
        out,
        darkness_model(),
        settings=SegmentSettings(view=VIEW, cells=CELLS),
        workers=Workers(count=1, decode=decode),
    )

    def meet_trouble_and_run(*arguments: Any) -> None:
        for broken in BROKEN_FILES:
            meet_trouble(source, broken, proxy)
        run_in_process(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", meet_trouble_and_run)
        patch.setattr("support.dark_cells.SegmentUnit", IsolateUnit)
        run.segment_night(night, lambda progress: None)
    return [row for table in read_units(out) for row in table.to_pylist()]


def meet_trouble(source: Location, broken: BrokenFile, proxy: FaultProxy) -> None:
    if broken.trouble is Trouble.CHANGED:
        source.child(broken.name).write_bytes(picture(CELLS_DRAWN + 1))
    elif broken.trouble is Trouble.DELETED:
        source.child(broken.name).delete()
    elif broken.trouble is Trouble.DENIED:
        proxy.inject(Fault(kind=Kind.DENIED, on="GET|HEAD", key=broken.name, times=None))


@pytest.fixture(scope="module")
def reasons(rows) -> dict[str, str]:
    """Name of each broken upload -> its reason."""
    return {name_of_upload(row): row["reason"] for row in rows if row["status"] == REJECTED}


def name_of_upload(row: dict[str, Any]) -> str:
    return row["uri"].rpartition("/")[2]


def test_every_kind_of_broken_upload_gives_exactly_one_rejected_row(rows):
    rejected = sorted(name_of_upload(row) for row in rows if row["status"] == REJECTED)
    assert rejected == sorted(broken.name for broken in BROKEN_FILES)


def test_a_whole_picture_beside_the_broken_one_is_segmented_all_the_same(rows):
    whole = [row for row in rows if row["status"] == OK]
    assert len(whole) >= 8
    assert {(row["member"], row["n_cells"]) for row in whole} == {(WHOLE, CELLS_DRAWN)}


def test_no_two_kinds_have_the_same_reason(reasons):
    assert len({reason_kind(reason) for reason in reasons.values()}) == len(BROKEN_FILES) >= 20


@pytest.mark.parametrize("broken", BROKEN_FILES, ids=lambda broken: broken.name)
def test_a_reason_is_one_short_line_without_names_places_or_the_words_of_a_programmer(broken, reasons):
    reason = reasons[broken.name]
    assert len(reason.splitlines()) == 1
    assert 15 <= len(reason) <= 160
    assert [word for word in (broken.name, WHOLE, BROKEN, *WORDS_OF_A_PROGRAMMER) if word in reason] == []


def test_the_guide_shows_the_reasons_that_uploads_are_given(reasons):
    section = GUIDE.read_text().partition(HEADING)[2].partition("\n## ")[0]
    table = markdown_table(reasons)
    assert reason_kind(table) in reason_kind(section), f"{GUIDE.name}, {HEADING}: the table should be\n\n{table}"
