"""One night: plan, segment what is not done, prove it, write the receipt."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import spermseg
from spermseg.batch.pipeline import PipelineJob, UnitDone, Workers, run_pipeline
from spermseg.batch.plan import Identity, Plan, encode_plan, list_uploads, split_units, unit_id
from spermseg.batch.receipt import (
    Receipt,
    count_rows,
    differences,
    list_runs,
    plan_location,
    receipt_location,
    write_receipt,
)
from spermseg.batch.results import OK, REJECTED, list_units, read_units
from spermseg.batch.settings import SegmentSettings
from spermseg.errors import ConfigError, RunError
from spermseg.model.predict import PredictConfig
from spermseg.storage.filesystem import Location

SHOWN_DIFFERENCES = 3


@dataclass(frozen=True, kw_only=True)
class Night:
    """What is to be segmented, with what, into what."""

    source: Location
    out: Location
    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    workers: Workers

    def __post_init__(self) -> None:
        if self.source.contains(self.out) or self.out.contains(self.source):
            raise ConfigError(
                f"got the input {self.source.uri} and the output {self.out.uri}, one inside the other; "
                "give an output folder beside the input"
            )

    @property
    def identity(self) -> Identity:
        """What makes the same upload the same."""
        return Identity(model_sha256=hashlib.sha256(self.model).hexdigest(), settings_sha256=self.settings.sha256)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a night is."""

    planned: int
    """Micrographs of the run."""
    done: int
    """Rows written."""
    rejected: int
    """Of these, rejected."""
    megapixels: float
    """Segmented by this process."""


def segment_night(night: Night, on_progress: Callable[[Progress], None]) -> Receipt | None:
    """Segment every upload that has no row yet, and write the receipt.

    An unfinished run over the same input, model and settings is continued under its own id.

    Returns:
        The receipt; None where there was nothing to do.

    Raises:
        RunError: the run ended without one row for each planned micrograph; the same command goes on.
        StorageError: the input could not be listed, or the output not be written.
    """
    started = datetime.now(UTC)
    run_id = _unfinished_run(night) or _plan_run(night, started)
    if run_id is None:
        return None
    plan = Plan(plan_location(night.out, run_id))
    _segment_missing(night, run_id, plan, on_progress)
    return _finish(night, run_id, plan, started)


def _unfinished_run(night: Night) -> str | None:
    for run_id in list_runs(night.out):
        if not receipt_location(night.out, run_id).exists():
            stored = Plan(plan_location(night.out, run_id)).metadata
            if all(stored.get(key) == value for key, value in _plan_metadata(night).items()):
                return run_id
    return None


def _plan_metadata(night: Night) -> dict[str, str]:
    identity = night.identity
    return {
        "input": night.source.uri,
        "model_sha256": identity.model_sha256,
        "recipe_sha256": identity.settings_sha256,
    }


def _plan_run(night: Night, started: datetime) -> str | None:
    """Store the plan of what has no row yet, before anything else is done; None where nothing is to do."""
    done = {image_id for table in read_units(night.out, columns=["image_id"]) for image_id in table[0].to_pylist()}
    todo = (one for one in list_uploads(night.source, night.identity) if one.image_id not in done)
    data, planned = encode_plan(split_units(todo), _plan_metadata(night) | {"version": spermseg.__version__})
    if planned == 0:
        if not done:
            raise ConfigError(f"got {night.source.uri}, which holds no file; a folder with micrographs is needed")
        return None
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    plan_location(night.out, run_id).write_bytes(data, only_if_absent=True)
    return run_id


def _segment_missing(night: Night, run_id: str, plan: Plan, on_progress: Callable[[Progress], None]) -> None:
    present = {place.name for place in list_units(night.out, run_id)}
    missing = [n for n in range(plan.units) if f"unit-{unit_id(plan.unit(n))}.parquet" not in present]
    before = count_rows(night.out, run_id)
    done, rejected, megapixels = before.rows.total(), before.statuses[REJECTED], 0.0

    def on_unit(unit: UnitDone) -> None:
        nonlocal done, rejected, megapixels
        done += unit.ok + unit.rejected
        rejected += unit.rejected
        megapixels += unit.megapixels
        on_progress(Progress(planned=len(plan), done=done, rejected=rejected, megapixels=megapixels))

    on_progress(Progress(planned=len(plan), done=done, rejected=rejected, megapixels=megapixels))
    if missing:
        job = PipelineJob(
            plan=plan_location(night.out, run_id),
            out=night.out,
            run_id=run_id,
            model=night.model,
            settings=night.settings,
            predict=night.predict,
            source_endpoint_url=night.source.endpoint_url,
        )
        run_pipeline(job, missing, night.workers, on_unit)


def _finish(night: Night, run_id: str, plan: Plan, started: datetime) -> Receipt:
    count = count_rows(night.out, run_id)
    wrong = sorted(differences(plan, count))
    if wrong:
        shown = "; ".join(wrong[:SHOWN_DIFFERENCES])
        raise RunError(f"run {run_id} has {len(wrong)} differences from its plan: {shown}; the same command goes on")
    ended = datetime.now(UTC)
    receipt = Receipt(
        run_id=run_id,
        **_plan_metadata(night),
        version=spermseg.__version__,
        planned=len(plan),
        ok=count.statuses[OK],
        rejected=count.statuses[REJECTED],
        reasons=dict(sorted(count.reasons.items())),
        units=count.units,
        cells=count.cells,
        megapixels=round(count.megapixels, 3),
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        duration_s=round((ended - started).total_seconds(), 3),
    )
    write_receipt(night.out, receipt)
    return receipt
