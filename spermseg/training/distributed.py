"""Data-parallel training on Ray Train: what runs where. The loop itself is `fit.py`."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
import ray.train
import ray.train.torch
import torch

from spermseg.errors import ConfigError, DatasetError, RunError, first_line
from spermseg.micrograph.tiling import View
from spermseg.model.unet import UNetConfig
from spermseg.ray_settings import configure_ray_data, connect
from spermseg.storage.filesystem import Location
from spermseg.training.checkpoint import read_state, write_state
from spermseg.training.dataset import Dataset, Example, open_dataset
from spermseg.training.fit import Fit, FitState, StepReport, Team, TrainConfig
from spermseg.training.sampling import WorkingExample

REPORT_EVERY_S = 0.5
LOAD_TASKS = 32
"""Most tasks that decode the dataset."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What is to be trained, on what."""

    dataset: Location
    network: UNetConfig
    view: View
    config: TrainConfig
    threshold: float
    snapshots: tuple[int, ...] = ()
    """Epochs whose weights are kept, beside the best."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Over what it is spread."""

    workers: int = 1
    """Processes that train together; the batch size is shared out among them."""
    gpu: bool | None = None
    """One GPU a worker; None takes them when the cluster has them now."""
    max_failures: int = 3
    """Times that lost workers are replaced, going on from the last epoch's checkpoint."""
    address: str | None = None
    """The Ray cluster; None takes `RAY_ADDRESS`, else this machine."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"got {self.workers} workers; 1 or more is needed")


def train_on_ray(job: TrainJob, run: Location, scaling: Scaling, on_report: Callable[[StepReport], None]) -> FitState:
    """Train, or go on with the training that lies in `run`, and return its last state.

    Args:
        job: what is to be trained.
        run: the folder of this training; its checkpoints lie in `run/checkpoints`.
        scaling: over what it is spread.
        on_report: called in a thread of this process, about twice a second.

    Raises:
        DatasetError: the dataset is missing or damaged.
        RunError: the training failed more often than `max_failures`.
    """
    connect(ray.init, scaling.address)
    try:
        configure_ray_data(ray.data.DataContext.get_current())
        board: Any = _Board.remote()  # type: ignore[attr-defined]
        trainer = _trainer(job, run, scaling, board)
        with _polling(board, on_report):
            result = trainer.fit()
        with result.checkpoint.as_directory() as folder:
            return read_state(Path(folder))
    except ray.train.TrainingFailedError as error:
        raise RunError(f"the training failed: {first_line(error)}; its last epoch is kept: --resume goes on") from error
    except ray.exceptions.RayTaskError as error:
        raise DatasetError(f"{job.dataset.uri} could not be read: {first_line(error.cause)}") from error
    finally:
        ray.shutdown()


def _trainer(job: TrainJob, run: Location, scaling: Scaling, board: Any) -> ray.train.torch.TorchTrainer:
    dataset = open_dataset(job.dataset)
    datasets = {split: _load_split(dataset, split, job) for split in ("train", "val")}
    use_gpu, threads = _resources(scaling)
    filesystem, path = run.filesystem()
    return ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "board": board, "threads": threads},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=use_gpu,
            # a little less than there is: workers that take every CPU starve what Ray runs beside them
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
        # every worker sees all examples, in shared memory: which of them it takes is the sampler's to say
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )


def _resources(scaling: Scaling) -> tuple[bool, int]:
    """Return (whether each worker has a GPU, CPU threads of a worker), never more than one machine can give."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = (int(sum(one.get(kind, 0) for one in machines)) for kind in ("GPU", "CPU"))
    use_gpu = gpus >= scaling.workers if scaling.gpu is None else scaling.gpu
    largest = max(int(one.get("CPU", 0)) for one in machines)
    return use_gpu, max(1, min(cpus // scaling.workers, largest))


def _load_split(dataset: Dataset, split: str, job: TrainJob) -> "ray.data.Dataset":
    """Decode a split once, in parallel tasks, to the working resolution, and keep it in the object store."""
    examples = dataset.examples(split)
    rows = [{"example": asdict(example)} for example in examples]
    blocks = min(len(rows), LOAD_TASKS)
    loaded = ray.data.from_items(rows, override_num_blocks=blocks).map(
        _LoadExample(dataset, job.view, job.network.classes), num_cpus=1
    )
    return loaded.materialize()


def load_example(dataset: Dataset, example: Example, view: View, classes: tuple[str, ...]) -> WorkingExample:
    """Return a micrograph of a dataset and its mask at the working resolution."""
    masks = [view.working_mask(dataset.read_mask(example, part)) for part in classes]
    return WorkingExample(
        pixels=view.working_pixels(dataset.read_image(example)), mask=np.stack(masks, axis=-1).astype(np.uint8)
    )


class _LoadExample:
    """A row of the dataset's index -> its pixels and mask at the working resolution, as bytes."""

    def __init__(self, dataset: Dataset, view: View, classes: tuple[str, ...]) -> None:
        self.dataset, self.view, self.classes = dataset, view, classes

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        example = Example(**row["example"])
        loaded = load_example(self.dataset, example, self.view, self.classes)
        pixels, mask = loaded.pixels.tobytes(), loaded.mask.tobytes()
        return {"image": example.image, "height": loaded.mask.shape[0], "pixels": pixels, "mask": mask}


def _read_examples(split: str, classes: int) -> list[WorkingExample]:
    """Return all examples of a split as views of the object store's memory, in the order of the index."""
    shard = ray.train.get_dataset_shard(split)
    found: list[tuple[str, WorkingExample]] = []
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
        found.extend(_examples_of(table, classes))
    return [example for _, example in sorted(found, key=lambda pair: pair[0])]


def _examples_of(table: pa.Table, classes: int) -> Iterator[tuple[str, WorkingExample]]:
    columns = [table[name] for name in ("image", "height", "pixels", "mask")]
    for image, height, pixels, mask in zip(*columns, strict=True):
        shape = (height.as_py(), -1)
        yield (
            image.as_py(),
            WorkingExample(
                pixels=np.frombuffer(pixels.as_buffer(), np.uint8).reshape(*shape, 3),
                mask=np.frombuffer(mask.as_buffer(), np.uint8).reshape(*shape, classes),
            ),
        )


def _train_worker(config: dict[str, Any]) -> None:
    """Train on this worker, from the last checkpoint where there is one."""
    job: TrainJob = config["job"]
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    fit = Fit(
        network_config=job.network,
        view=job.view,
        config=job.config,
        train=_read_examples("train", len(job.network.classes)),
        val=_read_examples("val", len(job.network.classes)),
        threshold=job.threshold,
        snapshots=job.snapshots,
        team=Team(rank=rank, size=context.get_world_size(), device=ray.train.torch.get_device()),
    )
    checkpoint = ray.train.get_checkpoint()
    state = None
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = read_state(Path(folder))
    fit.run(state, on_epoch=lambda new: _report(new, rank), on_step=_poster(config["board"]) if rank == 0 else None)


def _report(state: FitState, rank: int) -> None:
    """Report the epoch; every worker must, and the first one brings the checkpoint."""
    if rank:
        ray.train.report(state.history[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        write_state(state, Path(folder))
        ray.train.report(state.history[-1], checkpoint=ray.train.Checkpoint.from_directory(folder))


@ray.remote(num_cpus=0)
class _Board:
    """Where the first worker writes how far it is, and the driver reads it."""

    def __init__(self) -> None:
        self.report: StepReport | None = None

    def post(self, report: StepReport) -> None:
        self.report = report

    def read(self) -> StepReport | None:
        return self.report


def _poster(board: Any) -> Callable[[StepReport], None]:
    last = -REPORT_EVERY_S

    def post(report: StepReport) -> None:
        nonlocal last
        if report.step == report.steps or time.monotonic() - last > REPORT_EVERY_S:
            last = time.monotonic()
            board.post.remote(report)

    return post


@contextmanager
def _polling(board: Any, on_report: Callable[[StepReport], None]) -> Iterator[None]:
    """Hand what is on the board to `on_report` until the block ends."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(REPORT_EVERY_S):
            report = ray.get(board.read.remote())
            if report is not None:
                on_report(report)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
