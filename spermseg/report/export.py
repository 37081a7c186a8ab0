"""Export of a table to one file for other programs: CSV or Parquet, one line a micrograph or a cell, without masks.

People open CSV files in spreadsheets, and names come from uploads. A name that a spreadsheet would run as a formula is
written as text, with an apostrophe before it (`texts.csv_cell`).
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from spermseg.errors import ConfigError
from spermseg.storage.filesystem import Location
from spermseg.texts import csv_cell

OF_A_CELL = ("image_id", "uri", "member", "group", "run_id", "model_sha256", "recipe_sha256", "um_per_px")
"""Columns of the micrograph that are repeated in the line of each cell."""


def cell_lines(table: pa.Table) -> pa.Table:
    """Return one line a cell: columns of its micrograph, its number in the micrograph from 0, and its measures.

    The mask of the cell is left out.

    Args:
        table: rows of the results contract, with `OF_A_CELL` and `cells`.
    """
    cells = table["cells"].combine_chunks()
    parents = pc.list_parent_indices(cells)
    lines = table.select(list(OF_A_CELL)).take(parents)
    owners = parents.to_pylist()
    first = {owner: number for number, owner in reversed(list(enumerate(owners)))}
    numbers = [number - first[owner] for number, owner in enumerate(owners)]
    lines = lines.append_column("cell", pa.array(numbers, pa.int32()))
    measures = pc.list_flatten(cells)
    for field in measures.type:
        if field.name != "mask":
            lines = lines.append_column(field, pc.struct_field(measures, field.name))
    return lines


def write_export(tables: Iterable[pa.Table], schema: pa.Schema, target: Location) -> int:
    """Write tables into one file, and return the number of lines. The file appears only when it is complete.

    Args:
        tables: the lines; one table is in memory at a time.
        schema: of all tables.
        target: `*.csv` or `*.parquet`.

    Raises:
        ConfigError: the name has another suffix.
        StorageError: the file could not be written.
    """
    kind = PurePosixPath(target.name).suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ConfigError(f"got {target.uri}; a file that ends in .csv or .parquet is needed")
    make_writer = pyarrow.csv.CSVWriter if kind == ".csv" else pq.ParquetWriter
    written = 0
    with target.create() as file, make_writer(file, schema) as writer:
        for table in tables:
            lines = table.cast(schema)
            writer.write_table(_harmless(lines) if kind == ".csv" else lines)
            written += len(lines)
    return written


def _harmless(lines: pa.Table) -> pa.Table:
    """Return a table in which no text is a formula."""
    for number, field in enumerate(lines.schema):
        if pa.types.is_string(field.type):
            texts = [chunk.dictionary_encode() for chunk in lines[field.name].chunks]
            cells = [_cells(chunk) for chunk in texts]
            lines = lines.set_column(number, field, pa.chunked_array(cells, field.type))
    return lines


def _cells(texts: pa.DictionaryArray) -> pa.Array:
    """Return texts as cells of a CSV file. Each distinct text is converted once."""
    return pa.array([csv_cell(text) for text in texts.dictionary.to_pylist()], pa.string()).take(texts.indices)
