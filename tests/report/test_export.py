import csv
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fault_proxy import Fault, FaultProxy, Kind

from spermseg.errors import ConfigError, RunError, StorageError
from spermseg.report.export import OF_A_CELL, cell_lines, write_export
from spermseg.storage import open_files, patience
from spermseg.storage.filesystem import Location
from spermseg.texts import read_csv_cell, visible

CELL = pa.struct([pa.field("x", pa.int32()), pa.field("confidence", pa.float32()), pa.field("mask", pa.string())])
SCHEMA = pa.schema([*(pa.field(name, pa.string()) for name in OF_A_CELL[:-1]), ("um_per_px", pa.float32())])
WITH_CELLS = SCHEMA.append(pa.field("cells", pa.list_(CELL)))
FORMULAS = ["=1+1", "+cmd", "-2", "@SUM(A1)", "\uff1d1", " =1", "'=1", '"=1', "\" '@A1"]


def rows(*names: str, schema: pa.Schema = SCHEMA, **more) -> pa.Table:
    return pa.Table.from_pylist([{"image_id": str(n), "uri": name, **more} for n, name in enumerate(names)], schema)


def cells_of(*numbers: int | None) -> pa.Table:
    """Return micrographs with so many cells; None is one that was rejected."""
    cells = [None if n is None else [{"x": 10 * n + i, "mask": "0"} for i in range(n)] for n in numbers]
    told = [{"image_id": str(n), "uri": "a.png", "cells": found} for n, found in enumerate(cells)]
    return pa.Table.from_pylist(told, WITH_CELLS)


def read_csv(place: Location) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(place.read_bytes().decode(), newline="")))


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table_is_written_table_by_table_on_every_storage(place, name):
    target = place.child(name)
    assert write_export(iter([rows("a.png"), rows("b.png", "c.png")]), SCHEMA, target) == 3
    if name.endswith("csv"):
        assert [row["uri"] for row in read_csv(target)] == ["a.png", "b.png", "c.png"]
    else:
        assert pq.read_table(io.BytesIO(target.read_bytes()))["uri"].to_pylist() == ["a.png", "b.png", "c.png"]
    assert [item.key for item in place.list()] == [name]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_that_a_spreadsheet_would_calculate_is_text_in_csv_and_as_it_was_in_parquet(tmp_path, name):
    places = [Location(str(tmp_path / f"table.{kind}")) for kind in ("csv", "parquet")]
    for target in places:
        write_export([rows(name, f"a{name}")], SCHEMA, target)
    assert [row["uri"] for row in read_csv(places[0])] == [f"'{name}", f"a{name}"]
    assert pq.read_table(places[1].path)["uri"].to_pylist() == [name, f"a{name}"]


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=5))
def test_whatever_the_names_no_field_begins_a_formula_and_what_is_harmless_is_as_it_was(tmp_path_factory, names):
    target = Location(str(tmp_path_factory.mktemp("export") / "table.csv"))
    write_export([rows(*names, group='say "no"; 1,2')], SCHEMA, target)
    found = read_csv(target)
    assert [read_csv_cell(row["uri"]) for row in found] == [visible(name) for name in names]
    assert not any(row["uri"].startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in found)
    assert all(row["group"] == 'say "no"; 1,2' for row in found)


def test_an_export_is_its_owners_alone(tmp_path):
    for name in ("table.csv", "table.parquet"):
        write_export([rows("a.png")], SCHEMA, Location(str(tmp_path / "new" / name)))
        assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_line_a_cell_has_its_micrograph_and_its_number_there():
    lines = cell_lines(cells_of(2, 0, None, 3)).to_pylist()
    assert [(line["image_id"], line["cell"], line["x"]) for line in lines] == [
        *(("0", 0, 20), ("0", 1, 21)),
        *(("3", 0, 30), ("3", 1, 31), ("3", 2, 32)),
    ]
    assert "mask" not in lines[0]


def test_cells_of_units_that_have_none_are_no_lines(tmp_path):
    target = Location(str(tmp_path / "cells.csv"))
    schema = cell_lines(WITH_CELLS.empty_table()).schema
    tables = map(cell_lines, [cells_of(None), cells_of(), cells_of(1, None)])
    assert write_export(tables, schema, target) == 1
    assert write_export([], schema, target) == 0
    assert target.read_bytes().decode().startswith('"image_id","uri"')


def test_where_the_table_fails_the_file_that_was_there_stays(place):
    target = place.child("table.csv")
    target.write_bytes(b"before")

    def tables():
        yield rows("a.png")
        raise RunError("unit 2 is damaged")

    with pytest.raises(RunError, match="unit 2 is damaged"):
        write_export(tables(), SCHEMA, target)
    assert target.read_bytes() == b"before"
    assert [item.key for item in place.list()] == ["table.csv"]


@pytest.mark.parametrize("name", ["table", "table.xlsx", "csv", "table.csv.gz"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"a file that ends in \.csv or \.parquet is needed"):
        write_export([], SCHEMA, Location(str(tmp_path / name)))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="/file could not be made: ") as caught:
        write_export([], SCHEMA, Location(str(tmp_path / "file" / "table.csv")))
    assert "\n" not in caught.value.message


def test_what_keeps_a_file_from_being_written_is_said_rather_than_what_follows():
    with pytest.raises(StorageError, match="could not be written: ") as caught:
        write_export([], SCHEMA, Location("/proc/table.csv"))
    assert "delete" not in caught.value.message


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_an_outage_in_the_middle_of_an_export_costs_time_and_not_the_work(moto_server, monkeypatch, name):
    monkeypatch.setattr(open_files, "PART", 5 << 20)
    patience.be_patient(patience.Patience(total_s=60, longest_wait_s=0.01))
    behind = moto_server.new_bucket().child(name)
    table = rows(*(os.urandom(500).hex() for _ in range(6000)))
    with FaultProxy(moto_server.endpoint_url) as proxy:
        proxy.inject(Fault(kind=Kind.RESET, on="PUT|POST", after=2, times=20))
        assert write_export([table, table], SCHEMA, Location(behind.uri, proxy.endpoint_url)) == 12000
        assert proxy.faults[Kind.RESET] == 20
    if name.endswith("csv"):
        assert [row["uri"] for row in read_csv(behind)] == table["uri"].to_pylist() * 2
    else:
        assert pq.read_table(io.BytesIO(behind.read_bytes()))["uri"].to_pylist() == table["uri"].to_pylist() * 2
