"""The proof that nothing was lost: every planned micrograph has exactly one row, counted from the files themselves."""

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

import spermseg
from spermseg.errors import DamagedError, ObjectMissingError
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.storage.json_object import LARGEST, decode_object, encode_sealed, is_sealed
from spermseg.storage.parquet import SEALED_FROM, check_version
from spermseg.table.counting import Count, tally
from spermseg.table.plan import Plan
from spermseg.table.results import MEND, SCHEMA_VERSION
from spermseg.table.run_folder import PLAN, RECEIPT, RunFolder, is_unit

SOFTWARE = ("torch", "ray", "opencv-python-headless", "pyarrow")
"""Packages that decide a row, beside this one."""
FORECAST_SAYS = ("seconds", "workers", "megapixels", "table_bytes", "worker_bytes")
"""What is shown of a forecast."""
ADDED = {"model", "table_sha256", "machines", "heads", "passed_over", "plan_sha256", "files_sha256"}
"""What receipts of earlier versions do not say."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What `runs/<run_id>/receipt.json` says. It exists = the run is finished."""

    schema_version: int
    """Of the table; from version 6 on the last line of the file is its own digest, `sha256`."""
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
    files_sha256: str
    """Digest of what a listing showed of them (`files_digest`): a night that finds another looks into them."""
    plan_sha256: str
    """The digest that the plan says of itself."""
    forecast: dict[str, float] | None
    """What was told before it began, from a sample (`forecast.Forecast`), for so many workers with a CPU each of the
    machine that started the run, whatever segmented; None for a small run."""


def list_runs(out: Location) -> dict[str, bool]:
    """Return the ids of the runs, oldest first, and whether each is finished, in one listing.

    A run has a plan, or a receipt where its plan is lost.
    """
    found = {item.key for item in out.child("runs").list()}
    ends = (f"/{PLAN}", f"/{RECEIPT}")
    known = sorted({key.removesuffix(end) for key in found for end in ends if key.endswith(end)})
    return {run_id: f"{run_id}/{RECEIPT}" in found for run_id in known if "/" not in run_id}


def files_digest(files: Sequence[StoredObject]) -> str:
    """Return the digest of what a listing shows of a run's unit files: names, sizes and etags."""
    shown = sorted([item.key.rpartition("/")[2], item.size, item.etag] for item in files if is_unit(item.key))
    return hashlib.sha256(json.dumps(shown, separators=(",", ":")).encode()).hexdigest()


def read_receipt(run: RunFolder) -> dict[str, Any] | None:
    """Return a run's receipt; None where it has not finished.

    Raises:
        RunError: it is damaged.
    """
    try:
        return _decode_receipt(run.receipt.read_bytes(LARGEST))
    except ObjectMissingError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{run.receipt.uri} is damaged ({error.message}); {MEND}") from error


def _decode_receipt(data: bytes) -> dict[str, Any]:
    receipt = decode_object(data)
    try:
        _types().model_validate(receipt)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise DamagedError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
    version = receipt.get("schema_version") or 0
    check_version(version, SCHEMA_VERSION)
    if version >= SEALED_FROM and not is_sealed(data):
        raise DamagedError("it has no digest of its own, as receipts of its version have")
    return receipt


@cache
def _types() -> type[BaseModel]:
    """Return what checks the types of what a receipt of whatever version says."""
    fields: dict[str, Any] = {name: (kind | None, None) for name, kind in get_type_hints(Receipt).items()}
    return create_model("Said", __config__=ConfigDict(strict=True), **fields)


def count_starts(run: RunFolder) -> int:
    """Return how often a run was started, this time included."""
    return sum(item.key.startswith("start-") for item in run.notes.list())


def write_start(run: RunFolder, started: datetime, arguments: Sequence[str]) -> None:
    """Note that work on a run began: `runs/<run_id>/start-<time>.json`, by which the receipt counts its starts."""
    said = {
        "started": _moment(started),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "arguments": list(arguments),
    }
    place = run.notes.child(f"start-{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json")
    place.write_bytes((json.dumps(said, indent=2) + "\n").encode())


def write_forecast(run: RunFolder, forecast: dict[str, float]) -> None:
    """Note what a run was told to take: `runs/<run_id>/forecast.json`, for its receipt."""
    text = json.dumps(forecast, indent=2) + "\n"
    run.forecast.write_bytes(text.encode())


def _read_forecast(run: RunFolder) -> dict[str, float] | None:
    """Return a run's forecast; None where it has none that can be read, since nothing depends on it."""
    try:
        found = decode_object(run.forecast.read_bytes(LARGEST))
    except (ObjectMissingError, DamagedError):
        return None
    told = [found.get(name) for name in FORECAST_SAYS]
    return found if all(isinstance(value, int | float) for value in told) else None


def make_receipt(
    run: RunFolder,
    plan: Plan,
    count: Count,
    started: datetime,
    arguments: Sequence[str],
    *,
    worker_bytes: float,
) -> Receipt:
    """Return the receipt of a run that ends now.

    Args:
        run: the run.
        plan: its plan.
        count: its rows, which `differences` finds to be as planned.
        started: when this start began.
        arguments: the words of the command line, without secrets.
        worker_bytes: the most memory that a worker had.
    """
    said, ended = plan.metadata, datetime.now(UTC)
    files = [item for item in run.results.list() if is_unit(item.key)]
    return Receipt(
        schema_version=SCHEMA_VERSION,
        run_id=run.run_id,
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
        starts=count_starts(run),
        last_started=_moment(started),
        ended=_moment(ended),
        duration_s=round((ended - started).total_seconds(), 3),
        worker_bytes=worker_bytes,
        table_bytes=sum(item.size for item in files),
        files_sha256=files_digest(files),
        plan_sha256=plan.seal,
        forecast=_read_forecast(run),
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


def write_receipt(run: RunFolder, receipt: Receipt) -> None:
    """Write the receipt: the run is finished."""
    store_receipt(run, asdict(receipt))


def store_receipt(run: RunFolder, said: dict[str, Any]) -> None:
    """Write what a receipt says, and the digest of the file in it."""
    run.receipt.write_bytes(encode_sealed(said))
