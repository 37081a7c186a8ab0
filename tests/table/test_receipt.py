import hashlib
import json
import platform
import re
import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.dark_cells import PLANNED, night_over, run_in_process, write_uploads

from spermseg.batch import run
from spermseg.cli.verify import Verify
from spermseg.errors import RunError
from spermseg.storage.filesystem import Location
from spermseg.table.counting import count_rows
from spermseg.table.receipt import (
    list_runs,
    read_receipt,
    store_receipt,
)
from spermseg.table.results import encode_unit, list_units, read_unit, read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model) -> Location:
    """A finished night of units of four, to copy."""
    folder = tmp_path_factory.mktemp("night")
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    write_uploads(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        run.segment_night(night_over(source, out, model, arguments=("spermseg", "segment")), lambda progress: None)
    return out


@pytest.fixture
def table(finished, out) -> Location:
    """The finished night, to spoil."""
    shutil.copytree(finished.path, out.path)
    return out


def run_of(table: Location) -> str:
    (run_id,) = list_runs(table)
    return run_id


def image_ids(place: Location) -> list[str]:
    return read_unit(place)["image_id"].to_pylist()


def change_unit(place: Location, column: str, value: str) -> None:
    """Give every row of a unit this value."""
    unit = read_unit(place)
    index = unit.schema.get_field_index(column)
    place.write_bytes(encode_unit(unit.set_column(index, unit.schema.field(index), pa.array([value] * len(unit)))))


def change_receipt(table: Location, **changes) -> None:
    store_receipt(RunFolder(table, run_of(table)), {**read_receipt(RunFolder(table, run_of(table))), **changes})


def expect(table: Location, capsys, *lines: str) -> None:
    """Expect that `spermseg verify` prints these lines (regular expressions, of the run unless they say so), and 1."""
    prefix = f"run {run_of(table)}: "
    status = Verify(out=table.uri).run()
    *found, summary = capsys.readouterr().out.splitlines()
    wanted = [line if line.startswith(("^", "run")) else re.escape(prefix) + line for line in lines]
    assert len(found) == len(wanted), found
    for line, pattern in zip(sorted(found), sorted(wanted), strict=True):
        assert re.search(pattern, line), (pattern, line)
    assert status == 1
    assert f" rows, {len(found)} difference" in summary


def test_a_finished_night_is_verified(table, capsys):
    assert Verify(out=table.uri).run() == 0
    assert capsys.readouterr().out == f"verified: {PLANNED} rows, one for each planned\n"


def test_a_planned_image_without_a_row_is_a_difference(table, capsys):
    lost = list_units(table)[0]
    ids = image_ids(lost)
    Path(lost.path).unlink()
    _, found = verify(table)
    assert [line for line in found if "has 0 rows" in line] == [
        f"run {run_of(table)}: image {image_id} has 0 rows; one is needed" for image_id in sorted(ids)
    ]
    assert Verify(out=table.uri).run() == 1
    assert "the receipt says units 6, the files say 5" in capsys.readouterr().out


def test_a_planned_image_with_two_rows_is_a_difference(table, capsys):
    twice = list_units(table)[0]
    RunFolder(table, run_of(table)).unit("again").write_bytes(twice.read_bytes())
    _, found = verify(table)
    assert [line for line in found if "has 2 rows" in line] == [
        f"run {run_of(table)}: image {image_id} has 2 rows; one is needed" for image_id in sorted(image_ids(twice))
    ]


def test_a_row_that_was_not_planned_is_a_difference(table):
    stray = list_units(table)[0]
    rows = len(image_ids(stray))
    change_unit(stray, "image_id", "f" * 32)
    _, found = verify(table)
    assert f"run {run_of(table)}: image {'f' * 32} was not planned and has {rows} rows" in found


def test_a_row_with_another_status_is_a_difference(table):
    change_unit(list_units(table)[0], "status", "maybe")
    assert any("it has a status that is neither ok nor rejected" in line for line in verify(table)[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 999) for name in ("planned", "ok", "rejected", "units", "cells", "heads", "megapixels")),
        ("table_sha256", "999"),
        ("machines", ["999"]),
    ],
)
def test_a_receipt_with_another_count_is_a_difference(table, capsys, name, value):
    change_receipt(table, **{name: value})
    expect(table, capsys, rf"the receipt says {name} {re.escape(str(value))}, the files say [][\w.'-]+$")


@pytest.mark.parametrize("name", ["input", "model", "model_sha256", "recipe_sha256", "started"])
def test_a_receipt_that_contradicts_its_plan_is_a_difference(table, capsys, name):
    change_receipt(table, **{name: "another"})
    expect(table, capsys, rf"the receipt says {name} another, the plan says \S*$")


@pytest.mark.parametrize(
    ("name", "column"), [("run", "run_id"), ("model", "model_sha256"), ("settings", "recipe_sha256")]
)
def test_rows_of_another_run_model_or_settings_than_planned_are_a_difference(table, capsys, name, column):
    change_unit(list_units(table)[0], column, "another")
    expect(table, capsys, rf"rows of the {name} another; [\w-]+ is needed")


def test_what_was_found_in_an_upload_cannot_be_changed_without_a_difference(table, capsys):
    change_unit(list_units(table)[0], "content_sha256", "0" * 64)
    expect(table, capsys, r"the receipt says table_sha256 \w{64}, the files say \w{64}")


