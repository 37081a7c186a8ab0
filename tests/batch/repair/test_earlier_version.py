"""A table that the version before wrote is read, reported, exported, proved and gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damaged_tables import rows_of
from support.dark_cells import PLANNED, picture

from spermseg.batch.run import segment_night
from spermseg.cli.export import Export
from spermseg.cli.report import Report
from spermseg.storage.filesystem import Location
from spermseg.table.latest import read_current
from spermseg.table.receipt import list_runs, read_receipt
from spermseg.table.results import list_units, read_unit
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")

SINCE = ("bits", "clipped_fraction")
"""Columns that version 5 has not."""


def rewrite(place: Location) -> None:
    """Write a file as version 5 did: without these columns, and without a digest of its own."""
    file = pq.ParquetFile(pa.BufferReader(place.read_bytes()))
    names = [name for name in file.schema_arrow.names if name not in SINCE]
    metadata = {
        key: value for key, value in file.metadata.metadata.items() if key not in (b"spermseg_sha256", b"ARROW:schema")
    }
    units = [file.read_row_group(number, columns=names) for number in range(file.num_row_groups)]
    sink = pa.BufferOutputStream()
    schema = units[0].schema.with_metadata(metadata | {b"spermseg_schema_version": b"5"})
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for unit in units:
            writer.write_table(unit.replace_schema_metadata(schema.metadata), row_group_size=len(unit))
    place.write_bytes(sink.getvalue().to_pybytes())


@pytest.fixture
def earlier(night):
    """The night over a table of version 5."""
    for run_id in list_runs(night.out):
        for place in (RunFolder(night.out, run_id).plan, *RunFolder(night.out, run_id).units()):
            rewrite(place)
        said = read_receipt(RunFolder(night.out, run_id)) | {"schema_version": 5}
        for name in ("files_sha256", "plan_sha256", "passed_over"):
            del said[name]
        said["table_bytes"] = sum(place.stat().size for place in RunFolder(night.out, run_id).units())
        RunFolder(night.out, run_id).receipt.write_bytes(json.dumps(said).encode())
    return night


def test_it_is_read_reported_exported_and_proved(earlier, tmp_path):
    page, lines = tmp_path / "report.html", tmp_path / "rows.csv"
    rows = [row for table in read_current(earlier.out) for row in table.to_pylist()]
    assert len(rows) == PLANNED + 1
    assert {row[name] for row in rows for name in SINCE} == {None}
    assert verify(earlier.out) == (PLANNED + 1, [])
    assert Report(out=earlier.out.uri, html=str(page)).run() == 0
    assert Export(out=earlier.out.uri, to=str(lines)).run() == 0
    assert len(lines.read_text().splitlines()) == PLANNED + 2


@pytest.mark.parametrize("check_files", [False, True])
def test_it_is_gone_on_with(earlier, check_files):
    before, held = rows_of(earlier.out), {place.uri: place.read_bytes() for place in list_units(earlier.out)}
    night = replace(earlier, check_files=check_files)
    assert segment_night(night, lambda _: None) == []
    new = Path(earlier.source.path, "patient-5/later.png")
    new.parent.mkdir(exist_ok=True)
    new.write_bytes(picture(3))
    try:
        (receipt,) = segment_night(night, lambda _: None)
    finally:
        new.unlink()
    assert (receipt.planned, receipt.schema_version) == (1, 6)
    assert {uri: Location(uri).read_bytes() for uri in held} == held
    assert rows_of(earlier.out).items() >= before.items()
    assert verify(earlier.out) == (PLANNED + 2, [])


def test_what_it_lost_is_segmented_again(earlier):
    before = rows_of(earlier.out)
    list_units(earlier.out)[0].delete()
    segment_night(earlier, lambda _: None)
    assert verify(earlier.out) == (PLANNED + 1, [])
    assert rows_of(earlier.out).keys() == before.keys()
    assert {place.name for place in list_units(earlier.out) if len(read_unit(place, ["bits"]))}
