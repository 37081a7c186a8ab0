"""The receipt of a run: the proof that each planned micrograph has exactly one row, counted from the result files."""

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
from spermseg.errors import DamagedError, ObjectMissingError, RunError
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.storage.json_object import LARGEST, decode_object, encode_sealed, is_sealed
from spermseg.storage.parquet import SEALED_FROM, check_version
from spermseg.table.counting import Count, tally
from spermseg.table.plan import Plan
from spermseg.table.results import MEND, SCHEMA_VERSION
from spermseg.table.run_folder import PLAN, RECEIPT, RunFolder, is_unit

SOFTWARE = ("torch", "ray", "opencv-python-headless", "pyarrow")
"""Packages whose version can change a row, apart from spermseg itself."""
FORECAST_SAYS = ("seconds", "workers", "megapixels", "table_bytes", "worker_bytes")
"""Fields that a usable forecast has."""
ADDED = {"model", "table_sha256", "machines", "heads", "passed_over", "plan_sha256", "files_sha256"}
"""Fields that receipts of earlier versions lack."""
FROM_PLAN = ("input", "model", "model_sha256", "recipe_sha256", "started")
"""Fields that a receipt copies from the metadata of its plan."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The content of `runs/<run_id>/receipt.json`. A run is finished if and only if its receipt exists."""

    schema_version: int
    """Schema version of the table. Since version 6, the last line of the file is its own digest, `sha256`."""
    run_id: str
    input: str
    """URI whose uploads were listed."""
    model: str
    """URI of the model file."""
    model_sha256: str
    recipe_sha256: str
    """Digest of the settings."""
    version: str
    """Version of spermseg."""
    software: dict[str, str]
    """Package -> version, for all software that can change a row."""
    arguments: Sequence[str]
    """The words of the command line of the last start, without secrets."""
    planned: int
    """Number of planned micrographs: `ok` + `rejected`."""
    ok: int
    rejected: int
    reasons: dict[str, int]
    """Kind of reason (`results.reason_kind`) -> number of rejected rows."""
    passed_over: dict[str, int]
    """Kind -> number of listed files that are no uploads, such as files of operating systems and links to uploads."""
    units: int
    """Number of result files."""
    cells: int
    heads: int | None
    """Number of heads; None if a picture with the status ok has no count of heads."""
    megapixels: float
    """Total size of the pictures with the status ok."""
    table_sha256: str
    """Digest of the image id, status and content digest of all rows, sorted (`Count.table_sha256`)."""
    machines: list[str]
    """Hosts that segmented."""
    started: str
    """Time of the first start, ISO 8601, UTC."""
    starts: int
    """Number of starts until the run was finished."""
    last_started: str
    """Time of the last start, ISO 8601, UTC."""
    ended: str
    """Time of the end, ISO 8601, UTC."""
    duration_s: float
    """Time from the last start to the end."""
    worker_bytes: float
    """Peak memory of a worker since the last start."""
    table_bytes: int
    """Total size of the result files."""
    files_sha256: str
    """Digest of the listing of the result files (`files_digest`). If a later listing differs, the files are read."""
    plan_sha256: str
    """The seal of the plan."""
    forecast: dict[str, float] | None
    """Estimate from a sample (`forecast.Forecast`), made before the run began; None for a small run. It assumes workers
    with one CPU each of the machine that started the run, also if other machines segmented."""


def list_runs(out: Location) -> dict[str, bool]:
    """Return run id -> whether the run is finished, oldest run first. One listing shows all runs.

    A run has a plan, or, if its plan is lost, a receipt.
    """
    keys = {item.key for item in out.child("runs").list()}
    paths = [key.split("/") for key in keys]
    run_ids = {path[0] for path in paths if len(path) == 2 and path[1] in (PLAN, RECEIPT)}
    return {run_id: f"{run_id}/{RECEIPT}" in keys for run_id in sorted(run_ids)}


def require_runs(out: Location) -> dict[str, bool]:
    """Return the runs of a table as `list_runs` does.

    Raises:
        RunError: the table has no run.
    """
    runs = list_runs(out)
    if not runs:
        raise RunError(f"{out.uri} holds no run; a folder that `spermseg segment` wrote to is needed")
    return runs


