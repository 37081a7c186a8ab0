"""The proof recounted: rows of every run against its plan, its receipt and each other."""

from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

import pyarrow as pa

from spermseg.errors import DamagedError, ObjectMissingError, RunError
from spermseg.storage.filesystem import Location
from spermseg.storage.uris import EMPTY, is_partial
from spermseg.table.counting import Count, as_texts, count_rows, repeated, same_once, tally
from spermseg.table.plan import Plan
from spermseg.table.receipt import ADDED, list_runs, read_receipt
from spermseg.table.results import MEND, list_results
from spermseg.table.run_folder import RunFolder, is_note, is_unit

FROM_PLAN = ("input", "model", "model_sha256", "recipe_sha256", "started")
"""What a receipt says as its plan does."""


def differences(plan: Plan, count: Count) -> Iterator[str]:
    """Yield, a line each, where the rows of a run are not one for each planned micrograph."""
    yield from count.damaged.values()
    yield from count.misnamed
    yield from _misplaced(plan, count)


def _misplaced(plan: Plan, count: Count) -> Iterator[str]:
    if same_once(as_texts(plan.column("image_id")), count.image_ids):
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
    """Yield, a line each, where rows name another run, model or settings than the plan does."""
    said = plan.metadata
    wanted = (run_id, said.get("model_sha256"), said.get("recipe_sha256"))
    for maker in sorted(count.makers):
        for name, found, planned in zip(("run", "model", "settings"), maker, wanted, strict=True):
            if found != planned:
                yield f"rows of the {name} {found}; {planned} is needed"


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
    total, found, ids = 0, [], as_texts([])
    for run_id in runs:
        run = RunFolder(out, run_id)
        count = count_rows(run)
        total += count.rows
        ids = pa.chunked_array([*ids.chunks, count.image_ids.unique()])
        found += [f"run {run_id}: {line}" for line in _run_differences(run, count)]
    found += _foreign(out, runs)
    more = Counter(repeated(ids).to_pylist())
    found += [f"image {image_id} has rows in {n + 1} runs; one is needed" for image_id, n in more.items()]
    return total, found


def _foreign(out: Location, runs: Container[str]) -> Iterator[str]:
    """Yield, a line each, what lies among the results and is of no run."""
    for run_id, files in sorted(list_results(out).items()):
        units = [item for item in files if is_unit(item.key)]
        if run_id and run_id not in runs and units:
            yield f"run {run_id}: it has rows but no plan; {MEND}"
    advice = {"results": ", which readers of the table may take for one: move it away", "runs": ": move it away"}
    for part, rest in advice.items():
        for name in sorted(set(_foreign_names(out.child(part), part, runs))):
            yield f"{out.child(part).uri}/{name} is no file of spermseg's{rest}"


def _foreign_names(root: Location, part: str, runs: Container[str]) -> Iterator[str]:
    """Yield the paths in a part of a table, as far as its first folder that is not ours, that hold what is not ours."""
    is_ours = is_unit if part == "results" else is_note
    for item in root.list():
        folder, _, name = item.key.rpartition("/")
        deleted = part == "runs" and folder and "/" not in folder  # a run's notes may be left of it
        if not ((deleted or _is_run_folder(part, folder, runs)) and is_ours(name)) and not is_partial(item.key):
            yield _top(part, item.key, runs)
    for key, kind in root.no_files():
        left = kind == EMPTY and "/" not in key and (part == "runs" or _is_run_folder(part, key, runs))
        if not left:  # where a run was moved from
            yield _top(part, key, runs)


def _is_run_folder(part: str, folder: str, runs: Container[str]) -> bool:
    if part == "runs":
        return folder in runs
    return "/" not in folder and folder.startswith("run=") and folder != "run="


def _top(part: str, key: str, runs: Container[str]) -> str:
    first, _, rest = key.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if rest and _is_run_folder(part, first, runs) else first


def _run_differences(run: RunFolder, count: Count) -> Iterator[str]:
    plan, receipt = None, None
    try:
        receipt = read_receipt(run)
    except DamagedError as error:
        yield error.message
        receipt = {}
    try:
        plan = Plan(run.plan, whole=True)
        yield from differences(plan, count)
        yield from makers(run.run_id, plan, count)
    except ObjectMissingError:
        yield f"it has no plan; {MEND}"
    except DamagedError as error:
        yield error.message
    if plan is None:
        yield from count.damaged.values()
        return
    if receipt == {}:
        return
    if receipt is None:
        yield "it has no receipt: it did not finish; segment again with the same arguments to go on"
        return
    yield from contradictions(receipt, plan, count)


def contradictions(receipt: dict[str, Any], plan: Plan, count: Count, *, renewed: bool = False) -> Iterator[str]:
    """Yield, a line each, what a receipt says otherwise than the files of its run and its plan do.

    Args:
        receipt: from `read_receipt`.
        plan: the plan.
        count: of the files.
        renewed: the receipt's digest of the plan is about to be renewed.
    """
    said = plan.metadata
    yield from _contradictions(receipt, "the files say", tally(len(plan), count))
    told = {name: said[name] for name in FROM_PLAN if name in said}
    yield from _contradictions(receipt, "the plan says", {**told, "passed_over": plan.passed_over})
    if not renewed:
        yield from _contradictions(receipt, "the plan says", {"plan_sha256": plan.seal})


def _contradictions(receipt: dict[str, Any], who: str, facts: dict[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        older = name in ADDED and name not in receipt
        if receipt.get(name) != value and not older:
            yield f"the receipt says {name} {receipt.get(name)}, {who} {value}"
