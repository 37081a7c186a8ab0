"""What the result files of a run hold, counted from the files themselves."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from spermseg.batch.results import MACHINE_KEY, OK, REJECTED, list_units, read_unit, reason_kind
from spermseg.errors import RunError
from spermseg.storage.filesystem import Location

COUNTED = (
    *("image_id", "content_sha256", "run_id", "model_sha256", "recipe_sha256"),
    *("status", "reason", "width_px", "height_px", "n_cells"),
)


@dataclass(kw_only=True)
class Count:
    """What the result files of one run hold."""

    rows: Counter[str] = field(default_factory=Counter)
    """Rows of each image id."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Rows of each status."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected rows of each kind of reason."""
    megapixels: float = 0.0
    """Of the pictures that are ok."""
    cells: int = 0
    """Found in them."""
    units: set[str] = field(default_factory=set)
    """Names of the unit files read."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Name of a unit file that could not be read -> what to say of it."""
    makers: set[tuple[str, str, str]] = field(default_factory=set)
    """(run, model, settings) that rows name."""
    machines: set[str] = field(default_factory=set)
    """Hosts that segmented."""
    lines: list[str] = field(default_factory=list)
    """Of each row, its image id, status and content digest as a JSON list."""

    @property
    def table_sha256(self) -> str:
        """The digest of what was found in which upload, whatever the order of files and rows.

        It is that of `json.dumps(sorted([[image_id, status, content_sha256], ...]), separators=(",", ":"))`.
        """
        digest = hashlib.sha256(b"[")
        for number, line in enumerate(sorted(self.lines)):
            digest.update(f"{',' * (number > 0)}{line}".encode())
        digest.update(b"]")
        return digest.hexdigest()


def count_rows(out: Location, run_id: str) -> Count:
    """Count the rows of a run from its files, one file in memory at a time."""
    count = Count()
    for place in list_units(out, run_id):
        try:
            table = read_unit(place, COUNTED)
        except RunError as error:
            count.damaged[place.name] = error.message
            continue
        count.units.add(place.name)
        machine = (table.schema.metadata or {}).get(MACHINE_KEY)
        count.machines.update([machine.decode("utf-8", "replace")] if machine else [])
        _count_unit(count, table)
    return count


def _count_unit(count: Count, table: pa.Table) -> None:
    for row in table.to_pylist():
        count.rows[row["image_id"]] += 1
        count.statuses[row["status"]] += 1
        count.makers.add((row["run_id"], row["model_sha256"], row["recipe_sha256"]))
        told = [row["image_id"], row["status"], row["content_sha256"]]
        count.lines.append(json.dumps(told, separators=(",", ":")))
        if row["status"] == OK:
            count.megapixels += row["width_px"] * row["height_px"] / 1e6
            count.cells += row["n_cells"]
        else:
            count.reasons[reason_kind(row["reason"] or "no reason given")] += 1


def tally(planned: int, count: Count) -> dict[str, Any]:
    """Return what a receipt says that can be recounted from the files."""
    return {
        "planned": planned,
        "ok": count.statuses[OK],
        "rejected": count.statuses[REJECTED],
        "reasons": dict(sorted(count.reasons.items())),
        "units": len(count.units),
        "cells": count.cells,
        "megapixels": round(count.megapixels, 3),
        "table_sha256": count.table_sha256,
        "machines": sorted(count.machines),
    }
