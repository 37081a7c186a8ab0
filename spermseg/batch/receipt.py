"""The proof that nothing was lost: every planned micrograph has exactly one row, counted from the files themselves."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from spermseg.batch.plan import Plan
from spermseg.batch.results import OK, REJECTED, read_units
from spermseg.errors import RunError
from spermseg.storage.filesystem import Location

COUNTED = ("image_id", "status", "reason", "width_px", "height_px", "n_cells")


@dataclass(kw_only=True)
class Count:
    """What the result files of one run hold."""

    rows: Counter[str] = field(default_factory=Counter)
    """Rows of each image id."""
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    megapixels: float = 0.0
    cells: int = 0
    units: int = 0


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What `runs/<run_id>/receipt.json` says. It exists = the run is finished."""

    run_id: str
    input: str
    model_sha256: str
    recipe_sha256: str
    version: str
    planned: int
    ok: int
    rejected: int
    reasons: dict[str, int]
    """Rejected rows by reason."""
    units: int
    cells: int
    megapixels: float
    started: str
    """ISO 8601, UTC; of the last start, where the run was resumed."""
    ended: str
    duration_s: float


def run_folder(out: Location, run_id: str) -> Location:
    """Return `OUT/runs/<run_id>`."""
    return out.child("runs", run_id)


def plan_location(out: Location, run_id: str) -> Location:
    """Return where a run's plan lies."""
    return run_folder(out, run_id).child("plan.parquet")


def receipt_location(out: Location, run_id: str) -> Location:
    """Return where a run's receipt lies once it is finished."""
    return run_folder(out, run_id).child("receipt.json")


def list_runs(out: Location) -> list[str]:
    """Return the ids of the runs that have a plan, oldest first."""
    found = (item.key.split("/") for item in out.child("runs").list())
    return sorted({parts[0] for parts in found if parts[-1] == "plan.parquet"})


def read_receipt(out: Location, run_id: str) -> dict[str, Any] | None:
    """Return a run's receipt; None where it has not finished."""
    location = receipt_location(out, run_id)
    if not location.exists():
        return None
    try:
        receipt = json.loads(location.read_bytes())
    except json.JSONDecodeError as error:
        raise RunError(f"{location.uri} is damaged: {error}; delete it, and segment again to write it anew") from error
    if not isinstance(receipt, dict):
        raise RunError(f"{location.uri} is damaged: an object is needed; delete it, and segment again")
    return receipt


def write_receipt(out: Location, receipt: Receipt) -> None:
    """Write the receipt: the run is finished."""
    text = json.dumps(asdict(receipt), indent=2, ensure_ascii=False) + "\n"
    receipt_location(out, receipt.run_id).write_bytes(text.encode("utf-8", "backslashreplace"))


def count_rows(out: Location, run_id: str) -> Count:
    """Count the rows of a run from its files."""
    count = Count()
    for table in read_units(out, run_id, COUNTED):
        count.units += 1
        for row in table.to_pylist():
            count.rows[row["image_id"]] += 1
            count.statuses[row["status"]] += 1
            if row["status"] == OK:
                count.megapixels += row["width_px"] * row["height_px"] / 1e6
                count.cells += row["n_cells"]
            else:
                count.reasons[row["reason"]] += 1
    return count


def differences(plan: Plan, count: Count) -> Iterator[str]:
    """Yield, a line each, where the rows of a run are not one for each planned micrograph."""
    planned = Counter(plan.image_ids())
    for image_id in planned.keys() | count.rows.keys():
        wanted, found = planned[image_id], count.rows[image_id]
        if wanted != 1 and wanted:
            yield f"image {image_id} is planned {wanted} times; once is needed"
        if found != min(wanted, 1):
            yield f"image {image_id} has {found} rows; {min(wanted, 1)} is needed"
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
        plan = Plan(plan_location(out, run_id))
        found += [f"run {run_id}: {line}" for line in sorted(differences(plan, count))]
        found += [f"run {run_id}: {line}" for line in _receipt_differences(read_receipt(out, run_id), plan, count)]
    found += [f"image {image_id} has rows in {n} runs; one is needed" for image_id, n in owners.items() if n > 1]
    return total, found


def _receipt_differences(receipt: dict[str, Any] | None, plan: Plan, count: Count) -> Iterator[str]:
    if receipt is None:
        yield "it has no receipt: it did not finish; segment again with the same arguments to go on"
        return
    actual = {"planned": len(plan), "ok": count.statuses[OK], "rejected": count.statuses[REJECTED]}
    for name, value in actual.items():
        if receipt.get(name) != value:
            yield f"the receipt says {name} {receipt.get(name)}, the files say {value}"