def test_the_digest_of_a_table_is_that_of_its_sorted_rows_in_whatever_files(table):
    run_id = run_of(table)
    told = [
        [row["image_id"], row["status"], row["content_sha256"]]
        for unit in read_units(table)
        for row in unit.to_pylist()
    ]
    assert len(told) == PLANNED
    digest = hashlib.sha256(json.dumps(sorted(told), separators=(",", ":")).encode()).hexdigest()
    assert read_receipt(RunFolder(table, run_id))["table_sha256"] == digest
    names = [unit.name for unit in list_units(table)]
    for unit, name in zip(list_units(table), [*names[1:], "unit-last.parquet"], strict=True):
        Path(unit.path).rename(Path(unit.path).with_name("moved-" + name))
    for moved in Path(table.path).rglob("moved-*"):
        moved.rename(moved.with_name(moved.name.removeprefix("moved-")))
    assert count_rows(RunFolder(table, run_id)).table_sha256 == digest


def test_a_receipt_says_what_made_the_rows(table):
    receipt = read_receipt(RunFolder(table, run_of(table)))
    assert receipt["machines"] == [socket.gethostname()]
    assert receipt["software"].keys() >= {"spermseg", "python", "torch", "ray", "opencv-python-headless", "pyarrow"}
    assert receipt["software"]["python"] == platform.python_version()
    assert receipt["arguments"] == ["spermseg", "segment"]
    assert receipt["starts"] == 1
    assert receipt["started"] <= receipt["last_started"] <= receipt["ended"]


def test_a_receipt_of_the_first_version_is_verified_by_what_it_says(table, capsys):
    place = RunFolder(table, run_of(table)).receipt
    said = json.loads(place.read_bytes())
    later = ("model", "table_sha256", "machines", "software", "arguments", "starts", "last_started")
    later += ("schema_version", "files_sha256", "plan_sha256", "sha256")
    place.write_bytes(json.dumps({name: value for name, value in said.items() if name not in later}).encode())
    assert Verify(out=table.uri).run() == 0


def test_a_receipt_with_other_reasons_is_a_difference(table, capsys):
    change_receipt(table, reasons={"bad luck": 8})
    expect(table, capsys, r"the receipt says reasons {'bad luck': 8}, the files say {.*'the file is empty': 1")


def test_a_missing_receipt_is_a_run_that_did_not_finish(table, capsys):
    Path(RunFolder(table, run_of(table)).receipt.path).unlink()
    expect(
        table, capsys, "it has no receipt, so the run did not finish; the same `spermseg segment` command continues it"
    )


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_damaged_receipt_is_a_line_that_says_what_to_do(table, capsys, data):
    place = RunFolder(table, run_of(table)).receipt
    place.write_bytes(data)
    with pytest.raises(RunError, match="is damaged"):
        read_receipt(RunFolder(table, run_of(table)))
    expect(table, capsys, r".*receipt\.json is damaged \(.*\); the same `spermseg segment` command with --check-files")


def test_a_damaged_plan_is_a_line_that_says_what_to_do(table, capsys):
    RunFolder(table, run_of(table)).plan.write_bytes(b"PAR1")
    expect(table, capsys, r".*plan\.parquet is damaged \(.*\); the same `spermseg segment` command with --check-files")


def test_a_damaged_result_is_a_line_beside_its_lost_rows(table):
    damaged = list_units(table)[2]
    ids = image_ids(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-50])
    _, found = verify(table)
    assert f"run {run_of(table)}: {damaged.uri} is damaged" in found[0]
    assert [line for line in found if "has 0 rows" in line] == [
        f"run {run_of(table)}: image {image_id} has 0 rows; one is needed" for image_id in sorted(ids)
    ]


def test_a_row_in_two_runs_is_a_difference(table, capsys):
    run_id, other = run_of(table), "zzz"
    for folder in ("runs/{}", "results/run={}"):
        shutil.copytree(f"{table.path}/{folder.format(run_id)}", f"{table.path}/{folder.format(other)}")
    rows, found = verify(table)
    assert rows == 2 * PLANNED
    twice = [
        f"image {image_id} has rows in 2 runs; one is needed"
        for place in RunFolder(table, run_id).units()
        for image_id in image_ids(place)
    ]
    assert sorted(found) == sorted([*twice, f"run {other}: rows of the run {run_id}; {other} is needed"])
    assert Verify(out=table.uri).run() == 1


def test_rows_of_a_run_that_has_no_plan_are_a_difference(table, capsys):
    RunFolder(table, "stray").unit("ab").write_bytes(list_units(table)[0].read_bytes())
    expect(table, capsys, "run stray: it has rows but no plan")


def test_an_image_that_is_planned_twice_is_a_difference(table):
    place = RunFolder(table, run_of(table)).plan
    planned = pq.read_table(place.path)
    place.write_bytes(encode_unit(pa.concat_tables([planned, planned.slice(0, 1)])))
    image_id = planned["image_id"][0].as_py()
    assert f"run {run_of(table)}: image {image_id} is planned 2 times; once is needed" in verify(table)[1]


def test_a_folder_without_a_run_is_an_error_of_one_line(out):
    with pytest.raises(RunError, match="holds no run; a folder that `spermseg segment` wrote to is needed"):
        verify(out)


def test_runs_are_listed_oldest_first_with_what_is_finished(table):
    run_id = run_of(table)
    RunFolder(table, "00000101T000000Z-old").plan.write_bytes(RunFolder(table, run_id).plan.read_bytes())
    assert list_runs(table) == {"00000101T000000Z-old": False, run_id: True}
