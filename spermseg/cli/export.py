"""`spermseg export`: a table -> one CSV or Parquet file."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from spermseg.cli.arguments.options import PATIENCE_MINUTES, EndpointUrl, PatienceMinutes
from spermseg.cli.incomplete_table import warn_of_damage
from spermseg.cli.terminal import say
from spermseg.errors import ConfigError
from spermseg.report.export import OF_A_CELL, cell_lines, write_export
from spermseg.storage.filesystem import Location
from spermseg.table.latest import read_current
from spermseg.table.results import LIGHT, SCHEMA


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a table as one file for a spreadsheet or a statistics program, with one line for each micrograph or cell.

    Masks are left out; DuckDB and pyarrow read them from the table. If an upload was rejected and tried again, its last
    row is written. In a CSV, an apostrophe precedes text that a spreadsheet would take for a formula. Columns:
    docs/results-schema.md.

    Exits with 1 if a file of the table is damaged. The file is named, and the lines of all other files are written.

    Example: spermseg export results --to cells.csv --cells --finished
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder or s3://bucket/prefix that `spermseg segment` wrote to."""
    to: str
    """The file to write, *.csv or *.parquet, also on S3. An existing file is replaced."""
    cells: bool = False
    """Write one line for each cell, instead of one for each micrograph."""
    finished: bool = False
    """Leave out runs that have not finished."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Write the file and print its location."""
        out, target = Location(self.out, self.endpoint_url), Location(self.to, self.endpoint_url)
        if any(out.child(folder).contains(target) for folder in ("results", "runs")):
            raise ConfigError(f"got {target.uri}, which is inside the table; give a file outside the table")
        damage: dict[str, None] = {}
        columns = [*OF_A_CELL, "cells"] if self.cells else LIGHT
        rows = read_current(out, columns, finished_only=self.finished, on_damage=damage.setdefault)
        tables = map(cell_lines, rows) if self.cells else rows
        empty = SCHEMA.empty_table()
        schema = (cell_lines(empty) if self.cells else empty.select(LIGHT)).schema
        lines = write_export(tables, schema, target)
        say(f"export: {target.uri}, {lines} {'cells' if self.cells else 'micrographs'}")
        return warn_of_damage(damage, "the export is not complete")
