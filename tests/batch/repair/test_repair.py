"""Damage of each kind: `verify` names it and the command that repairs it, and after that command all is well."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.damaged_tables import DAMAGE, first_run, flip, ok_unit, rows_of, unit, write_anew
from support.dark_cells import PLANNED, run_in_process

from spermseg.batch import repair
from spermseg.batch.run import segment_night
from spermseg.cli.export import Export
from spermseg.cli.report import Report
from spermseg.cli.verify import Verify
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import (
    list_runs,
    read_receipt,
)
from spermseg.table.results import SCHEMA, encode_unit, list_units, read_unit
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")


def nothing(progress) -> None:
    pass


def is_plain(row: dict) -> bool:
    return row["status"] == "ok" and not row["member"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_the_command_that_is_named_mends_it(night, kind, capsys):
    before = rows_of(night.out)
    DAMAGE[kind](night.out)
    assert Verify(out=night.out.uri).run() == 1
    said = capsys.readouterr().out
    assert "with --check-files repairs the table" in said, said
    segment_night(replace(night, check_files=True), nothing)
    assert verify(night.out) == (PLANNED + 1, [])
    assert rows_of(night.out) == before
    assert segment_night(replace(night, check_files=True), nothing) == []


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if "flipped" not in kind])
def test_what_a_listing_shows_is_mended_without_being_asked_for(night, kind):
    before = rows_of(night.out)
    DAMAGE[kind](night.out)
    segment_night(night, nothing)
    assert rows_of(night.out) == before
    assert verify(night.out) == (PLANNED + 1, [])


def test_a_copied_table_is_as_good_as_the_first_and_is_looked_through_once(night, monkeypatch):
    shutil.copytree(night.out.path, night.out.path + "-copy", copy_function=shutil.copyfile)
    copy = replace(night, out=Location(night.out.uri + "-copy"))
    try:
        assert segment_night(copy, nothing) == []
        assert verify(copy.out) == (PLANNED + 1, [])
        monkeypatch.setattr("spermseg.batch.repair.count_rows", None)
        assert segment_night(copy, nothing) == []
    finally:
        shutil.rmtree(copy.out.path)


def test_a_receipt_of_an_earlier_version_is_held_against_names_and_bytes(night):
    for run_id in list_runs(night.out):
        said = read_receipt(RunFolder(night.out, run_id))
        for name in ("schema_version", "files_sha256", "plan_sha256"):
            del said[name]
        RunFolder(night.out, run_id).receipt.write_bytes(json.dumps(said).encode())
    assert verify(night.out)[1] == []
    assert segment_night(night, nothing) == []
    unit(night.out).write_bytes(unit(night.out).read_bytes()[:-1])
    assert len(segment_night(night, nothing)) == 1
    assert verify(night.out) == (PLANNED + 1, [])


def test_an_upload_that_is_gone_and_whose_rows_are_damaged_is_a_rejected_row(night, kept):
    rows = {place: read_unit(place).to_pylist() for place in list_units(night.out)}
    place, gone = next((place, row) for place, some in rows.items() for row in some if is_plain(row))
    held = Path(gone["uri"]).with_suffix(".held")
    Path(gone["uri"]).rename(held)
    try:
        flip(place)
        segment_night(replace(night, check_files=True), nothing)
        assert rows_of(night.out)[gone["image_id"]]["reason"].startswith("not found")
        assert verify(night.out)[1] == []
    finally:
        held.rename(gone["uri"])


@pytest.mark.parametrize("kind", ["a plan, flipped", "a receipt, flipped", "a unit, flipped", "a plan, lost"])
def test_damage_of_another_model_is_left_and_stops_no_night(night, kind, caplog):
    stricter = replace(night.settings, cells=replace(night.settings.cells, min_area=300))
    DAMAGE[kind](night.out)
    held = {item.uri: item.etag for item in night.out.list()}
    (receipt,) = segment_night(replace(night, settings=stricter, check_files=True), nothing)
    assert receipt.planned == PLANNED + 1
    assert held.items() <= {item.uri: item.etag for item in night.out.list()}.items()
    if "plan" in kind:
        assert "another model or other settings" in caplog.text


@pytest.mark.parametrize("kind", ["a plan, flipped", "a plan, lost", "a receipt, flipped", "a unit, flipped"])
def test_report_and_export_name_the_damaged_file_and_show_the_rest(night, kind, capsys, tmp_path):
    DAMAGE[kind](night.out)
    page, lines = tmp_path / "report.html", tmp_path / "rows.csv"
    told = [Report(out=night.out.uri, html=str(page)).run(), Export(out=night.out.uri, to=str(lines)).run()]
    said = capsys.readouterr().err
    assert told == ([1, 0] if "receipt" in kind else [1, 1])
    assert "with --check-files repairs the table" in said
    assert "with --check-files repairs the table" in page.read_text()
    assert len(lines.read_text().splitlines()) >= PLANNED + 2 - 4


def test_a_copy_of_a_unit_is_not_shown_twice(night, tmp_path, capsys):
    DAMAGE["a unit, copied to another run"](night.out)
    DAMAGE["a unit, twice"](night.out)
    assert Export(out=night.out.uri, to=str(tmp_path / "rows.csv")).run() == 1
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == PLANNED + 2


def test_a_foreign_file_among_the_results_is_named(night):
    night.out.child("results", "notes.txt").write_bytes(b"mine")
    assert [line.split("/")[-1].split(" ")[0] for line in verify(night.out)[1]] == ["notes.txt"]


def test_a_file_of_a_later_version_is_never_deleted(night):
    place = unit(night.out)
    later = SCHEMA.with_metadata({"spermseg_schema_version": "99"})
    place.write_bytes(
        encode_unit(pa.Table.from_batches(read_unit(place).to_batches()).replace_schema_metadata(later.metadata))
    )
    data = place.read_bytes()
    with pytest.raises(RuntimeError, match="is of version 99, and this spermseg knows"):
        segment_night(night, nothing)
    assert place.read_bytes() == data


@pytest.mark.parametrize("name", ["forecast.json", "start-20260101T000000Z-000000.json"])
@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b'{"seconds": NaN}', b'{"a": 1e999}'])
def test_a_damaged_note_beside_a_receipt_stops_nothing(night, name, data):
    run_id = first_run(night.out)
    RunFolder(night.out, run_id).notes.child(name).write_bytes(data)
    RunFolder(night.out, run_id).receipt.delete()
    (receipt,) = segment_night(night, nothing)
    assert receipt.forecast is None
    assert verify(night.out)[1] == []


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"a": NaN}', b'{"a": ' + b"9" * 10_000 + b"}"),
        *(b'{"cells": "many"}', b'{"reasons": [1]}', b'{"schema_version": 6}', b'{"planned": 1e400}'),
    ],
)
def test_a_receipt_that_is_none_is_one_line_each(night, data, capsys):
    RunFolder(night.out, first_run(night.out)).receipt.write_bytes(data)
    assert Verify(out=night.out.uri).run() == 1
    found = [line for line in capsys.readouterr().out.splitlines() if "receipt.json is damaged" in line]
    assert len(found) == 1


def test_what_a_unit_says_of_its_run_leads_nowhere_out_of_the_table(night):
    write_anew(ok_unit(night.out), run_id="/../../../../escaped")
    around = Path(night.out.path).parent
    before = {path for path in around.parent.rglob("*") if "results" not in path.parts}
    segment_night(replace(night, check_files=True), nothing)
    assert {path for path in around.parent.rglob("*") if "results" not in path.parts} == before
    assert verify(night.out)[1] == []


def test_a_run_of_which_nothing_can_be_read_is_kept_aside_and_done_again(night, caplog):
    run_id, planned = first_run(night.out), len(rows_of(night.out)) - 1
    for place in [RunFolder(night.out, run_id).plan, *RunFolder(night.out, run_id).units()]:
        flip(place)
    broken = {place.name: place.read_bytes() for place in RunFolder(night.out, run_id).units()}
    segment_night(replace(night, check_files=True), nothing)
    assert verify(night.out) == (PLANNED + 1, [])
    aside = night.out.child("damaged", run_id)
    assert {name: aside.child(name).read_bytes() for name in broken} == broken
    assert f"It had planned {planned}: uploads that are still there are planned anew" in caplog.text


def test_what_a_killed_writer_leaves_is_nobodys(night):
    RunFolder(night.out, first_run(night.out)).notes.child(".partial-0011").write_bytes(b"half")
    Path(unit(night.out).path).with_name(".partial-0011223344556677").write_bytes(b"half")
    assert verify(night.out)[1] == []


def test_too_little_memory_is_no_damage(night, monkeypatch):
    def no_memory(*_, **__):
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    place = unit(night.out)
    before = place.read_bytes()
    monkeypatch.setattr("spermseg.table.results.open_parquet", no_memory)
    with pytest.raises(RuntimeError, match="this process has too little memory left"):
        segment_night(replace(night, check_files=True), nothing)
    assert place.read_bytes() == before


@pytest.mark.parametrize("place", [unit, lambda out: RunFolder(out, first_run(out)).receipt])
def test_a_file_as_large_as_none_is_read_no_further(night, place):
    with Path(place(night.out).path).open("r+b") as file:
        file.truncate(2**40)
    assert any("more than any such file of spermseg has" in line for line in verify(night.out)[1])


def test_each_bit_before_the_seal_of_a_unit_counts(night):
    place = unit(night.out)
    whole = place.read_bytes()
    mark = whole.rindex(b"spermseg_sha256")
    for bit in range(8 * (mark - 2), 8 * (mark + 17)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        place.write_bytes(bytes(data))
        with pytest.raises(RuntimeError, match="is damaged"):
            read_unit(place)


def test_random_flips_are_all_found_and_end_in_lines(night):
    drawn, out = random.Random(18), night.out
    run_id = first_run(out)
    places = [RunFolder(out, run_id).units()[0], RunFolder(out, run_id).plan, RunFolder(out, run_id).receipt]
    for number in range(60):
        place = places[number % 3]
        whole = place.read_bytes()
        bit = drawn.randrange(8 * len(whole))
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        place.write_bytes(bytes(data))
        found = verify(out)[1]
        assert any(place.name in line for line in found), (place.name, bit)
        place.write_bytes(whole)
    assert verify(out) == (PLANNED + 1, [])


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_command_that_mends_gives_no_advice_to_give_it(night, kind, caplog):
    DAMAGE[kind](night.out)
    segment_night(replace(night, check_files=True), nothing)
    assert "--check-files" not in caplog.text


def test_what_is_damaged_while_it_is_mended_is_told_without_advice_that_was_taken(night, monkeypatch):
    def damaging(*arguments):
        run_in_process(*arguments)
        flip(unit(night.out))

    unit(night.out).delete()
    monkeypatch.setattr("spermseg.batch.run.run_pipeline", damaging)
    with pytest.raises(RuntimeError, match=r"is damaged.*; the same command goes on") as caught:
        segment_night(replace(night, check_files=True), nothing)
    assert "--check-files" not in str(caught.value)
    monkeypatch.setattr("spermseg.batch.run.run_pipeline", run_in_process)
    segment_night(night, nothing)
    assert verify(night.out) == (PLANNED + 1, [])


def test_the_plan_of_another_model_is_not_read_whole_every_night(night, monkeypatch):
    stricter = replace(night, settings=replace(night.settings, cells=replace(night.settings.cells, min_area=300)))
    segment_night(stricter, nothing)
    whole, read = [], repair.Plan

    def spied(place, *, whole=False, _noted=whole):
        if whole:
            _noted.append(place.path.split("/")[-2])
        return read(place, whole=whole)

    monkeypatch.setattr(repair, "Plan", spied)
    assert segment_night(stricter, nothing) == []
    assert len(whole) == 1
    assert segment_night(replace(stricter, check_files=True), nothing) == []
    assert len(whole) == 1 + 3
