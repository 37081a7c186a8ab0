"""One night: plan the uploads, segment them, verify the rows, write the receipt."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from spermseg.batch.forecast import cpus, draw_planned, extrapolate, measure_sample
from spermseg.batch.misplaced_files import tidy_run
from spermseg.batch.night import Night
from spermseg.batch.pipeline import PipelineJob, run_pipeline
from spermseg.batch.planning import OnListed, plan_run
from spermseg.batch.profile import Profile
from spermseg.batch.repair import survey_runs
from spermseg.batch.worker.messages import UnitDone
from spermseg.errors import RunError, SpermsegError
from spermseg.model.predict import read_predict_config
from spermseg.table.counting import Count, count_rows
from spermseg.table.lease import Lease, hold_lease
from spermseg.table.leftovers import remove_leftovers
from spermseg.table.plan import Plan
from spermseg.table.receipt import (
    Receipt,
    count_starts,
    make_receipt,
    write_forecast,
    write_receipt,
    write_start,
)
from spermseg.table.results import REJECTED, without_advice
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import differences

logger = logging.getLogger(__name__)

SHOWN_DIFFERENCES = 3


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run."""

    run_id: str
    planned: int
    """Micrographs of the run."""
    done: int
    """Rows written, including those of earlier starts."""
    rejected: int
    """Rejected rows among them."""
    profile: Profile
    """Times of the stages since this start."""

    @property
    def megapixels(self) -> float:
        """Megapixels segmented since this start."""
        return self.profile.spent.megapixels


OnProgress = Callable[[Progress], None]


def segment_night(night: Night, on_progress: OnProgress, on_listed: OnListed = lambda _: None) -> list[Receipt]:
    """Segment every upload that has no row yet or, on request, every upload whose row is rejected.

    An unfinished run over the same input, model and settings is completed first, under its own id. So is a finished run
    that lost files or has damaged ones. Uploads that came in later become a new run. If an unfinished run over rejected
    uploads was completed, this call plans no other run over rejected uploads.

    Args:
        night: what is to be done.
        on_progress: called at the start of a run, and for each finished unit.
        on_listed: called now and then during the listing, with the number of uploads so far.

    Returns:
        The receipt of each run that was completed; empty if there was nothing to do.

    Raises:
        ConfigError: the input holds no file, or an unfinished run over another input has planned one of the uploads.
        LockedError: another job works on this table.
        RunError: a run ended without one row for each planned micrograph, and the same command goes on; or another
            job took the table over.
        StorageError: the input could not be listed, or the output could not be written.
    """
    with hold_lease(night.out, night.arguments, take_over=night.take_over) as lease, _advising(night):
        remove_leftovers(night.out, lease)
        known = survey_runs(night, lease)
        lacking = [run for run in known if run.here and not run.finished]
        receipts = [
            _complete(night, RunFolder(night.out, run.run_id), lease, datetime.now(UTC), on_progress) for run in lacking
        ]
        if night.retry_rejected and any(run.is_retry for run in lacking):
            return receipts
        started = datetime.now(UTC)
        done = [replace(run, finished=True) if run.here else run for run in known]
        run_id = plan_run(night, started, lease, done, on_listed)
        if run_id is not None:
            planned = RunFolder(night.out, run_id)
            _forecast(night, planned, lease)
            receipts.append(_complete(night, planned, lease, started, on_progress))
        return receipts


@contextmanager
def _advising(night: Night) -> Iterator[None]:
    """Remove the advice to give --check-files from an error of a night that has this option."""
    try:
        yield
    except RunError as error:
        if not night.check_files or without_advice(error.message) == error.message:
            raise
        raise type(error)(without_advice(error.message)) from error


def _complete(night: Night, run: RunFolder, lease: Lease, started: datetime, on_progress: OnProgress) -> Receipt:
    """Segment the units of a run that have no result yet, then write the receipt of the run."""
    write_start(_fenced(run, lease), started, night.arguments)
    plan = Plan(run.plan)
    profile = _segment_missing(night, run, plan, lease, on_progress)
    return _finish(night, run, plan, lease, started, profile)


def _fenced(run: RunFolder, lease: Lease) -> RunFolder:
    return run.within(lease.fenced(run.table))


def _forecast(night: Night, run: RunFolder, lease: Lease) -> None:
    """Write the forecast of a new run, unless the run is small, or no forecast is wanted."""
    plan = Plan(run.plan)
    if night.forecast_from is not None and len(plan) >= night.forecast_from:
        segmenting = _job(night, run).segmenting(night.workers, use_gpu=False)
        try:
            sample = measure_sample(draw_planned(plan), segmenting, night.source)
        except SpermsegError as error:  # the run can start without a forecast
            logger.warning("no forecast is made: %s", error.message)
            return
        forecast, workers = extrapolate(sample, len(plan)), night.workers.count or cpus()
        notes = {**asdict(forecast), "workers": workers, "seconds": forecast.seconds(workers)}
        write_forecast(_fenced(run, lease), notes)


def _job(night: Night, run: RunFolder) -> PipelineJob:
    return PipelineJob(
        run=run,
        model=night.model,
        settings=night.settings,
        predict=night.predict,
        source=night.source,
    )


def _warn_of_other_engine(night: Night, run: RunFolder, plan: Plan) -> None:
    """Warn if a run continues with another engine or precision than it began with."""
    begun = read_predict_config(plan.metadata.get("predict", night.predict.text))
    if (begun.engine, begun.precision) != (night.predict.engine, night.predict.precision):
        logger.warning(
            "run %s began with --engine %s --precision %s, and goes on with others: edges of cells may move by a pixel",
            *(run.run_id, begun.engine, begun.precision),
        )


def _segment_missing(night: Night, run: RunFolder, plan: Plan, lease: Lease, on_progress: OnProgress) -> Profile:
    """Segment the units of a run that have no result yet. Return the times of the stages."""
    before = count_rows(run)
    tidy_run(run, plan, before, lease)
    progress = Progress(
        run_id=run.run_id,
        planned=len(plan),
        done=before.rows,
        rejected=before.statuses[REJECTED],
        profile=Profile(decode_threads=night.workers.decode_threads),
    )
    on_progress(progress)

    def on_unit(unit: UnitDone) -> None:
        nonlocal progress
        lease.check()
        progress.profile.add(unit.worker, unit.spent)
        progress = replace(
            progress,
            done=progress.done + unit.ok + unit.rejected,
            rejected=progress.rejected + unit.rejected,
        )
        on_progress(progress)

    if missing := _missing_units(plan, before):
        _warn_of_other_engine(night, run, plan)
        job = replace(_job(night, run), goes_on=count_starts(run) > 1)
        run_pipeline(job, missing, night.workers, on_unit)
    return progress.profile


def _missing_units(plan: Plan, count: Count) -> list[int]:
    return [number for number, name in enumerate(plan.unit_files()) if name not in count.units]


def _finish(night: Night, run: RunFolder, plan: Plan, lease: Lease, started: datetime, profile: Profile) -> Receipt:
    count = count_rows(run)
    wrong = list(differences(plan, count))
    if wrong:
        shown = "; ".join(map(without_advice, wrong[:SHOWN_DIFFERENCES]))
        raise RunError(
            f"run {run.run_id} has {len(wrong)} differences from its plan: {shown}; the same command goes on"
        )
    receipt = make_receipt(run, plan, count, started, night.arguments, worker_bytes=profile.spent.peak_bytes)
    write_receipt(_fenced(run, lease), receipt)
    return receipt
