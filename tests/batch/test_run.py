from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.dark_cells import (
    EXPECTED,
    PLANNED,
    REASONS,
    broken_uploads,
    name_of,
    night_over,
    picture,
    run_in_process,
    write_uploads,
    zip_of,
)

from spermseg.batch import planning as todo
from spermseg.batch import run
from spermseg.batch.listing import list_uploads
from spermseg.batch.run import Night, Progress, segment_night
from spermseg.errors import ConfigError, RunError
from spermseg.storage.filesystem import Location
from spermseg.table.plan import CHANGED, GONE
from spermseg.table.receipt import (
    list_runs,
    read_receipt,
)
from spermseg.table.results import list_units, read_units, reason_kind
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")

VOLATILE = ("run_id", "decode_ms", "predict_ms", "measure_ms")
UNITS = -(-PLANNED // 4)


def nothing(progress: Progress) -> None:
    pass


def rows_of(out: Location, source: Location) -> dict[str, dict]:
    """Return name -> row, and see that no name has two."""
    rows = [row for table in read_units(out) for row in table.to_pylist()]
    named = {name_of(row, source): row for row in rows}
    assert len(named) == len(rows)
    return named


def lasting(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in VOLATILE}


def forget(place: Location) -> None:
    """Delete a local file."""
    Path(place.path).unlink()


class KilledError(Exception):
    """The process is gone."""


def segment_and_be_killed(night: Night, units: int) -> list[int]:
    """Segment, be killed after so many units, and return the numbers of the units that were to be done."""
    asked: list[int] = []

    def pipeline(job, numbers, workers, on_unit):
        asked.extend(numbers)
        run_in_process(job, asked[:units], workers, on_unit)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", pipeline)
        with pytest.raises(KilledError):
            segment_night(night, nothing)
    return asked


@pytest.fixture
def cut_off(uploads, out, model):
    """A night that was killed after three of its units."""
    night = night_over(uploads, out, model)
    assert segment_and_be_killed(night, units=3) == list(range(UNITS))
    return night


def test_every_upload_has_one_row_and_the_receipt_says_so_on_every_storage(new_place, model):
    uploads, out = new_place().child("uploads"), new_place().child("results")
    write_uploads(uploads)
    (receipt,) = segment_night(night_over(uploads, out, model), nothing)
    rows = rows_of(out, uploads)
    assert {name: row["n_cells"] for name, row in rows.items() if row["status"] == "ok"} == EXPECTED
    rejected = {name: row["reason"] for name, row in rows.items() if row["status"] == "rejected"}
    assert rejected.keys() == REASONS.keys()
    assert all(rejected[name].startswith(REASONS[name]) for name in rejected)
    assert (receipt.planned, receipt.ok, receipt.rejected) == (PLANNED, len(EXPECTED), len(REASONS))
    assert receipt.reasons == Counter(map(reason_kind, rejected.values()))
    assert (receipt.cells, receipt.units) == (sum(EXPECTED.values()), UNITS)
    assert receipt.megapixels == pytest.approx(len(EXPECTED) * 96 * 160 / 1e6, abs=1e-3)
    assert {row["run_id"] for row in rows.values()} == {receipt.run_id}
    assert read_receipt(RunFolder(out, receipt.run_id)) == vars(receipt)
    assert verify(out) == (PLANNED, [])
    assert segment_night(night_over(uploads, out, model), nothing) == []
    assert list(list_runs(out)) == [receipt.run_id]


def test_two_runs_over_the_same_uploads_give_the_same_rows(uploads, tmp_path, model):
    outs = [Location(str(tmp_path / name)) for name in ("one", "two")]
    for out in outs:
        segment_night(night_over(uploads, out, model), nothing)
    one, two = (rows_of(out, uploads) for out in outs)
    assert {name: lasting(row) for name, row in one.items()} == {name: lasting(row) for name, row in two.items()}
    assert [place.name for place in list_units(outs[0])] == [place.name for place in list_units(outs[1])]


def test_a_later_night_adds_what_is_new_and_touches_nothing_else(uploads, out, model):
    (first,) = segment_night(night_over(uploads, out, model), nothing)
    before = {place.uri: place.read_bytes() for place in list_units(out)}
    uploads.child("patient-9/new.png").write_bytes(picture(6))
    uploads.child("tuesday.zip").write_bytes(zip_of([("patient-9/zipped.png", picture(7))]))
    (second,) = segment_night(night_over(uploads, out, model), nothing)
    assert (second.planned, second.ok, second.cells) == (2, 2, 13)
    assert second.run_id != first.run_id
    assert {place.uri: place.read_bytes() for place in RunFolder(out, first.run_id).units()} == before
    assert verify(out) == (PLANNED + 2, [])


def test_an_upload_that_is_overwritten_is_segmented_again(uploads, out, model):
    segment_night(night_over(uploads, out, model), nothing)
    uploads.child("patient-0/0.png").write_bytes(picture(9))
    (second,) = segment_night(night_over(uploads, out, model), nothing)
    assert (second.planned, second.cells) == (1, 9)


def test_another_model_or_setting_segments_everything_again_beside_the_old_rows(uploads, out, model):
    night = night_over(uploads, out, model)
    segment_night(night, nothing)
    stricter = replace(night.settings, cells=replace(night.settings.cells, min_area=300))
    (second,) = segment_night(replace(night, settings=stricter), nothing)
    assert second.planned == PLANNED
    assert second.cells < sum(EXPECTED.values())
    assert verify(out) == (2 * PLANNED, [])
    assert segment_night(night, nothing) == []


def test_a_killed_run_is_completed_under_its_own_id_and_only_its_missing_units_are_done(cut_off, uploads, out, model):
    (run_id,) = list_runs(out)
    before = {place.uri: place.read_bytes() for place in list_units(out)}
    assert len(before) == 3
    assert segment_and_be_killed(cut_off, units=UNITS) == list(range(3, UNITS))
    (receipt,) = segment_night(cut_off, nothing)  # all units are there: only the receipt is missing
    assert receipt.run_id == run_id
    assert {place.uri: place.read_bytes() for place in list_units(out) if place.uri in before} == before
    assert verify(out) == (PLANNED, [])
    fresh = Location(out.uri + "-fresh")
    segment_night(night_over(uploads, fresh, model), nothing)
    expected = {name: lasting(row) for name, row in rows_of(fresh, uploads).items()}
    assert {name: lasting(row) for name, row in rows_of(out, uploads).items()} == expected


def test_a_run_that_goes_on_knows_that_it_does_and_says_where_its_engine_is_another(cut_off, caplog):
    jobs = []

    def pipeline(job, numbers, workers, on_unit):
        jobs.append(job)
        run_in_process(job, numbers, workers, on_unit)

    tonight = replace(cut_off.predict, precision="bfloat16", batch_megapixels=0.5)
    cut_off.source.child("patient-9/new.png").write_bytes(picture(6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", pipeline)
        segment_night(replace(cut_off, predict=tonight), nothing)
    completed, new = jobs
    assert completed.predict == new.predict == tonight
    assert (completed.goes_on, new.goes_on) == (True, False)
    (warning,) = [record.getMessage() for record in caplog.records]
    begun = cut_off.predict
    assert f"run {completed.run.run_id} began with --engine {begun.engine} --precision {begun.precision}" in warning


def test_a_completed_run_is_followed_by_a_run_over_what_came_in_since(cut_off, uploads, out):
    uploads.child("patient-9/new.png").write_bytes(picture(6))
    completed, new = segment_night(cut_off, nothing)
    assert (completed.planned, new.planned) == (PLANNED, 1)
    assert list(list_runs(out).values()) == [True, True]
    assert verify(out) == (PLANNED + 1, [])


def test_uploads_that_change_or_go_while_a_run_is_cut_off_become_rows_too(cut_off, uploads, out):
    uploads.child("patient-2/2.tif").write_bytes(picture(9, ".tif"))
    forget(uploads.child("patient-2/5.bmp"))
    completed, new = segment_night(cut_off, nothing)
    assert (completed.reasons[CHANGED], completed.reasons[GONE]) == (1, 1)
    assert (new.planned, new.cells) == (1, 9)
    assert verify(out) == (PLANNED + 1, [])


def test_a_run_that_lost_its_receipt_and_a_unit_is_mended(uploads, out, model):
    night = night_over(uploads, out, model)
    (first,) = segment_night(night, nothing)
    expected = {place.uri: [lasting(row) for row in table.to_pylist()] for place, table in units_of(out)}
    forget(RunFolder(out, first.run_id).receipt)
    lost, damaged = list_units(out)[:2]
    forget(lost)
    damaged.write_bytes(damaged.read_bytes()[:-50])
    (again,) = segment_night(night, nothing)
    assert again.run_id == first.run_id
    assert {place.uri: [lasting(row) for row in table.to_pylist()] for place, table in units_of(out)} == expected
    assert verify(out) == (PLANNED, [])


def units_of(out: Location):
    return zip(list_units(out), read_units(out), strict=True)


def test_a_run_that_another_input_planned_first_is_to_be_finished_first(cut_off, uploads, out, model):
    inner = night_over(uploads.child("patient-0"), out, model)
    with pytest.raises(ConfigError, match=r"is planned by run .*, which has not finished; segment the input of that"):
        segment_night(inner, nothing)
    segment_night(cut_off, nothing)
    assert segment_night(inner, nothing) == []
    assert verify(out) == (PLANNED, [])


def test_progress_counts_up_to_the_plan_and_a_continued_run_starts_where_it_was(cut_off, out):
    seen: list[Progress] = []
    segment_night(cut_off, seen.append)
    assert (seen[0].planned, seen[0].done) == (PLANNED, 12)
    assert [progress.done for progress in seen] == [*range(12, PLANNED, 4), PLANNED]
    assert seen[-1].rejected == len(REASONS)
    rows = [row for table in read_units(out) for row in table.to_pylist() if row["status"] == "ok"]
    assert 0 < seen[-1].megapixels < len(rows) * 96 * 160 / 1e6


def test_a_pipeline_that_leaves_a_unit_out_is_a_failed_run_without_a_receipt(uploads, out, model, monkeypatch):
    night = night_over(uploads, out, model)
    with monkeypatch.context() as patch:
        patch.setattr(run, "run_pipeline", lambda job, units, *rest: run_in_process(job, list(units)[1:], *rest))
        with pytest.raises(RunError, match=r"has 4 differences from its plan: image \w+ has 0 rows; one is needed; "):
            segment_night(night, nothing)
    assert list(list_runs(out).values()) == [False]
    assert len(segment_night(night, nothing)) == 1
    assert verify(out) == (PLANNED, [])


@pytest.mark.parametrize("after", [1, UNITS])
def test_a_job_whose_table_was_taken_over_stops_at_its_next_step_and_writes_no_receipt(
    uploads, out, model, monkeypatch, after
):
    night = night_over(uploads, out, model)

    def pipeline(job, numbers, workers, on_unit):
        def then_take_over(unit):
            on_unit(unit)
            done.append(unit)
            if len(done) == after:
                out.child("lock.json").write_bytes(b'{"host": "head-2.clinic", "process": 7, "token": "another"}')

        done: list = []
        run_in_process(job, numbers, workers, then_take_over)

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_pipeline", pipeline)
        with pytest.raises(RunError, match="this job stops, its results stay"):
            segment_night(night, nothing)
    assert list(list_runs(out).values()) == [False]
    assert len(list_units(out)) <= after + 1
    (receipt,) = segment_night(replace(night, take_over=True), nothing)
    assert (receipt.planned, receipt.starts) == (PLANNED, 2)
    assert verify(out) == (PLANNED, [])


def test_a_job_whose_table_was_taken_over_while_it_listed_stores_no_plan(uploads, out, model, monkeypatch):
    def list_and_lose(*arguments):
        yield from list_uploads(*arguments)
        out.child("lock.json").delete()

    with monkeypatch.context() as patch:
        patch.setattr(todo, "list_uploads", list_and_lose)
        with pytest.raises(RunError, match=r"the lock of this job, .* is gone"):
            segment_night(night_over(uploads, out, model), nothing)
    assert not list(out.list())


def test_a_plan_that_a_slow_storage_was_asked_to_store_twice_is_stored(uploads, out, model, monkeypatch):
    write = Location.write_bytes

    def twice(place, data, **condition):
        write(place, data, **condition)
        if place.name == "plan.parquet":
            write(place, data, **condition)

    monkeypatch.setattr(Location, "write_bytes", twice)
    (receipt,) = segment_night(night_over(uploads, out, model), nothing)
    assert receipt.planned == PLANNED


def test_a_night_of_broken_files_only_is_a_finished_night(tmp_path, out, model):
    source = Location(str(tmp_path / "broken-ones"))
    for name, data in broken_uploads().items():
        source.child(name).write_bytes(data)
    (receipt,) = segment_night(night_over(source, out, model), nothing)
    assert (receipt.ok, receipt.rejected, receipt.cells) == (0, len(broken_uploads()), 0)
    assert verify(out) == (len(broken_uploads()), [])
    assert segment_night(night_over(source, out, model), nothing) == []


def test_an_input_without_a_file_is_refused_and_leaves_nothing(tmp_path, out, model):
    with pytest.raises(ConfigError, match="which holds no file"):
        segment_night(night_over(Location(str(tmp_path / "nowhere")), out, model), nothing)
    assert not list(out.list())


@pytest.mark.parametrize(("source", "out"), [("a", "a"), ("a", "a/results"), ("a/uploads", "a"), ("a/../b", "b/c")])
def test_input_and_output_one_inside_the_other_are_refused(tmp_path, model, source, out):
    with pytest.raises(ConfigError, match="one inside the other"):
        night_over(Location(str(tmp_path / source)), Location(str(tmp_path / out)), model)


def test_a_deleted_run_can_be_done_again(uploads, out, model):
    night = night_over(uploads, out, model)
    (first,) = segment_night(night, nothing)
    for place in (
        *list_units(out),
        RunFolder(out, first.run_id).receipt,
        RunFolder(out, first.run_id).notes.child("plan.parquet"),
    ):
        forget(place)
    (again,) = segment_night(night, nothing)
    assert again.planned == PLANNED
    assert again.run_id != first.run_id
    assert RunFolder(out, again.run_id).unit("x").path.startswith(out.path)
    assert verify(out) == (PLANNED, [])
