"""Data-parallel training on Ray Train. The training loop itself is in `fit.py`."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.exceptions
import ray.train
import ray.train.torch
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spermseg.cluster.connection import connected
from spermseg.cluster.settings import configure_ray_data, is_own, own_sigint
from spermseg.cluster.waiting_workers import heard
from spermseg.errors import ConfigError, DatasetError, RunError, SpermsegError, first_line
from spermseg.model.engine import check_gpu
from spermseg.storage.arrow_filesystem import arrow_filesystem
from spermseg.storage.filesystem import Location
from spermseg.training.checkpoint import read_state, write_state
from spermseg.training.data.sampling import Batch, Batches, Sampler, WorkingExample
from spermseg.training.data.source import SyntheticData
from spermseg.training.fit import Fit, FitState, ProcessGroup, StepReport
from spermseg.training.job import DrawTile, LoadExample, TrainJob, examples_of
from spermseg.training.progress import Board, seldom, shown

LOAD_TASKS = 32
"""Most tasks that decode the dataset."""
TILES_A_TASK = 4
"""Synthetic tiles that one task draws."""
SYNTHETIC_CPUS = 0.5
"""CPUs reserved for a task that draws tiles. Where the network takes all CPUs but one, two tasks can still run."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The resources of a training."""

    workers: int = 1
    """Processes that train together; each takes an equal share of every batch."""
    gpu: bool | None = None
    """Whether each worker has a GPU; None takes GPUs where the cluster has enough at the start."""
    max_failures: int = 3
    """How often lost workers are replaced; the training then resumes from the last epoch's checkpoint."""
    address: str | None = None
    """The Ray cluster; None takes `RAY_ADDRESS`, else this machine."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"got {self.workers} workers; 1 or more is needed")


def train_on_ray(job: TrainJob, run: Location, scaling: Scaling, on_report: Callable[[StepReport], None]) -> FitState:
    """Train, or resume the training in `run`, and return its last state.

    Args:
        job: what is trained.
        run: the folder of this training; its checkpoints are in `run/checkpoints`.
        scaling: the resources.
        on_report: called in a thread of this process, about twice a second.

    Raises:
        ConfigError: the batch size is not a multiple of the number of workers.
        DatasetError: the dataset is missing or damaged.
        StorageError: the dataset could not be read.
        RunError: the training failed more often than `max_failures`.
    """
    if job.config.batch_size % scaling.workers:
        raise ConfigError(
            f"got batch size {job.config.batch_size} for {scaling.workers} workers; a multiple of them is needed"
        )
    with connected(ray, scaling.address, goes_on="--resume goes on"):
        return _train(job, run, scaling, on_report)


def _train(job: TrainJob, run: Location, scaling: Scaling, on_report: Callable[[StepReport], None]) -> FitState:
    try:
        configure_ray_data(ray.data.DataContext.get_current())
        board = _board_beside_driver()
        with heard(ray) as tell:
            patient = replace(job.patience, tell=tell)
            trainer = _trainer(replace(job, patience=patient), replace(run, patience=patient), scaling, board)
            with shown(partial(_read, board), on_report), own_sigint():
                result = trainer.fit()
        with result.checkpoint.as_directory() as folder:
            return read_state(Path(folder))
    except ray.train.TrainingFailedError as error:
        raise RunError(f"the training failed: {cause_of(error)}; its last epoch is kept: --resume goes on") from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SpermsegError):
            raise error.cause from error
        raise DatasetError(f"{job.data.name} could not be read: {first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise RunError(
            f"the training was lost: {first_line(error)}; its last epoch is kept: --resume goes on"
        ) from error


def cause_of(error: ray.train.TrainingFailedError) -> str:
    """Return the cause of a failed training in one line. Where several workers failed, it is the first one's."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    failure = failures[min(failures)]
    lines = str(failure).strip().splitlines()
    told_last = any(line.startswith("Traceback") for line in lines)
    return lines[-1] if told_last else first_line(failure)


def _trainer(job: TrainJob, run: Location, scaling: Scaling, board: Any) -> ray.train.torch.TorchTrainer:
    splits = ["val"] if isinstance(job.data, SyntheticData) else ["train", "val"]
    datasets = {split: _load_split(split, job) for split in splits}
    use_gpu, threads = _resources(scaling)
    filesystem, path = arrow_filesystem(run)
    return ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "board": board, "threads": threads, "gpu": use_gpu},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=use_gpu,
            # one CPU less than there are: Ray's own tasks need CPUs beside the workers
            resources_per_worker={"CPU": max(0.75, threads - 1), **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        datasets=datasets,
        # every worker sees all examples, in shared memory; its sampler chooses among them
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )


