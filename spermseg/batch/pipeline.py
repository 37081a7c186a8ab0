"""The nightly job on Ray Data: units of the plan -> fetch bytes -> segment, and write the unit."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spermseg.batch.pool import Pool, Waiting, Workers, pool_for
from spermseg.batch.worker.fetch import fetch_jobs
from spermseg.batch.worker.loss_limits import CRASHED, NOT_TRIED, LossCount, Losses, LossLimits, Trial
from spermseg.batch.worker.messages import (
    DecodeUnits,
    FailedUnit,
    FetchUnits,
    IsolatedPicture,
    Tell,
    WrittenUnit,
    open_plan,
)
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.segment import IsolateUnit, SegmentUnit
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.batch.worker.timing import Spent
from spermseg.cluster.connection import connected
from spermseg.cluster.settings import configure_ray_data, is_own
from spermseg.cluster.waiting_workers import heard
from spermseg.errors import ConfigError, RunError, SpermsegError, StorageRefusedError, first_line
from spermseg.model.predict import PredictConfig
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import patience
from spermseg.table.run_folder import RunFolder

logger = logging.getLogger(__name__)

RETRIES = 2
"""Retries of a task whose process died. Ray's default is to retry for ever."""
SHARED_PASSES = 2
"""Passes in which one process segments many units. After them, each picture is segmented in its own process."""
NO_PROGRESS_S = 1800
"""Seconds without a finished unit, beyond the patience with the storage, after which the pipeline is stopped."""
FAILURES_AT_FIRST = 8
"""More failed units than this, and none done, stop the first pass of a new run: no single micrograph is the cause.
The limit does not apply in the second pass or in a run that goes on: units that failed before come first there, so a
micrograph may be the cause. It applies again in isolation, where only the machine can be the cause."""
MOST_BLOCKS = 1000
"""Most Ray Data blocks at the start of a pass. Each block costs the driver 3 ms before the first unit is done. One task
fetches the units of one block."""
FETCH_CPUS, DECODE_CPUS, SEGMENT_CPUS = 0.2, 0.5, 0.75
"""CPUs of the stages. They differ, so that Ray does not fuse the stages. None asks for all CPUs that there are."""


@dataclass(frozen=True, kw_only=True)
class PipelineJob:
    """What the stages need to know. It travels to every worker."""

    run: RunFolder
    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    source: Location
    """Where the uploads were listed."""
    goes_on: bool = False
    """Whether the run was started before."""

    def segmenting(self, workers: Workers, *, use_gpu: bool) -> Segmenting:
        """Return what a process needs to segment."""
        predict = replace(self.predict, device="cuda" if use_gpu else "cpu")
        return workers.segmenting(self.model, self.settings, predict, self.run.run_id)


@dataclass(frozen=True, kw_only=True)
class UnitDone:
    """A unit whose rows are written."""

    ok: int
    rejected: int
    worker: str
    """Process that segmented it."""
    spent: Spent
    """What it took."""


def unit_done(row: WrittenUnit) -> UnitDone:
    """Return what the last stage says of a unit that is written."""
    return UnitDone(ok=row["ok"], rejected=row["rejected"], worker=row["worker"], spent=Spent(**row["spent"]))


def run_pipeline(job: PipelineJob, units: Iterable[int], workers: Workers, on_unit: Callable[[UnitDone], None]) -> None:
    """Segment units of the plan and write one result object each.

    Units whose workers died, for whatever reason, are done again at the end, and those that are left then once more,
    each micrograph in isolation: so one that kills its process is rejected, and the others of its unit are not, but
    those of a group that has cost more than `workers.losses` allow.

    Args:
        job: what the stages need to know.
        units: the numbers of the units that have no result yet.
        workers: what segments.
        on_unit: called for each unit once it is written.

    Raises:
        ConfigError: a GPU is asked for that is not there, or cannot be used.
        StorageRefusedError: the storage does not accept who asks.
        RunError: there is no such cluster, the storage failed, or units could not be segmented even in isolation. What
            is written stays; the same command goes on.
    """
    left, why = list(units), ""
    for number in range(SHARED_PASSES + 1):
        if left and number:
            how = ", each picture by itself" if number == SHARED_PASSES else ""
            logger.warning("%d units are done once more%s: %s", len(left), how, why)
        if left:
            left, why = _connected_run(job, left, workers, on_unit, number)
    if left:
        raise _stopped(f"{len(left)} units could not be segmented: {why}")


def _connected_run(
    job: PipelineJob, units: list[int], workers: Workers, on_unit: Callable[[UnitDone], None], number: int
) -> tuple[list[int], str]:
    """Run the pipeline as a job of its own: when it ends, so do its actors, those too that wait for a lost node."""
    with connected(ray, workers.address):
        try:
            _configure()
            return _run(job, units, workers, on_unit, number)
        except RayError as error:
            raise _stopped(_what_happened(error)) from error


