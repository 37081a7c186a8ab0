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
    """Write a table as one file, for a spreadsheet or a statistics program: one line a micrograph, or one a cell.

    Masks are left out; they stay in the table, where DuckDB and pyarrow read them. Of an upload that was rejected and
    tried again, the last row is written. In a CSV, text that a spreadsheet would take for a formula gets an apostrophe
    before it. Columns: docs/results-schema.md.

    Exits with 1 where a file of the table is damaged: the lines of all others are written, and the file is named.

    Example: spermseg export results --to cells.csv --cells --finished
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder or s3://bucket/prefix that `spermseg segment` wrote to."""
    to: str
    """The file to write, *.csv or *.parquet, also on S3; one that is there is replaced."""
    cells: bool = False
    """One line a cell, instead of one a micrograph."""
    finished: bool = False
    """Leave out runs that have not finished."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Write the file and print where it is."""
        out, target = Location(self.out, self.endpoint_url), Location(self.to, self.endpoint_url)
        if any(out.child(folder).contains(target) for folder in ("results", "runs")):
            raise ConfigError(f"got {target.uri}, which lies in the table itself; give a file outside of it")
        damage: dict[str, None] = {}
        columns = [*OF_A_CELL, "cells"] if self.cells else LIGHT
        rows = read_current(out, columns, finished_only=self.finished, on_damage=damage.setdefault)
        tables = map(cell_lines, rows) if self.cells else rows
        empty = SCHEMA.empty_table()
        schema = (cell_lines(empty) if self.cells else empty.select(LIGHT)).schema
        lines = write_export(tables, schema, target)
        say(f"export: {target.uri}, {lines} {'cells' if self.cells else 'micrographs'}")
        return warn_of_damage(damage, "the export is not complete")
