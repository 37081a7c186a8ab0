"""The nightly job on Ray Data: the units of a plan -> fetch their bytes -> segment them and write their results."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
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
    UnitDone,
    WrittenUnit,
    open_plan,
    unit_done,
)
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.process_limits import Limits
from spermseg.batch.worker.segment import IsolateUnit, SegmentUnit
from spermseg.batch.worker.settings import SegmentSettings
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
"""The first pass of a new run stops if more units than this fail and none is done: no single micrograph can cause that.
In the second pass, and in a continued run, units that failed before come first. So one micrograph may be the cause, and
the limit does not apply. It applies again in isolation, where only the machine can be the cause."""
MOST_BLOCKS = 1000
"""Most Ray Data blocks at the start of a pass. One task fetches the units of one block. Each block delays the first
unit by 3 ms."""
FETCH_CPUS, DECODE_CPUS, SEGMENT_CPUS = 0.2, 0.5, 0.75
"""CPUs that a process of each stage reserves.

The numbers differ, because Ray fuses neighbouring stages that reserve the same. Fetching and segmenting together need
less than one CPU, so both run at the same time on a machine with one CPU.
"""


@dataclass(frozen=True, kw_only=True)
class PipelineJob:
    """The run, the model and the settings of a pipeline."""

    run: RunFolder
    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    source: Location
    """Where the uploads were listed."""
    goes_on: bool = False
    """Whether the run was started before."""

    def segmenting(self, workers: Workers, *, use_gpu: bool) -> Segmenting:
        """Return what a worker needs to segment."""
        predict = replace(self.predict, device="cuda" if use_gpu else "cpu")
        return workers.segmenting(self.model, self.settings, predict, self.run.run_id)


def run_pipeline(job: PipelineJob, units: Iterable[int], workers: Workers, on_unit: Callable[[UnitDone], None]) -> None:
    """Segment units of the plan and write one result file each.

    Units whose workers died get a second pass. Units that are left then get a third pass, in isolation: each micrograph
    in a process of its own. There a micrograph that kills its process is rejected, and the others of its unit are not,
    unless the time limits of `workers.losses` are reached.

    Args:
        job: the run, the model and the settings.
        units: the numbers of the units that have no result yet.
        workers: the number and kind of the processes.
        on_unit: called for each unit once it is written.

    Raises:
        ConfigError: a GPU was asked for, and is missing or cannot be used.
        StorageRefusedError: the storage refused the credentials.
        RunError: the cluster does not exist, the storage failed, or units could not be segmented even in isolation.
            Written results stay; the same command continues the run.
    """
    left, why = list(units), ""
    for number in range(SHARED_PASSES + 1):
        if not left:
            return
        if number:
            how = ", each picture in its own process" if number == SHARED_PASSES else ""
            logger.warning("%d units are segmented again%s: %s", len(left), how, why)
        left, why = _connected_run(job, left, workers, on_unit, number)
    if left:
        raise _stopped(f"{len(left)} units could not be segmented: {why}")


def _connected_run(
    job: PipelineJob, units: list[int], workers: Workers, on_unit: Callable[[UnitDone], None], number: int
) -> tuple[list[int], str]:
    """Make one pass as a Ray job. When the job ends, Ray ends its actors, even those that wait for a node."""
    with connected(ray, workers.address):
        try:
            _configure(job.segmenting(workers, use_gpu=False).limits)
            return _run(job, units, workers, on_unit, number)
        except RayError as error:
            raise _stopped(_what_happened(error)) from error


def _run(
    job: PipelineJob, units: list[int], workers: Workers, on_unit: Callable[[UnitDone], None], number: int
) -> tuple[list[int], str]:
    """Make one pass over units. Return the units without a result, and why the last of them has none."""
    is_isolated = number == SHARED_PASSES
    is_first = number == 0 and not job.goes_on
    tally = _Tally(left=set(units), on_unit=on_unit, no_picture_to_blame=is_isolated or is_first)
    waiting = Waiting(_workers_of_this_job, lambda: (ray.cluster_resources(), ray.available_resources()))
    try:
        with waiting.told(), heard(ray) as tell:
            for row in _pipeline(job, units, workers, waiting, tell, isolated=is_isolated).iter_rows():
                if row["kind"] != "failed":
                    waiting.progress()
                tally.add(row)
    except ExecutionTimeoutError:  # a worker hangs where no watch sees it; the tally has the units that are done
        waiting.timed_out = True
    tally.log_isolated()
    if not tally.left:
        return [], ""
    return sorted(tally.left), tally.last_failure or waiting.why()


@dataclass
class _Tally:
    """What became of the units of one pass."""

    left: set[int]
    """Units without a result."""
    on_unit: Callable[[UnitDone], None]
    no_picture_to_blame: bool
    """Whether failures at the start of this pass cannot be the fault of a micrograph."""
    last_failure: str = ""
    _failures: int = 0
    _is_any_done: bool = False
    _isolated: Counter[str] = field(default_factory=Counter)

    def add(self, row: WrittenUnit | IsolatedPicture | FailedUnit) -> None:
        """Count a message of the last stage.

        Raises:
            SpermsegError: a failure that every unit would have.
        """
        if row["kind"] == "failed":
            self._failures += 1
            self.last_failure = row["failure"]
            self._check(row)
        elif row["kind"] == "isolated":
            self._isolated.update(kind for kind in (CRASHED, NOT_TRIED) if row["reason"].startswith(kind))
        else:
            self._is_any_done = True
            self.left.discard(row["unit"])
            self.on_unit(unit_done(row))

    def log_isolated(self) -> None:
        """Log how many pictures ended their process, and how many were rejected in consequence."""
        if self._isolated:
            logger.warning(
                "%d pictures crashed or hung their decoder; %d others were rejected, since the time for such pictures "
                "was up; --retry-rejected tries them again",
                *(self._isolated[CRASHED], self._isolated[NOT_TRIED]),
            )

    def _check(self, row: FailedUnit) -> None:
        """Raise a failure that is not the fault of an upload, since every unit would have it."""
        if row["refused"]:
            raise _stopped(row["failure"], StorageRefusedError)
        if row["unusable"]:
            raise _stopped(row["failure"], ConfigError)
        all_fail = self._failures > FAILURES_AT_FIRST and not self._is_any_done
        if row["outage"] or (all_fail and self.no_picture_to_blame):
            raise _stopped(row["failure"])


def _pipeline(
    job: PipelineJob, units: list[int], workers: Workers, waiting: Waiting, tell: Tell, *, isolated: bool
) -> "ray.data.Dataset":
    """Return the messages of the last stage. The stages start when the messages are read."""
    numbers = [{"units": together} for together in fetch_jobs(open_plan(job.run.plan), units)]
    pool = waiting.pool = _pool(workers, len(units), len(numbers))
    segmenting = job.segmenting(workers, use_gpu=pool.gpu)
    segmenting = replace(segmenting, patience=replace(segmenting.patience, tell=tell))
    arguments: tuple[Any, ...] = (job.run, segmenting, workers.decode_threads)
    if isolated:
        arguments = (*arguments, _SharedLosses(workers.losses))
    with warnings.catch_warnings():
        # Ray deprecates the arguments that limit retries and restarts here. Ray 2.64 removes them, so pyproject.toml
        # asks for an earlier one.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        rows = ray.data.from_items(numbers, override_num_blocks=min(len(numbers), MOST_BLOCKS))
        rows = rows.flat_map(FetchUnits(job.run.plan, job.source, tell), num_cpus=FETCH_CPUS, max_retries=RETRIES)
        if workers.decode_apart and not isolated:
            decode = DecodeUnits(job.run.plan, segmenting.decoder, segmenting.limits, segmenting.memory, tell)
            rows = rows.map(decode, num_cpus=DECODE_CPUS, max_retries=RETRIES)
        return rows.flat_map(
            IsolateUnit if isolated else SegmentUnit,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=pool.fewest, max_size=pool.most),
            num_cpus=SEGMENT_CPUS,
            num_gpus=int(pool.gpu),
            max_restarts=len(units),  # each unit may kill an actor once
            max_task_retries=0,  # Ray would retry on the same actor, and wait for a node that may not come back
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
    """The lost time of a run, counted for all workers by one actor.

    The actor is on the driver's node. If that node is lost, so is the run.
    """

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
    """Return the rows of Ray's actor table for the actors of this job that segment."""
    job = ray.get_runtime_context().get_job_id()
    actors = ray._private.state.actors().values()
    return [one for one in actors if one["JobID"] == job and "Unit" in one["ActorClassName"]]


def _configure(limits: Limits) -> None:
    """Configure Ray Data for a pipeline, given the time limits of a picture."""
    context = ray.data.DataContext.get_current()
    configure_ray_data(context)
    # The pipeline may have no news while a unit waits for the storage, to be read and to be written, or while a picture
    # takes all of its time.
    context.execution_no_progress_timeout_s = NO_PROGRESS_S + 2 * patience().total_s + limits.longest_s
    # A lost block is a unit whose worker died. A later pass segments it again.
    context.max_errored_blocks = -1
    # One byte: each unit that a task fetches becomes a block of its own, and reaches the next stage at once.
    context.target_max_block_size = 1


def _stopped(why: str, kind: type[SpermsegError] = RunError) -> SpermsegError:
    return kind(f"the run stopped: {why}; what is written stays, and the same command goes on")


def _what_happened(error: BaseException) -> str:
    """Return the first line of an error of a worker. Ray wraps it in a stack trace and advice."""
    return first_line(getattr(error, "cause", None) or error)