def files_digest(files: Sequence[StoredObject]) -> str:
    """Return the digest of the names, sizes and etags that a listing shows of a run's unit files."""
    shown = sorted([item.key.rpartition("/")[2], item.size, item.etag] for item in files if is_unit(item.key))
    return hashlib.sha256(json.dumps(shown, separators=(",", ":")).encode()).hexdigest()


def read_receipt(run: RunFolder) -> dict[str, Any] | None:
    """Return a run's receipt; None if the run has not finished.

    Raises:
        DamagedError: the receipt is damaged.
        RunError: the receipt has a later schema version.
        StorageError: the receipt could not be read.
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
    """Return a pydantic model that checks the types in a receipt of any version. Each field may be missing."""
    fields: dict[str, Any] = {name: (kind | None, None) for name, kind in get_type_hints(Receipt).items()}
    return create_model("Said", __config__=ConfigDict(strict=True), **fields)


def count_starts(run: RunFolder) -> int:
    """Return how often a run was started, including this time."""
    return sum(item.key.startswith("start-") for item in run.notes.list())


def write_start(run: RunFolder, started: datetime, arguments: Sequence[str]) -> None:
    """Record a start of a run as `runs/<run_id>/start-<time>.json`. The receipt counts these files.

    Args:
        run: the run.
        started: the time of this start, UTC.
        arguments: the words of the command line, without secrets.
    """
    said = {
        "started": _moment(started),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "arguments": list(arguments),
    }
    place = run.notes.child(f"start-{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json")
    place.write_bytes((json.dumps(said, indent=2) + "\n").encode())


def write_forecast(run: RunFolder, forecast: dict[str, float]) -> None:
    """Record the forecast of a run as `runs/<run_id>/forecast.json`. The receipt copies it."""
    text = json.dumps(forecast, indent=2) + "\n"
    run.forecast.write_bytes(text.encode())


def _read_forecast(run: RunFolder) -> dict[str, float] | None:
    """Return a run's forecast; None if it is missing or damaged, since nothing depends on a forecast."""
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
        count: its rows. `verify.differences` must have found none.
        started: the time of this start, UTC.
        arguments: the words of the command line, without secrets.
        worker_bytes: peak memory of a worker.
    """
    unknown = {**dict.fromkeys(FROM_PLAN, ""), "started": _moment(started)}
    return Receipt(
        schema_version=SCHEMA_VERSION,
        run_id=run.run_id,
        version=spermseg.__version__,
        software=_software(),
        arguments=list(arguments),
        worker_bytes=worker_bytes,
        forecast=_read_forecast(run),
        **{**unknown, **facts_of_plan(plan)},
        **tally(len(plan), count),
        **_facts_of_listing(run),
        **_times(run, started, datetime.now(UTC)),
    )


def facts_of_plan(plan: Plan) -> dict[str, Any]:
    """Return the fields of a receipt that its plan determines. A plan of an earlier version determines fewer."""
    copied = {name: plan.metadata[name] for name in FROM_PLAN if name in plan.metadata}
    return {**copied, "passed_over": plan.passed_over, "plan_sha256": plan.seal}


def _facts_of_listing(run: RunFolder) -> dict[str, Any]:
    files = [item for item in run.results.list() if is_unit(item.key)]
    return {"table_bytes": sum(item.size for item in files), "files_sha256": files_digest(files)}


def _times(run: RunFolder, started: datetime, ended: datetime) -> dict[str, Any]:
    return {
        "starts": count_starts(run),
        "last_started": _moment(started),
        "ended": _moment(ended),
        "duration_s": round((ended - started).total_seconds(), 3),
    }


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _software() -> dict[str, str]:
    versions = {"spermseg": spermseg.__version__, "python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # another build may have another name, as opencv-python has
            continue
    return versions


def write_receipt(run: RunFolder, receipt: Receipt) -> None:
    """Write the receipt. From then on, the run is finished."""
    store_receipt(run, asdict(receipt))


def store_receipt(run: RunFolder, said: dict[str, Any]) -> None:
    """Write the fields of a receipt as JSON, with the digest of the file in its last line."""
    run.receipt.write_bytes(encode_sealed(said))
