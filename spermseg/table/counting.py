"""What the result files of a run hold, counted from the files themselves."""

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


UNITS_AT_ONCE = 4
"""Result files that are read in parallel."""
LINES_AT_ONCE = 1 << 16
"""Lines that are digested at once."""
_one_line = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(kw_only=True)
class Count:
    """What the result files of one run hold. Of each row it keeps some 150 bytes."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Rows of each status."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected rows of each kind of reason."""
    megapixels: float = 0.0
    """Of the pictures that are ok."""
    cells: int = 0
    """Cells found in the pictures that are ok."""
    counted_heads: int = 0
    """Of the pictures in which heads were looked for."""
    uncounted: int = 0
    """Pictures that are ok in which none were: the model tells none, or an earlier version wrote the row."""
    units: set[str] = field(default_factory=set)
    """Names of the unit files read."""
    homes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name of a unit file -> (the run that its rows name, the file name that is right for them)."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Name of a unit file that could not be read -> what to say of it."""
    makers: set[tuple[str, str, str]] = field(default_factory=set)
    """(run, model, settings) that rows name."""
    machines: set[str] = field(default_factory=set)
    """Hosts that segmented."""
    lines: list[bytes] = field(default_factory=list)
    """Of each row, its image id, status and content digest as a JSON list; those of a file in lines."""

    @property
    def misnamed(self) -> list[str]:
        """What to say of each unit file whose name is not that of its rows."""
        wrong = sorted(name for name, (_, right) in self.homes.items() if name != right)
        return [f"{name} holds the rows of {self.homes[name][1]}; {MEND}" for name in wrong]

    @property
    def heads(self) -> int | None:
        """Heads in the pictures that are ok; None where one of them, or none at all, has no such count."""
        return self.counted_heads if self.statuses[OK] and not self.uncounted else None

    @property
    def image_ids(self) -> pa.ChunkedArray:
        """The image ids of all rows."""
        return as_texts([json.loads(line)[0] for line in lines] for lines in map(bytes.splitlines, self.lines))

    @property
    def table_sha256(self) -> str:
        """The digest of what was found in which upload, whatever the order of files and rows.

        It is that of `json.dumps(sorted([[image_id, status, content_sha256], ...]), separators=(",", ":"))`.
        """
        lines = sorted(line for lines in self.lines for line in lines.splitlines())
        digest = hashlib.sha256(b"[")
        for start in range(0, len(lines), LINES_AT_ONCE):
            digest.update(b"," * (start > 0) + b",".join(lines[start : start + LINES_AT_ONCE]))
        digest.update(b"]")
        return digest.hexdigest()


def count_rows(run: RunFolder) -> Count:
    """Count the rows of a run from its files, a few files in memory at a time."""
    count = Count()
    with threads_ahead(UNITS_AT_ONCE) as pool:
        for place, table in map_ahead(pool, _read, run.units(), count=UNITS_AT_ONCE):
            if isinstance(table, DamagedError):
                count.damaged[place.name] = table.message
            else:
                runs = set(table["run_id"].to_pylist())
                home = (runs.pop() if len(runs) == 1 else "", right_name(table["image_id"].to_pylist()))
                count.homes[place.name] = home
                count.units.add(place.name)
                machine = (table.schema.metadata or {}).get(MACHINE_KEY)
                count.machines.update([machine.decode("utf-8", "replace")] if machine else [])
                _count_unit(count, {name: table[name].to_pylist() for name in COUNTED})
    return count


def _read(place: Location) -> tuple[Location, pa.Table | DamagedError]:
    try:
        return place, read_unit(place, COUNTED, thorough=True)
    except DamagedError as error:
        return place, error


def _count_unit(count: Count, unit: dict[str, list[Any]]) -> None:
    """Count the rows of a unit, given as column -> values; by columns, which takes a third of the time of rows."""
    count.rows += len(unit["image_id"])
    count.statuses.update(unit["status"])
    count.makers.update(zip(unit["run_id"], unit["model_sha256"], unit["recipe_sha256"], strict=True))
    told = zip(unit["image_id"], unit["status"], unit["content_sha256"], strict=True)
    count.lines.append("\n".join(map(_one_line, told)).encode())
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
    """Return lists of texts as one array: a Python text takes twice the memory, and a counter of them five times."""
    return pa.chunked_array((pa.array(batch, pa.large_string()) for batch in batches), pa.large_string())


def repeated(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the texts that occur more than once, each as often as it does so again."""
    ordered = ids.take(pc.sort_indices(ids))
    return ordered[1:].filter(pc.equal(ordered[1:], ordered[:-1])) if len(ordered) > 1 else ordered[:0]


def same_once(some: pa.ChunkedArray, others: pa.ChunkedArray) -> bool:
    """Whether some texts are the same as others, in whatever order, and none is there twice."""
    if len(some) != len(others):
        return False
    ordered = some.take(pc.sort_indices(some))
    return ordered.equals(others.take(pc.sort_indices(others))) and not len(repeated(ordered))


def tally(planned: int, count: Count) -> dict[str, Any]:
    """Return what a receipt says that can be recounted from the files."""
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
