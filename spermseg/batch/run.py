"""One night: plan, segment what is not done, prove it, write the receipt."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import spermseg
from spermseg.batch.pipeline import PipelineJob, UnitDone, Workers, run_pipeline
from spermseg.batch.plan import Identity, Plan, Planned, encode_plan, list_uploads, split_units
from spermseg.batch.receipt import (
    Receipt,
    count_rows,
    differences,
    list_runs,
    plan_location,
    tally,
    write_receipt,
)
from spermseg.batch.results import REJECTED, unit_location
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

    @cached_property
    def identity(self) -> Identity:
        """What makes the same upload the same."""
        return Identity(model_sha256=hashlib.sha256(self.model).hexdigest(), settings_sha256=self.settings.sha256)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    run_id: str
    planned: int
    """Micrographs of the run."""
    done: int
    """Rows written, those of an earlier start included."""
    rejected: int
    """Of these, rejected."""
    megapixels: float
    """Segmented since this start."""


OnProgress = Callable[[Progress], None]


def segment_night(night: Night, on_progress: OnProgress) -> list[Receipt]:
    """Segment every upload that has no row yet.

    An unfinished run over the same input, model and settings is completed first, under its own id; what came in since
    it was planned becomes a run of its own.

    Args:
        night: what is to be done.
        on_progress: called at the start of a run, and for each unit of work that is done.

    Returns:
        The receipt of each run that was completed; none where there was nothing to do.

    Raises:
        ConfigError: the input holds no file, or uploads that an unfinished run over another input has planned.
        RunError: a run ended without one row for each planned micrograph; the same command goes on.
        StorageError: the input could not be listed, or the output not be written.
    """
    receipts = [_complete(night, run_id, datetime.now(UTC), on_progress) for run_id in _unfinished_runs(night)]
    started = datetime.now(UTC)
    run_id = _plan_run(night, started)
    if run_id is not None:
        receipts.append(_complete(night, run_id, started, on_progress))
    return receipts


def _unfinished_runs(night: Night) -> list[str]:
    wanted = _plan_metadata(night)
    return [
        run_id
        for run_id, finished in list_runs(night.out).items()
        if not finished and wanted.items() <= Plan(plan_location(night.out, run_id)).metadata.items()
    ]


def _plan_metadata(night: Night) -> dict[str, str]:
    return {"input": night.source.uri, **_model_and_settings(night)}


def _model_and_settings(night: Night) -> dict[str, str]:
    identity = night.identity
    return {"model_sha256": identity.model_sha256, "recipe_sha256": identity.settings_sha256}


def _plan_run(night: Night, started: datetime) -> str | None:
    """Store the plan of what has no row yet, before anything else is done; None where nothing is to do."""
    finished, unfinished = _planned_already(night)
    todo = _not_planned(list_uploads(night.source, night.identity), finished, unfinished)
    data, planned = encode_plan(split_units(todo), _plan_metadata(night) | {"version": spermseg.__version__})
    if planned == 0:
        if not finished:
            raise ConfigError(f"got {night.source.uri}, which holds no file; a folder with micrographs is needed")
        return None
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    plan_location(night.out, run_id).write_bytes(data, only_if_absent=True)
    return run_id


def _planned_already(night: Night) -> tuple[set[str], dict[str, str]]:
    """Return (image ids that finished runs have, image id -> unfinished run over another input), of this model.

    Their plans tell: they are small, and a finished run has a row for each line of its own.
    """
    finished: set[str] = set()
    unfinished: dict[str, str] = {}
    for run_id, is_finished in list_runs(night.out).items():
        plan = Plan(plan_location(night.out, run_id))
        if not _model_and_settings(night).items() <= plan.metadata.items():
            continue  # its ids differ from all of this night's
        if is_finished:
            finished.update(plan.image_ids())
        else:
            unfinished.update(dict.fromkeys(plan.image_ids(), run_id))
    return finished, unfinished


def _not_planned(planned: Iterable[Planned], finished: set[str], unfinished: dict[str, str]) -> Iterator[Planned]:
    for one in planned:
        if one.image_id in unfinished:
            run_id = unfinished[one.image_id]
            raise ConfigError(
                f"{one.uri} is planned by run {run_id}, which has not finished; segment the input of that run again, "
                f"or delete runs/{run_id} and results/run={run_id}"
            )
        if one.image_id not in finished:
            yield one


def _complete(night: Night, run_id: str, started: datetime, on_progress: OnProgress) -> Receipt:
    """Segment the units of a run that have no result yet, and write its receipt."""
    plan = Plan(plan_location(night.out, run_id))
    _segment_missing(night, run_id, plan, on_progress)
    return _finish(night, run_id, plan, started)


def _segment_missing(night: Night, run_id: str, plan: Plan, on_progress: OnProgress) -> None:
    before = count_rows(night.out, run_id)
    missing = [
        n for n in range(plan.units) if unit_location(night.out, run_id, plan.unit_id(n)).name not in before.units
    ]
    progress = Progress(
        run_id=run_id,
        planned=len(plan),
        done=before.rows.total(),
        rejected=before.statuses[REJECTED],
        megapixels=0.0,
    )
    on_progress(progress)

    def on_unit(unit: UnitDone) -> None:
        nonlocal progress
        progress = replace(
            progress,
            done=progress.done + unit.ok + unit.rejected,
            rejected=progress.rejected + unit.rejected,
            megapixels=progress.megapixels + unit.megapixels,
        )
        on_progress(progress)

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
    wrong = list(differences(plan, count))
    if wrong:
        shown = "; ".join(wrong[:SHOWN_DIFFERENCES])
        raise RunError(f"run {run_id} has {len(wrong)} differences from its plan: {shown}; the same command goes on")
    ended = datetime.now(UTC)
    receipt = Receipt(
        run_id=run_id,
        input=night.source.uri,
        model_sha256=night.identity.model_sha256,
        recipe_sha256=night.identity.settings_sha256,
        version=spermseg.__version__,
        **tally(len(plan), count),
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        duration_s=round((ended - started).total_seconds(), 3),
    )
    write_receipt(night.out, receipt)
    return receipt
