from pathlib import Path

import pyarrow as pa
import pytest

from spermseg.errors import RunError
from spermseg.table.results import (
    ADDED,
    CELL,
    SCHEMA,
    encode_unit,
    list_units,
    read_unit,
    read_units,
    reason_kind,
    results_table,
    run_of,
    schema_markdown,
)
from spermseg.table.run_folder import RunFolder

FIELDS = [*SCHEMA, *CELL]
CELL_ROW = {
    "x": 1,
    "y": 2,
    "width": 3,
    "height": 4,
    "area": 9,
    "area_um2": None,
    "touches_border": False,
    "confidence": 0.5,
    "mask": "0",
}
ROW = {
    "image_id": "1",
    "uri": "/uploads/größe.png",
    "member": None,
    "run_id": "r",
    "model_sha256": "m",
    "recipe_sha256": "s",
    "version": "0",
    "status": "ok",
    "width_px": 8,
    "height_px": 6,
    "n_cells": 1,
    "cells": [CELL_ROW],
}
REJECTED_ROW = ROW | {"image_id": "2", "status": "rejected", "reason": "the file is empty", "cells": None}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_column_says_what_it_means_and_every_figure_its_unit(field):
    said = {key.decode(): value.decode() for key, value in field.metadata.items()}
    assert said["meaning"]
    is_figure = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    assert ("unit" in said) == is_figure


def test_a_unit_file_reads_back_as_it_was_with_the_meanings(out):
    table = results_table([ROW, REJECTED_ROW])
    place = RunFolder(out, "night-1").unit("ab")
    place.write_bytes(encode_unit(table))
    read = read_unit(place)
    assert read.equals(table)
    for field in SCHEMA:
        assert field.metadata.items() <= read.schema.field(field.name).metadata.items()
    assert read.schema.metadata[b"spermseg_schema_version"] == b"6"
    assert read["cells"].to_pylist() == [[CELL_ROW], None]


def test_a_unit_of_the_first_version_is_read_with_what_it_lacks_as_null(out):
    place = RunFolder(out, "night-1").unit("ab")
    place.write_bytes(encode_unit(results_table([ROW]).drop_columns(sorted(ADDED))))
    assert read_unit(place).equals(results_table([ROW]))
    assert read_unit(place, ["n_heads", "image_id"]).to_pylist() == [{"n_heads": None, "image_id": "1"}]


def test_the_same_rows_give_the_same_bytes():
    assert encode_unit(results_table([ROW, REJECTED_ROW])) == encode_unit(results_table([ROW, REJECTED_ROW]))


def test_a_row_without_what_every_row_must_have_is_refused():
    with pytest.raises(pa.ArrowInvalid, match="status"):
        encode_unit(results_table([ROW | {"status": None}]))


def test_units_are_listed_by_run_and_nothing_else_is(out):
    places = [RunFolder(out, run_id).unit(name) for run_id in ("a", "b") for name in ("1", "2")]
    for place in places:
        place.write_bytes(encode_unit(results_table([ROW])))
    out.child("results", "run=a", ".partial-0").write_bytes(b"")
    out.child("results", "run=c", "notes.txt").write_bytes(b"")
    assert list_units(out) == places
    assert RunFolder(out, "a").units() == places[:2]
    assert {run_of(place) for place in list_units(out)} == {"a", "b"}
    assert [table.column_names for table in read_units(out, ["image_id"])] == [["image_id"]] * 4


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no Parquet at all", encode_unit(results_table([ROW]))[:-100]])
def test_a_damaged_unit_is_one_line_that_says_what_to_do(out, data):
    place = RunFolder(out, "night-1").unit("ab")
    place.write_bytes(data)
    with pytest.raises(RunError, match=r"unit-ab\.parquet is damaged .*with --check-files repairs the table") as caught:
        read_unit(place)
    assert "\n" not in caught.value.message


def test_a_foreign_table_under_the_name_of_a_unit_is_refused(out):
    place = RunFolder(out, "night-1").unit("ab")
    place.write_bytes(encode_unit(pa.table({"image_id": ["1"]})))
    with pytest.raises(RunError, match=r"lacks the columns height_px, model_sha256, .*, status, "):
        read_unit(place, ["image_id"])


@pytest.mark.parametrize(
    ("reason", "other"),
    [
        ("it holds 12 bytes where the archive declares 13", "it holds 7 bytes where the archive declares 1300"),
        ("its checksum is 0a1b2c3d where ffffffff is declared", "its checksum is 12345678 where deadbeef is declared"),
    ],
)
def test_reasons_that_differ_in_numbers_only_are_of_one_kind(reason, other):
    assert reason_kind(reason) == reason_kind(other)


def test_reasons_in_other_words_are_of_other_kinds():
    assert reason_kind("the file is empty") == "the file is empty"
    assert reason_kind("TIFF with 3 pictures") != reason_kind("PNG with 3 pictures")


def test_the_document_of_the_schema_is_current():
    written = (Path(__file__).parents[2] / "docs" / "results-schema.md").read_text()
    assert written == schema_markdown(), "python -m spermseg.table.results > docs/results-schema.md"
    assert all(f"| `{field.name}` |" in written for field in FIELDS)