def room_for_trainings(scaling: Scaling) -> int:
    """Return how many such trainings the cluster can run at the same time; a local cluster of this process runs one.

    Raises:
        RunError: the cluster does not answer.
    """
    if is_own(scaling.address):
        return 1
    with connected(ray, scaling.address):
        use_gpu, threads = _resources(scaling)
        there = ray.cluster_resources()
        kind, each = ("GPU", 1) if use_gpu else ("CPU", threads)
        return max(1, int(there.get(kind, 0) / (each * scaling.workers)))


def _resources(scaling: Scaling) -> tuple[bool, int]:
    """Return (whether each worker has a GPU, CPU threads of a worker); no more threads than one machine has CPUs."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = (int(sum(one.get(kind, 0) for one in machines)) for kind in ("GPU", "CPU"))
    use_gpu = gpus >= scaling.workers if scaling.gpu is None else scaling.gpu
    largest = max(int(one.get("CPU", 0)) for one in machines)
    return use_gpu, max(1, min(cpus // scaling.workers, largest))


def _load_split(split: str, job: TrainJob) -> "ray.data.Dataset":
    """Decode a split once to the working resolution, in parallel tasks, into Ray's object store."""
    rows = [{"name": name} for name in job.data.names(split)]
    blocks = min(len(rows), LOAD_TASKS)
    loaded = ray.data.from_items(rows, override_num_blocks=blocks).map(LoadExample(job), num_cpus=1)
    return loaded.materialize()


@dataclass(frozen=True, kw_only=True)
class _SyntheticBatches:
    """Batches of synthetic tiles. Tasks draw them on free CPUs while the network trains on earlier batches."""

    job: TrainJob
    data: SyntheticData
    rank: int
    size: int

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return -(-self.data.pictures // self.job.config.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's share of each global batch."""
        share = self.job.config.batch_size // self.size
        context = ray.data.DataContext.get_current()
        configure_ray_data(context)
        context.execution_options.preserve_order = True
        tiles = self.steps * share
        draw = DrawTile(self.job, self.data, epoch, self.rank, self.size)
        made = ray.data.range(tiles, override_num_blocks=-(-tiles // TILES_A_TASK)).map(draw, num_cpus=SYNTHETIC_CPUS)
        for batch in made.iter_batches(batch_size=share, batch_format="numpy", prefetch_batches=2):
            yield batch["pixels"], batch["coverage"]


def _read_examples(split: str, job: TrainJob) -> list[WorkingExample]:
    """Return all examples of a split, in the order of their names, as views of the object store's memory."""
    shard = ray.train.get_dataset_shard(split)
    found: list[tuple[str, WorkingExample]] = []
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
        found.extend(examples_of(table, len(job.network.classes)))
    return [example for _, example in sorted(found, key=lambda pair: pair[0])]


def _train_worker(config: dict[str, Any]) -> None:
    """Train on this worker, from the last checkpoint where there is one."""
    job: TrainJob = config["job"]
    if config["gpu"]:
        check_gpu()
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    batches: Batches
    if isinstance(job.data, SyntheticData):
        batches = _SyntheticBatches(job=job, data=job.data, rank=rank, size=size)
    else:
        batches = Sampler(
            examples=_read_examples("train", job),
            tile=job.view.tile,
            config=job.config,
            classes=job.network.classes,
            scale=job.view.scale,
            rank=rank,
            workers=size,
        )
    fit = Fit(
        network_config=job.network,
        view=job.view,
        config=job.config,
        train=batches,
        val=_read_examples("val", job),
        threshold=job.threshold,
        snapshots=job.snapshots,
        first_weights=job.first_weights,
        process_group=ProcessGroup(rank=rank, size=size, device=ray.train.torch.get_device()),
    )
    checkpoint = ray.train.get_checkpoint()
    state = None
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = read_state(Path(folder))
    fit.run(
        state,
        on_epoch=lambda new: _report(new, rank),
        on_step=seldom(config["board"].post.remote) if rank == 0 else None,
    )


def _report(state: FitState, rank: int) -> None:
    """Report the epoch. Ray Train needs a report of every worker; only the first one has a checkpoint."""
    if rank:
        ray.train.report(state.history[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        write_state(state, Path(folder))
        ray.train.report(state.history[-1], checkpoint=ray.train.Checkpoint.from_directory(folder))


def _board_beside_driver() -> Any:
    """Start a board on the node of this process, so that the board does not end when another node is lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


def _read(board: Any) -> StepReport | None:
    try:
        report: StepReport | None = ray.get(board.read.remote())
    except ray.exceptions.RayError:  # `_train` reports a lost cluster; the progress alone is not worth an error
        return None
    return report
