"""The proof that nothing was lost: every planned micrograph has exactly one row, counted from the files themselves."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from spermseg.batch.plan import Plan
from spermseg.batch.results import OK, REJECTED, list_units, read_unit, reason_kind, runs_with_rows
from spermseg.errors import ObjectMissingError, RunError, first_line
from spermseg.storage.filesystem import Location

COUNTED = ("image_id", "status", "reason", "width_px", "height_px", "n_cells")


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


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What `runs/<run_id>/receipt.json` says. It exists = the run is finished."""

    run_id: str
    input: str
    """Where the uploads were listed."""
    model_sha256: str
    recipe_sha256: str
    """Digest of the settings."""
    version: str
    """Version of spermseg."""
    planned: int
    """Micrographs: ok + rejected."""
    ok: int
    rejected: int
    reasons: dict[str, int]
    """Rejected rows by kind of reason (`results.reason_kind`)."""
    units: int
    """Result files."""
    cells: int
    megapixels: float
    """Of the pictures that are ok."""
    started: str
    """ISO 8601, UTC; of the last start, where the run was resumed."""
    ended: str
    """ISO 8601, UTC."""
    duration_s: float
    """From this start to the end."""


def run_folder(out: Location, run_id: str) -> Location:
    """Return `OUT/runs/<run_id>`."""
    return out.child("runs", run_id)


def plan_location(out: Location, run_id: str) -> Location:
    """Return where a run's plan lies."""
    return run_folder(out, run_id).child("plan.parquet")


def receipt_location(out: Location, run_id: str) -> Location:
    """Return where a run's receipt lies once it is finished."""
    return run_folder(out, run_id).child("receipt.json")


def list_runs(out: Location) -> dict[str, bool]:
    """Return the ids of the runs that have a plan, oldest first, and whether each is finished, in one listing."""
    found = {item.key for item in out.child("runs").list()}
    planned = sorted(key.removesuffix("/plan.parquet") for key in found if key.endswith("/plan.parquet"))
    return {run_id: f"{run_id}/receipt.json" in found for run_id in planned}


def read_receipt(out: Location, run_id: str) -> dict[str, Any] | None:
    """Return a run's receipt; None where it has not finished.

    Raises:
        RunError: it is damaged.
    """
    location = receipt_location(out, run_id)
    try:
        receipt = json.loads(location.read_bytes())
    except ObjectMissingError:
        return None
    except ValueError as error:
        raise RunError(f"{location.uri} is damaged ({first_line(error)}); {_REWRITE}") from error
    if not isinstance(receipt, dict):
        raise RunError(f"{location.uri} is damaged (a JSON object is needed); {_REWRITE}")
    return receipt


_REWRITE = "delete it, and segment again with the same arguments to write it anew"


def write_receipt(out: Location, receipt: Receipt) -> None:
    """Write the receipt: the run is finished."""
    text = json.dumps(asdict(receipt), indent=2, ensure_ascii=False) + "\n"
    receipt_location(out, receipt.run_id).write_bytes(text.encode("utf-8", "backslashreplace"))


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
        for row in table.to_pylist():
            count.rows[row["image_id"]] += 1
            count.statuses[row["status"]] += 1
            if row["status"] == OK:
                count.megapixels += row["width_px"] * row["height_px"] / 1e6
                count.cells += row["n_cells"]
            else:
                count.reasons[reason_kind(row["reason"] or "no reason given")] += 1
    return count


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
    }


def differences(plan: Plan, count: Count) -> Iterator[str]:
    """Yield, a line each, where the rows of a run are not one for each planned micrograph."""
    yield from count.damaged.values()
    planned = Counter(plan.image_ids())
    for image_id in sorted(planned.keys() | count.rows.keys()):
        wanted, found = planned[image_id], count.rows[image_id]
        if wanted > 1:
            yield f"image {image_id} is planned {wanted} times; once is needed"
        if wanted and found != 1:
            yield f"image {image_id} has {found} rows; one is needed"
        if not wanted:
            yield f"image {image_id} was not planned and has {found} row{'s' * (found > 1)}"
    unknown = count.statuses.keys() - {OK, REJECTED}
    if unknown:
        yield f"rows with the status {', '.join(sorted(unknown))}; ok or rejected is needed"


def verify(out: Location) -> tuple[int, list[str]]:
    """Recount every run from its files.

    Returns:
        (rows found, the differences, a line each; none where all is well)

    Raises:
        RunError: there is no run.
    """
    runs = list_runs(out)
    if not runs:
        raise RunError(f"{out.uri} holds no run; a folder that `spermseg segment` wrote to is needed")
    total, found, owners = 0, [], Counter[str]()
    for run_id in runs:
        count = count_rows(out, run_id)
        total += count.rows.total()
        owners.update(count.rows.keys())
        found += [f"run {run_id}: {line}" for line in _run_differences(out, run_id, count)]
    found += [f"run {run_id}: it has rows but no plan" for run_id in sorted(runs_with_rows(out) - runs.keys())]
    found += [f"image {image_id} has rows in {n} runs; one is needed" for image_id, n in owners.items() if n > 1]
    return total, found


def _run_differences(out: Location, run_id: str, count: Count) -> Iterator[str]:
    try:
        plan = Plan(plan_location(out, run_id))
        yield from differences(plan, count)
        receipt = read_receipt(out, run_id)
    except RunError as error:
        yield error.message
        return
    if receipt is None:
        yield "it has no receipt: it did not finish; segment again with the same arguments to go on"
        return
    for name, value in tally(len(plan), count).items():
        if receipt.get(name) != value:
            yield f"the receipt says {name} {receipt.get(name)}, the files say {value}"
