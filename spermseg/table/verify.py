"""Verification of a table: the rows of each run are compared with its plan, its receipt and the other runs."""

from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from spermseg.errors import DamagedError, ObjectMissingError
from spermseg.storage.filesystem import Location
from spermseg.table.counting import Count, as_texts, count_rows, repeated, same_once, tally
from spermseg.table.foreign_files import name_foreign_files
from spermseg.table.plan import Plan
from spermseg.table.receipt import ADDED, facts_of_plan, read_receipt, require_runs
from spermseg.table.results import MEND, list_results
from spermseg.table.run_folder import RunFolder, is_unit

Record = TypeVar("Record")


def differences(plan: Plan, count: Count) -> Iterator[str]:
    """Yield one line for each planned micrograph without exactly one row, and for each file that is not as planned."""
    yield from count.damaged.values()
    yield from count.misnamed
    yield from _misplaced(plan, count)


def _misplaced(plan: Plan, count: Count) -> Iterator[str]:
    if same_once(as_texts(plan.column("image_id")), count.image_ids):  # the counters below take five times the memory
        return
    planned, rows = Counter(plan.image_ids()), Counter(count.image_ids.to_pylist())
    for image_id in sorted(planned.keys() | rows.keys()):
        wanted, found = planned[image_id], rows[image_id]
        if wanted > 1:
            yield f"image {image_id} is planned {wanted} times; once is needed"
        if wanted and found != 1:
            yield f"image {image_id} has {found} rows; one is needed"
        if not wanted:
            yield f"image {image_id} was not planned and has {found} row{'s' * (found > 1)}"


def makers(run_id: str, plan: Plan, count: Count) -> Iterator[str]:
    """Yield one line for each run, model and digest of settings that rows name and the plan does not."""
    said = plan.metadata
    wanted = (run_id, said.get("model_sha256"), said.get("recipe_sha256"))
    for maker in sorted(count.makers):
        for name, found, planned in zip(("run", "model", "settings"), maker, wanted, strict=True):
            if found != planned:
                yield f"rows of the {name} {found}; {planned} is needed"


def verify(out: Location) -> tuple[int, list[str]]:
    """Count the rows of every run from its files, and compare them with what was planned.

    Returns:
        (number of rows, one line for each difference).

    Raises:
        RunError: the table has no run, or a file has a later schema version.
        StorageError: a file could not be read.
    """
    runs = require_runs(out)
    total, found, ids = 0, [], as_texts([])
    for run_id in runs:
        run = RunFolder(out, run_id)
        count = count_rows(run)
        total += count.rows
        ids = pa.chunked_array([*ids.chunks, count.image_ids.unique()])
        found += [f"run {run_id}: {line}" for line in _run_differences(run, count)]
    found += _rows_without_a_run(out, runs)
    found += name_foreign_files(out, runs)
    repeats = Counter(repeated(ids).to_pylist())
    found += [f"image {image_id} has rows in {n + 1} runs; one is needed" for image_id, n in repeats.items()]
    return total, found


def _rows_without_a_run(out: Location, runs: Container[str]) -> Iterator[str]:
    for run_id, files in sorted(list_results(out).items()):
        has_rows = any(is_unit(item.key) for item in files)
        if run_id and run_id not in runs and has_rows:
            yield f"run {run_id}: it has rows but no plan; {MEND}"


def _run_differences(run: RunFolder, count: Count) -> Iterator[str]:
    """Yield one line for each difference of a run. Without a plan, its rows can be compared with nothing."""
    receipt, receipt_fault = _attempt(read_receipt, run)
    plan, plan_fault = _attempt(_read_plan, run)
    yield from filter(None, (receipt_fault, plan_fault))
    if plan is None:
        yield from count.damaged.values()
        return
    yield from _differences_of_rows(run, plan, count)
    if receipt is not None:
        yield from contradictions(receipt, plan, count)
    elif not receipt_fault:
        yield "it has no receipt, so the run did not finish; the same `spermseg segment` command continues it"


def _attempt(read: Callable[[RunFolder], Record], run: RunFolder) -> tuple[Record | None, str]:
    """Return (what was read, no message), or (None, the message for a damaged file)."""
    try:
        return read(run), ""
    except DamagedError as error:
        return None, error.message


def _read_plan(run: RunFolder) -> Plan:
    try:
        return Plan(run.plan, whole=True)
    except ObjectMissingError as error:
        raise DamagedError(f"it has no plan; {MEND}") from error


def _differences_of_rows(run: RunFolder, plan: Plan, count: Count) -> Iterator[str]:
    try:
        yield from differences(plan, count)
        yield from makers(run.run_id, plan, count)
    except DamagedError as error:  # a plan is decoded while its lines are compared
        yield error.message


def contradictions(receipt: dict[str, Any], plan: Plan, count: Count, *, renewed: bool = False) -> Iterator[str]:
    """Yield one line for each field of a receipt that contradicts the result files or the plan of its run.

    Args:
        receipt: the receipt, from `read_receipt`.
        plan: the plan of the run.
        count: the rows of the run.
        renewed: whether to ignore `plan_sha256`, since the caller is about to renew it.
    """
    planned = facts_of_plan(plan)
    if renewed:
        planned.pop("plan_sha256")
    yield from _contradictions(receipt, "the files say", tally(len(plan), count))
    yield from _contradictions(receipt, "the plan says", planned)


def _contradictions(receipt: dict[str, Any], who: str, facts: dict[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        is_of_earlier_version = name in ADDED and name not in receipt
        if receipt.get(name) != value and not is_of_earlier_version:
            yield f"the receipt says {name} {receipt.get(name)}, {who} {value}"
