"""Counting the rows of a run in its result files."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spermseg.errors import DamagedError
from spermseg.storage.filesystem import Location
from spermseg.storage.prefetch import map_ahead, threads_ahead
from spermseg.table.results import (
    MACHINE_KEY,
    MEND,
    OK,
    REJECTED,
    read_unit,
    reason_kind,
    right_name,
)
from spermseg.table.run_folder import RunFolder

COUNTED = (
    *("image_id", "content_sha256", "run_id", "model_sha256", "recipe_sha256"),
    *("status", "reason", "width_px", "height_px", "n_cells", "n_heads"),
)
"""Columns that are read to count."""
UNITS_AT_ONCE = 4
"""Number of result files that are read concurrently."""
LINES_AT_ONCE = 1 << 16
"""Number of lines that are joined and hashed at once."""
_one_line = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(kw_only=True)
class Count:
    """What the result files of one run hold. It takes about 150 bytes per row."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Status -> number of rows."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Kind of reason -> number of rejected rows."""
    megapixels: float = 0.0
    """Total size of the pictures with the status ok."""
    cells: int = 0
    """Number of cells in the pictures with the status ok."""
    counted_heads: int = 0
    """Number of heads in the pictures whose heads were counted."""
    uncounted: int = 0
    """Number of pictures with the status ok without a count of heads: the model segments no heads, or an earlier
    version wrote the row."""
    units: set[str] = field(default_factory=set)
    """Names of the unit files that were read."""
    homes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name of a unit file -> (the run that its rows name, the file name that belongs to its rows)."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Name of a unit file that could not be read -> the error message."""
    makers: set[tuple[str, str, str]] = field(default_factory=set)
    """The (run, model digest, settings digest) that rows name."""
    machines: set[str] = field(default_factory=set)
    """Hosts that segmented."""
    lines: list[bytes] = field(default_factory=list)
    """One entry per file, with one line per row: its image id, status and content digest as a JSON list."""

    @property
    def misnamed(self) -> list[str]:
        """One message for each unit file whose name does not belong to its rows."""
        wrong = sorted(name for name, (_, right) in self.homes.items() if name != right)
        return [f"{name} holds the rows of {self.homes[name][1]}; {MEND}" for name in wrong]

    @property
    def heads(self) -> int | None:
        """Number of heads in the pictures with the status ok; None if there are none, or if one has no count."""
        return self.counted_heads if self.statuses[OK] and not self.uncounted else None

    @property
    def image_ids(self) -> pa.ChunkedArray:
        """The image ids of all rows."""
        return as_texts([json.loads(line)[0] for line in lines] for lines in map(bytes.splitlines, self.lines))

    @property
    def table_sha256(self) -> str:
        """The digest of the outcome of each upload. The order of files and rows does not change it.

        It is the SHA-256 of `json.dumps(sorted([[image_id, status, content_sha256], ...]), separators=(",", ":"))`.
        """
        lines = sorted(line for lines in self.lines for line in lines.splitlines())
        digest = hashlib.sha256(b"[")
        for start in range(0, len(lines), LINES_AT_ONCE):
            digest.update(b"," * (start > 0) + b",".join(lines[start : start + LINES_AT_ONCE]))
        digest.update(b"]")
        return digest.hexdigest()


def count_rows(run: RunFolder) -> Count:
    """Count the rows of a run from its files. A few files are in memory at a time.

    Raises:
        RunError: a file has a later schema version.
        StorageError: a file could not be read. Damaged files are counted as such.
    """
    count = Count()
    with threads_ahead(UNITS_AT_ONCE) as pool:
        for place, table in map_ahead(pool, _read, run.units(), count=UNITS_AT_ONCE):
            if isinstance(table, DamagedError):
                count.damaged[place.name] = table.message
            else:
                _count_file(count, place.name, table)
    return count


def _read(place: Location) -> tuple[Location, pa.Table | DamagedError]:
    try:
        return place, read_unit(place, COUNTED, thorough=True)
    except DamagedError as error:
        return place, error


def _count_file(count: Count, name: str, table: pa.Table) -> None:
    unit: dict[str, list[Any]] = {column: table[column].to_pylist() for column in COUNTED}
    runs = set(unit["run_id"])
    count.homes[name] = (runs.pop() if len(runs) == 1 else "", right_name(unit["image_id"]))
    count.units.add(name)
    if machine := (table.schema.metadata or {}).get(MACHINE_KEY):
        count.machines.add(machine.decode("utf-8", "replace"))
    _count_unit(count, unit)


def _count_unit(count: Count, unit: dict[str, list[Any]]) -> None:
    """Count the rows of a unit, given as column -> values. Columns take a third of the time that rows take."""
    count.rows += len(unit["image_id"])
    count.statuses.update(unit["status"])
    count.makers.update(zip(unit["run_id"], unit["model_sha256"], unit["recipe_sha256"], strict=True))
    outcomes = zip(unit["image_id"], unit["status"], unit["content_sha256"], strict=True)
    count.lines.append("\n".join(map(_one_line, outcomes)).encode())
    figures = zip(unit["width_px"], unit["height_px"], unit["n_cells"], unit["n_heads"], strict=True)
    for status, reason, (width, height, cells, heads) in zip(unit["status"], unit["reason"], figures, strict=True):
        if status == OK:
            count.megapixels += width * height / 1e6
            count.cells += cells
            count.counted_heads += heads or 0
            count.uncounted += heads is None
        else:
            count.reasons[reason_kind(reason or "no reason given")] += 1


def as_texts(batches: Iterable[list[str]]) -> pa.ChunkedArray:
    """Return lists of strings as one Arrow array. Python strings take twice the memory, and a Counter five times."""
    return pa.chunked_array((pa.array(batch, pa.large_string()) for batch in batches), pa.large_string())


def repeated(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the strings that occur more than once. A string that occurs n times is returned n - 1 times."""
    ordered = ids.take(pc.sort_indices(ids))
    return ordered[1:].filter(pc.equal(ordered[1:], ordered[:-1])) if len(ordered) > 1 else ordered[:0]


def same_once(some: pa.ChunkedArray, others: pa.ChunkedArray) -> bool:
    """Whether two arrays hold the same strings in any order, and no string twice."""
    if len(some) != len(others):
        return False
    ordered = some.take(pc.sort_indices(some))
    return ordered.equals(others.take(pc.sort_indices(others))) and not len(repeated(ordered))


def tally(planned: int, count: Count) -> dict[str, Any]:
    """Return the fields of a receipt that can be counted again from the files."""
    return {
        "planned": planned,
        "ok": count.statuses[OK],
        "rejected": count.statuses[REJECTED],
        "reasons": dict(sorted(count.reasons.items())),
        "units": len(count.units),
        "cells": count.cells,
        "heads": count.heads,
        "megapixels": round(count.megapixels, 3),
        "table_sha256": count.table_sha256,
        "machines": sorted(count.machines),
    }