def _run(
    job: PipelineJob, units: list[int], workers: Workers, on_unit: Callable[[UnitDone], None], number: int
) -> tuple[list[int], str]:
    """Make one pass over units. Return (those that are not done, why the last of them is not)."""
    left, failures, isolated = set(units), list[str](), Counter[str]()
    waiting = Waiting(_workers_of_this_job, lambda: (ray.cluster_resources(), ray.available_resources()))
    try:
        with waiting.told(), heard(ray) as tell:
            rows = _pipeline(job, units, workers, waiting, tell, isolated=number == SHARED_PASSES).iter_rows()
            row: WrittenUnit | IsolatedPicture | FailedUnit
            for row in rows:
                if row["kind"] == "failed":
                    failures.append(row["failure"])
                    at_first = len(left) == len(units) and len(failures) > FAILURES_AT_FIRST
                    none_to_blame = number == SHARED_PASSES or not (number or job.goes_on)
                    _check_failure(row, at_first=at_first and none_to_blame)
                    continue
                waiting.progress()
                if row["kind"] == "isolated":
                    isolated.update(kind for kind in (CRASHED, NOT_TRIED) if row["reason"].startswith(kind))
                else:
                    left.discard(row["unit"])
                    on_unit(unit_done(row))
    except ExecutionTimeoutError:  # a worker hangs where no watch is kept; the units that are done are known
        waiting.timed_out = True
    _tell_isolated(isolated)
    return sorted(left), failures[-1] if failures else waiting.why() if left else ""


def _tell_isolated(kinds: Counter[str]) -> None:
    if kinds:
        logger.warning(
            "%d pictures crashed or hung their decoder; %d were rejected since these took too long: --retry-rejected",
            *(kinds[CRASHED], kinds[NOT_TRIED]),
        )


def _check_failure(row: FailedUnit, *, at_first: bool) -> None:
    """Raise where a failure is no upload's fault, and would be that of every unit."""
    if row["refused"]:
        raise _stopped(row["failure"], StorageRefusedError)
    if row["unusable"]:
        raise _stopped(row["failure"], ConfigError)
    if row["outage"] or at_first:
        raise _stopped(row["failure"])


def _pipeline(
    job: PipelineJob, units: list[int], workers: Workers, waiting: Waiting, tell: Tell, *, isolated: bool
) -> "ray.data.Dataset":
    jobs = [{"units": numbers} for numbers in fetch_jobs(open_plan(job.run.plan), units)]
    pool = waiting.pool = _pool(workers, len(units), len(jobs))
    segmenting = job.segmenting(workers, use_gpu=pool.gpu)
    segmenting = replace(segmenting, patience=replace(segmenting.patience, tell=tell))
    # A picture may be tried to the end of its time, which nobody hears of before.
    ray.data.DataContext.get_current().execution_no_progress_timeout_s += segmenting.limits.longest_s
    with warnings.catch_warnings():
        # That retries cannot be bounded from Ray 2.64 on is why the project file asks for an earlier one.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        fetched = ray.data.from_items(jobs, override_num_blocks=min(len(jobs), MOST_BLOCKS)).flat_map(
            FetchUnits(job.run.plan, job.source, tell), num_cpus=FETCH_CPUS, max_retries=RETRIES
        )
        if workers.decode_apart and not isolated:
            decode = DecodeUnits(job.run.plan, segmenting.decoder, segmenting.limits, segmenting.memory, tell)
            fetched = fetched.map(decode, num_cpus=DECODE_CPUS, max_retries=RETRIES)
        given = (job.run, segmenting, workers.decode_threads)
        return fetched.flat_map(
            IsolateUnit if isolated else SegmentUnit,
            fn_constructor_args=(*given, _SharedLosses(workers.losses)) if isolated else given,
            compute=ray.data.ActorPoolStrategy(min_size=pool.fewest, max_size=pool.most),
            num_cpus=SEGMENT_CPUS,
            num_gpus=int(pool.gpu),
            max_restarts=len(units),  # as often as units may kill it
            max_task_retries=0,  # a retry would wait for that very process, and its node may be gone for good
        )


def _pool(workers: Workers, units: int, jobs: int) -> Pool:
    return pool_for(
        count=workers.count,
        most=workers.most,
        gpu=workers.gpu,
        own=is_own(workers.address),
        there=ray.cluster_resources(),
        fewest=jobs,
        units=units,
    )


class _SharedLosses(Losses):
    """The losses of a run, counted once for all workers: on the driver's node, since any other may be lost."""

    def __init__(self, limits: LossLimits) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._count = ray.remote(LossCount).options(num_cpus=0, scheduling_strategy=here).remote(limits)

    def refusal(self, group: str | None, trial: Trial) -> str | None:
        refusal: str | None = ray.get(self._count.refusal.remote(group, trial))
        return refusal

    def lose(self, group: str | None, trial: Trial, seconds: float) -> None:
        ray.get(self._count.lose.remote(group, trial, seconds))

    def forgive(self, group: str | None, trial: Trial, seconds: float) -> None:
        ray.get(self._count.forgive.remote(group, trial, seconds))


def _workers_of_this_job() -> list[dict[str, Any]]:
    """Return the lines of Ray's table of actors that are of this job and segment."""
    job = ray.get_runtime_context().get_job_id()
    actors = ray._private.state.actors().values()
    return [one for one in actors if one["JobID"] == job and "Unit" in one["ActorClassName"]]


def _configure() -> None:
    context = ray.data.DataContext.get_current()
    configure_ray_data(context)
    context.execution_no_progress_timeout_s = NO_PROGRESS_S + 2 * patience().total_s  # a unit is read, and written
    context.max_errored_blocks = -1  # a block that is lost is a unit whose worker died: it is done in isolation
    context.target_max_block_size = 1  # bytes: each unit that a task fetches is a block of its own, and goes on at once


def _stopped(why: str, kind: type[SpermsegError] = RunError) -> SpermsegError:
    return kind(f"the run stopped: {why}; what is written stays, and the same command goes on")


def _what_happened(error: BaseException) -> str:
    """Return the first line of what was raised in a worker; Ray puts its stack trace before it, and advice behind."""
    return first_line(getattr(error, "cause", None) or error)
