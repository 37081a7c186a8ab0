"""What was rejected and is tried again. A file that is away for a while is rejected, and as good as before later."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.archive_files import tar_gz_of
from support.dark_cells import EXPECTED, GOOD, PLANNED, REASONS, name_of, night_over, picture, run_in_process

from spermseg.batch import run
from spermseg.batch.night import Night
from spermseg.batch.pool import Workers
from spermseg.batch.run import segment_night
from spermseg.batch.worker.loss_limits import BRIEFLY_TRIED, CRASHED, NOT_TRIED, STRANGE
from spermseg.errors import ConfigError, MicrographError
from spermseg.storage.filesystem import Location
from spermseg.table import plan
from spermseg.table.latest import count_replaced, read_current
from spermseg.table.plan import GONE, Plan, retry_id
from spermseg.table.receipt import list_runs
from spermseg.table.results import read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")

AWAY = ("patient-0/0.png", "patient-1/4.png")


def nothing(progress: run.Progress) -> None:
    pass


def segment_while_away(night: Night, *names: str, units: int | None = None) -> list:
    """Segment while these uploads are away from when they were planned on; stop after so many units."""
    places = [Path(night.source.child(name).path) for name in names]

    def pipeline(job, numbers, workers, on_unit):
        for place in places:
            place.rename(place.with_name("away-" + place.name))
        try:
            run_in_process(job, list(numbers)[:units], workers, on_unit)
            if units is not None:
                raise KeyboardInterrupt
        finally:
            for place in places:
                place.with_name("away-" + place.name).rename(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", pipeline)
        return segment_night(night, nothing)


def rows_of(out: Location, source: Location, **which: bool) -> dict[str, dict]:
    """Return name -> current row, and see that no upload has two."""
    rows = [row for table in read_current(out, **which) for row in table.to_pylist()]
    named = {name_of(row, source): row for row in rows}
    assert len(named) == len(rows)
    return named


@pytest.fixture
def night(uploads, out, model) -> Night:
    """A night during which two good uploads were away, finished."""
    night = night_over(uploads, out, model)
    (receipt,) = segment_while_away(night, *AWAY)
    assert receipt.reasons[GONE] == len(AWAY)
    return night


@pytest.fixture
def again(night) -> Night:
    """The same command with `--retry-rejected`."""
    return replace(night, retry_rejected=True)


def test_what_was_rejected_is_tried_again_and_its_new_rows_replace_the_old(night, again, uploads, out):
    before = rows_of(out, uploads)
    (receipt,) = segment_night(again, nothing)
    assert (receipt.planned, receipt.ok) == (len(AWAY) + len(REASONS), len(AWAY))
    rows = rows_of(out, uploads)
    assert {name: row["n_cells"] for name, row in rows.items() if row["status"] == "ok"} == EXPECTED
    for name, row in rows.items():
        was_rejected = before[name]["status"] == "rejected"
        assert row["retry_of"] == (before[name]["image_id"] if was_rejected else None)
        assert row["run_id"] == (receipt.run_id if was_rejected else before[name]["run_id"])
    assert verify(out) == (PLANNED + receipt.planned, [])
    assert count_replaced(out) == Counter({before["patient-0/0.png"]["run_id"]: receipt.planned})


def test_a_later_night_plans_nothing_of_it_again(night, again, uploads, out):
    segment_night(again, nothing)
    assert segment_night(night, nothing) == []
    uploads.child("patient-9/new.png").write_bytes(picture(6))
    (later,) = segment_night(night, nothing)
    assert (later.planned, later.ok) == (1, 1)
    assert len(rows_of(out, uploads)) == PLANNED + 1


def test_new_uploads_are_not_part_of_a_retry(night, again, uploads):
    uploads.child("patient-9/new.png").write_bytes(picture(6))
    (receipt,) = segment_night(again, nothing)
    assert receipt.planned == len(AWAY) + len(REASONS)
    (later,) = segment_night(night, nothing)
    assert later.planned == 1


def test_a_retry_of_a_retry_replaces_the_first_retry(night, again, uploads, out):
    first = rows_of(out, uploads)
    segment_while_away(again, AWAY[0])
    second = rows_of(out, uploads)
    assert {name: second[name]["status"] for name in AWAY} == {AWAY[0]: "rejected", AWAY[1]: "ok"}
    (receipt,) = segment_night(again, nothing)
    assert (receipt.planned, receipt.ok) == (len(REASONS) + 1, 1)
    row = rows_of(out, uploads)[AWAY[0]]
    assert row["status"] == "ok"
    chain = [first[AWAY[0]]["image_id"], second[AWAY[0]]["image_id"], row["image_id"]]
    assert chain == [chain[0], retry_id(chain[0]), retry_id(retry_id(chain[0]))]
    assert verify(out)[1] == []


def test_uploads_that_are_no_longer_listed_are_not_tried_again(night, again, uploads, out):
    for name in [*AWAY, *(name for name in REASONS if name.startswith("broken/"))]:
        uploads.child(name).delete()
    (receipt,) = segment_night(again, nothing)
    assert receipt.planned == 1  # the member of the archive
    uploads.child("courier.zip").delete()
    assert segment_night(again, nothing) == []
    assert len(rows_of(out, uploads)) == PLANNED


@pytest.mark.parametrize("with_the_flag", [True, False])
def test_a_retry_that_is_cut_off_hides_nothing_and_is_continued_by_the_same_command(
    night, again, uploads, out, with_the_flag
):
    (first,) = list_runs(out)
    with pytest.raises(KeyboardInterrupt):
        segment_while_away(again, units=1)
    (cut_off,) = list_runs(out).keys() - {first}
    before = rows_of(out, uploads, finished_only=True)
    assert {row["run_id"] for row in before.values()} == {first}
    assert len(before) == PLANNED
    (receipt,) = segment_night(again if with_the_flag else night, nothing)
    assert (receipt.run_id, receipt.ok, receipt.starts) == (cut_off, len(AWAY), 2)
    assert list_runs(out) == {first: True, cut_off: True}
    assert {name: rows_of(out, uploads)[name]["status"] for name in AWAY} == dict.fromkeys(AWAY, "ok")


def test_of_another_model_or_setting_nothing_is_tried_again(night, again, out):
    stricter = replace(night.settings, cells=replace(night.settings.cells, min_area=300))
    assert segment_night(replace(again, settings=stricter), nothing) == []
    assert len(list_runs(out)) == 1


def test_where_nothing_is_rejected_there_is_nothing_to_try_again(uploads, out, model):
    inner = night_over(uploads.child("patient-0"), out, model)
    assert segment_night(replace(inner, retry_rejected=True), nothing) == []
    segment_night(inner, nothing)
    assert segment_night(replace(inner, retry_rejected=True), nothing) == []


def test_a_retry_that_an_unfinished_retry_over_another_input_planned_is_refused(night, again, uploads, out):
    with pytest.raises(KeyboardInterrupt):
        segment_while_away(again, units=1)
    with pytest.raises(ConfigError, match=r"is planned by run .*, which has not finished"):
        segment_night(replace(again, source=uploads.child("patient-0")), nothing)


def test_a_plan_of_the_first_version_is_read_and_continued(uploads, out, model, monkeypatch):
    night = night_over(uploads, out, model)
    first_version = pa.schema([field for field in plan.PLAN_SCHEMA if field.name != "retry_of"])
    with monkeypatch.context() as patch:
        patch.setattr(plan, "PLAN_SCHEMA", first_version)
        with pytest.raises(KeyboardInterrupt):
            segment_while_away(night, units=1)
    (run_id,) = list_runs(out)
    assert list(Plan(RunFolder(out, run_id).plan).replaced_ids()) == []
    (receipt,) = segment_night(night, nothing)
    assert (receipt.run_id, receipt.planned) == (run_id, PLANNED)


def test_the_rows_that_are_replaced_stay_in_the_table(night, again, out):
    (retried,) = segment_night(again, nothing)
    assert sum(len(table) for table in read_units(out)) == PLANNED + len(AWAY) + len(REASONS)
    RunFolder(out, retried.run_id).receipt.delete()
    statuses = Counter(status for table in read_current(out, ["status"]) for status in table["status"].to_pylist())
    assert statuses["rejected"] == 2 * len(REASONS) + len(AWAY)  # an unfinished retry hides nothing
    assert GOOD.keys() >= set(AWAY)


def reject_for_what_follows_the_picture(data: bytes, **_):
    raise MicrographError(data.rpartition(b"IEND\xaeB`\x82")[2].decode())


def test_what_was_never_tried_by_itself_is_tried_first_and_what_ended_its_process_last(out, model, tmp_path):
    """Else the same ones use up the time of their group on every retry, and those behind them are never tried."""
    reasons = [f"{CRASHED} (SIGSEGV)", f"{BRIEFLY_TRIED}: x", f"{NOT_TRIED}: x", "corrupt", f"{STRANGE}: x", GONE]
    order = [2, 3, 5, 1, 0, 4]
    source = Location(str(tmp_path / "uploads"))
    files = [(f"{number}.png", picture(number) + reason.encode()) for number, reason in enumerate(reasons)]
    for name, data in files:
        source.child("plain", name).write_bytes(data)
    source.child("packed.tar.gz").write_bytes(tar_gz_of(files))
    night = night_over(source, out, model, workers=Workers(count=1, decode=reject_for_what_follows_the_picture))
    segment_night(night, nothing)
    (receipt,) = segment_night(replace(night, retry_rejected=True, workers=Workers(count=1)), nothing)
    plan = Plan(RunFolder(out, receipt.run_id).plan)
    planned = [one for number in range(plan.units) for one in plan.unit(number)]
    for packing in (True, False):
        assert [int((one.member or one.uri)[-5]) for one in planned if bool(one.packing) is packing] == order
    rows = rows_of(out, source)
    assert {name: row["n_cells"] for name, row in rows.items()} == {name: int(name[-5]) for name in rows}
    assert len(rows) == len(planned) == 2 * len(reasons)
