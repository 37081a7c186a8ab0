"""The nightly job on Ray Data: units of the plan -> fetch bytes -> segment -> write the unit."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import ray
import ray.data
import torch
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from spermseg.batch.plan import Plan
from spermseg.batch.results import OK, encode_unit, results_table, unit_location
from spermseg.batch.settings import SegmentSettings
from spermseg.batch.units import Fetched, UnitSegmenter, fetch
from spermseg.errors import ConfigError, RunError, StorageError, first_line
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import decode_model
from spermseg.ray_settings import configure_ray_data, connect
from spermseg.storage.filesystem import Location

RETRIES = 2
"""Times that a crashed or failed task is tried again; Ray's default is for ever, and a poison picture never ends."""
NO_PROGRESS_S = 1800
"""A pipeline that finishes nothing for so long is ended rather than left to hang."""
FETCH_CPUS, WRITE_CPUS, SEGMENT_CPUS = 0.2, 0.1, 0.75
"""CPUs of the stages: different, so that Ray does not fuse them, and never all that there are."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What segments."""

    count: int | None = None
    """Processes that hold a model each; None takes one a GPU, or one a CPU where there is no GPU."""
    gpu: bool | None = None
    """One GPU a process; None takes them when the cluster has them."""
    decode_threads: int = 2
    """Threads that decode in each process while its network works."""
    address: str | None = None
    """The Ray cluster; None takes `RAY_ADDRESS`, else this machine."""

    def __post_init__(self) -> None:
        if (self.count is not None and self.count < 1) or self.decode_threads < 1:
            raise ConfigError(f"got {self.count} workers, {self.decode_threads} decode threads; 1 or more is needed")


@dataclass(frozen=True, kw_only=True)
class PipelineJob:
    """What the stages need to know. It travels to every worker."""

    plan: Location
    out: Location
    run_id: str
    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    source_endpoint_url: str | None


@dataclass(frozen=True, kw_only=True)
class UnitDone:
    """A unit whose rows are written."""

    ok: int
    rejected: int
    megapixels: float
    """Of the pictures that are ok."""


def run_pipeline(job: PipelineJob, units: Iterable[int], workers: Workers, on_unit: Callable[[UnitDone], None]) -> None:
    """Segment units of the plan and write one result object each.

    Args:
        job: what the stages need to know.
        units: the numbers of the units that have no result yet.
        workers: what segments.
        on_unit: called for each unit once it is written.

    Raises:
        ConfigError: more GPUs are asked for than the cluster has.
        RunError: there is no such cluster, the storage failed again and again, or workers kept crashing. What is
            written stays; the same command goes on.
    """
    connect(ray.init, workers.address)
    try:
        _bound_retries()
        for row in _pipeline(job, list(units), workers).iter_rows():
            on_unit(UnitDone(ok=row["ok"], rejected=row["rejected"], megapixels=row["megapixels"]))
    except (RayError, ExecutionTimeoutError) as error:
        raise RunError(
            f"the run stopped: {_what_happened(error)}; what is written stays, and the same command goes on"
        ) from error
    finally:
        ray.shutdown()


def _pipeline(job: PipelineJob, units: list[int], workers: Workers) -> "ray.data.Dataset":
    use_gpu, fewest, most = _resources(workers)
    with warnings.catch_warnings():
        # That retries cannot be bounded from Ray 2.64 on is why the project file asks for an earlier one.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return (
            ray.data.from_items([{"unit": number} for number in units], override_num_blocks=len(units))
            .map(_FetchUnit(job.plan, job.source_endpoint_url), num_cpus=FETCH_CPUS, max_retries=RETRIES)
            .map(
                _SegmentUnit,
                fn_constructor_args=(job, workers.decode_threads, use_gpu),
                compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
                num_cpus=SEGMENT_CPUS,
                num_gpus=1 if use_gpu else 0,
                max_restarts=RETRIES,
                max_task_retries=RETRIES,
            )
            .map(_WriteUnit(job.out, job.run_id), num_cpus=WRITE_CPUS, max_retries=RETRIES)
        )


class _FetchUnit:
    """Number of a unit -> its name and the bytes of its micrographs."""

    def __init__(self, plan: Location, endpoint_url: str | None) -> None:
        self.plan, self.endpoint_url = plan, endpoint_url

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        plan = _open_plan(self.plan)
        fetched = [fetch(one, self.endpoint_url) for one in plan.unit(row["unit"])]
        return {
            "unit": row["unit"],
            "name": plan.unit_id(row["unit"]),
            "data": [one.data for one in fetched],
            "reasons": [one.reason or "" for one in fetched],
        }


class _SegmentUnit:
    """The bytes of a unit's micrographs -> its result object. Holds the model."""

    def __init__(self, job: PipelineJob, decode_threads: int, use_gpu: bool) -> None:
        if not use_gpu:  # one process a CPU: more threads would only be in each other's way
            torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.plan = _open_plan(job.plan)
        self.segmenter = UnitSegmenter(
            decode_model(job.model),
            job.settings,
            replace(job.predict, device="cuda" if use_gpu else "cpu"),
            run_id=job.run_id,
            threads=decode_threads,
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit = self.plan.unit(row["unit"])
        fetched = [
            Fetched(data=data, reason=reason or None) for data, reason in zip(row["data"], row["reasons"], strict=True)
        ]
        rows = self.segmenter.segment(unit, fetched)
        ok = [one for one in rows if one["status"] == OK]
        return {
            "name": row["name"],
            "result": encode_unit(results_table(rows)),
            "ok": len(ok),
            "rejected": len(rows) - len(ok),
            "megapixels": sum(one["width_px"] * one["height_px"] for one in ok) / 1e6,
        }


class _WriteUnit:
    """A unit's result object -> storage, in one PUT: the object exists = the unit is done."""

    def __init__(self, out: Location, run_id: str) -> None:
        self.out, self.run_id = out, run_id

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit_location(self.out, self.run_id, row["name"]).write_bytes(row["result"])
        return {name: row[name] for name in ("ok", "rejected", "megapixels")}


@lru_cache(maxsize=1)
def _open_plan(location: Location) -> Plan:
    """Open a run's plan once a process: it never changes, and a worker does many units."""
    return Plan(location)


def _resources(workers: Workers) -> tuple[bool, int, int]:
    """Return (whether each process has a GPU, processes to start with, processes at most).

    It starts with those that the cluster has room for now; the others wait for an autoscaler.
    """
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
    if workers.gpu and workers.count is None and not gpus:
        raise ConfigError(
            "a GPU was asked for, but the cluster has no GPU now; give --workers to wait for its autoscaler"
        )
    use_gpu = gpus > 0 if workers.gpu is None else workers.gpu
    room = gpus if use_gpu else cpus
    most = workers.count or max(1, room)
    return use_gpu, max(1, min(room, most)), most


def _bound_retries() -> None:
    context = ray.data.DataContext.get_current()
    configure_ray_data(context)
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.retried_map_errors = [StorageError.__name__]
    context.max_map_retries = RETRIES


def _what_happened(error: BaseException) -> str:
    """Return the first line of what was raised in a worker; Ray puts its stack trace before it, and advice behind."""
    return first_line(getattr(error, "cause", None) or error)
