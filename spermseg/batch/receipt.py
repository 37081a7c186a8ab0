"""The proof that nothing was lost: every planned micrograph has exactly one row, counted from the files themselves."""

import importlib.metadata
import json
import os
import platform
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

import spermseg
from spermseg.batch.counting import Count, as_texts, count_rows, repeated, same_once, tally
from spermseg.batch.plan import Plan
from spermseg.batch.results import OK, REJECTED, run_results, runs_with_rows
from spermseg.errors import ObjectMissingError, RunError, first_line
from spermseg.storage.filesystem import Location
from spermseg.texts import json_text

SOFTWARE = ("torch", "ray", "opencv-python-headless", "pyarrow")
"""Packages that decide a row, beside this one."""
FORECAST = "forecast.json"
FROM_PLAN = ("input", "model", "model_sha256", "recipe_sha256", "started")
"""What a receipt says as its plan does."""
ADDED = {"model", "table_sha256", "machines", "heads", "passed_over"}
"""What receipts of earlier versions do not say."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What `runs/<run_id>/receipt.json` says. It exists = the run is finished."""

    run_id: str
    input: str
    """Where the uploads were listed."""
    model: str
    """Where the model was read."""
    model_sha256: str
    recipe_sha256: str
    """Digest of the settings."""
    version: str
    """Version of spermseg."""
    software: dict[str, str]
    """What else decided the rows -> its version."""
    arguments: Sequence[str]
    """The words of the last start's command line, without secrets."""
    planned: int
    """Micrographs: ok + rejected."""
    ok: int
    rejected: int
    reasons: dict[str, int]
    """Rejected rows by kind of reason (`results.reason_kind`)."""
    passed_over: dict[str, int]
    """What was listed and is no upload, by kind: files of operating systems, links to other uploads."""
    units: int
    """Result files."""
    cells: int
    heads: int | None
    """None where a picture that is ok has no such count."""
    megapixels: float
    """Of the pictures that are ok."""
    table_sha256: str
    """Digest of the sorted list of all rows' image id, status and content digest (`Count.table_sha256`)."""
    machines: list[str]
    """Hosts that segmented."""
    started: str
    """ISO 8601, UTC; of the first start."""
    starts: int
    """How often the run was started until it was finished."""
    last_started: str
    """ISO 8601, UTC; of the last start."""
    ended: str
    """ISO 8601, UTC."""
    duration_s: float
    """From the last start to the end."""
    worker_bytes: float
    """The most memory that a worker had since the last start."""
    table_bytes: int
    """Of the result files."""
    forecast: dict[str, float] | None
    """What was told before it began, from a sample (`forecast.Forecast`); None for a small run."""


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


def count_starts(out: Location, run_id: str) -> int:
    """Return how often a run was started, this time included."""
    return sum(item.key.startswith("start-") for item in run_folder(out, run_id).list())


def write_start(out: Location, run_id: str, started: datetime, arguments: Sequence[str]) -> None:
    """Note that work on a run began: `runs/<run_id>/start-<time>.json`, by which the receipt counts its starts."""
    said = {
        "started": _moment(started),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "arguments": list(arguments),
    }
    place = run_folder(out, run_id).child(f"start-{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json")
    place.write_bytes((json.dumps(said, indent=2) + "\n").encode())


def write_forecast(out: Location, run_id: str, forecast: dict[str, float]) -> None:
    """Note what a run was told to take: `runs/<run_id>/forecast.json`, for its receipt."""
    text = json.dumps(forecast, indent=2) + "\n"
    run_folder(out, run_id).child(FORECAST).write_bytes(text.encode())


def _read_forecast(out: Location, run_id: str) -> dict[str, float] | None:
    try:
        found: dict[str, float] = json.loads(run_folder(out, run_id).child(FORECAST).read_bytes())
    except (ObjectMissingError, ValueError):
        return None
    return found


def make_receipt(
    out: Location,
    run_id: str,
    plan: Plan,
    count: Count,
    started: datetime,
    arguments: Sequence[str],
    *,
    worker_bytes: float,
) -> Receipt:
    """Return the receipt of a run that ends now.

    Args:
        out: the table.
        run_id: the run.
        plan: its plan.
        count: its rows, which `differences` finds to be as planned.
        started: when this start began.
        arguments: the words of the command line, without secrets.
        worker_bytes: the most memory that a worker had.
    """
    said, ended = plan.metadata, datetime.now(UTC)
    return Receipt(
        run_id=run_id,
        input=said.get("input", ""),
        model=said.get("model", ""),
        model_sha256=said.get("model_sha256", ""),
        recipe_sha256=said.get("recipe_sha256", ""),
        started=said.get("started", _moment(started)),
        version=spermseg.__version__,
        software=_software(),
        arguments=list(arguments),
        passed_over=plan.passed_over,
        **tally(len(plan), count),
        starts=count_starts(out, run_id),
        last_started=_moment(started),
        ended=_moment(ended),
        duration_s=round((ended - started).total_seconds(), 3),
        worker_bytes=worker_bytes,
        table_bytes=sum(item.size for item in run_results(out, run_id).list()),
        forecast=_read_forecast(out, run_id),
    )


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _software() -> dict[str, str]:
    versions = {"spermseg": spermseg.__version__, "python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # another build of it does the same work
            continue
    return versions


def write_receipt(out: Location, receipt: Receipt) -> None:
    """Write the receipt: the run is finished."""
    text = json_text(asdict(receipt))
    receipt_location(out, receipt.run_id).write_bytes(text.encode())


def differences(plan: Plan, count: Count) -> Iterator[str]:
    """Yield, a line each, where the rows of a run are not one for each planned micrograph."""
    yield from count.damaged.values()
    yield from _misplaced(plan, count)
    unknown = count.statuses.keys() - {OK, REJECTED}
    if unknown:
        yield f"rows with the status {', '.join(sorted(unknown))}; ok or rejected is needed"


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


def _makers(run_id: str, plan: Plan, count: Count) -> Iterator[str]:
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
        count = count_rows(out, run_id)
        total += count.rows
        ids = pa.chunked_array([*ids.chunks, count.image_ids.unique()])
        found += [f"run {run_id}: {line}" for line in _run_differences(out, run_id, count)]
    found += [f"run {run_id}: it has rows but no plan" for run_id in sorted(runs_with_rows(out) - runs.keys())]
    more = Counter(repeated(ids).to_pylist())
    found += [f"image {image_id} has rows in {n + 1} runs; one is needed" for image_id, n in more.items()]
    return total, found


def _run_differences(out: Location, run_id: str, count: Count) -> Iterator[str]:
    try:
        plan = Plan(plan_location(out, run_id))
        yield from differences(plan, count)
        yield from _makers(run_id, plan, count)
        receipt = read_receipt(out, run_id)
    except RunError as error:
        yield error.message
        return
    if receipt is None:
        yield "it has no receipt: it did not finish; segment again with the same arguments to go on"
        return
    said = plan.metadata
    yield from _contradictions(receipt, "the files say", tally(len(plan), count))
    told = {name: said[name] for name in FROM_PLAN if name in said}
    yield from _contradictions(receipt, "the plan says", {**told, "passed_over": plan.passed_over})


def _contradictions(receipt: dict[str, Any], who: str, facts: dict[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        older = name in ADDED and name not in receipt
        if receipt.get(name) != value and not older:
            yield f"the receipt says {name} {receipt.get(name)}, {who} {value}"
