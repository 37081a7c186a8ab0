"""The job of a training, and its examples as rows that travel between processes."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from spermseg.errors import ConfigError
from spermseg.micrograph.tiling import View
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.patience import Patience, be_patient, patience
from spermseg.training.config import TrainConfig
from spermseg.training.data.sampling import WorkingExample
from spermseg.training.data.source import SyntheticData, TrainingData
from spermseg.training.learner import Weights


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Everything that defines a training: data, network, view and settings."""

    data: TrainingData
    network: UNetConfig
    view: View
    config: TrainConfig
    threshold: float
    snapshots: tuple[int, ...] = ()
    """Epochs whose weights are kept in addition to the best ones."""
    first_weights: Weights | None = None
    """Weights to start from; None starts from scratch."""

    patience: Patience = field(default_factory=patience)
    """How long to retry a storage that fails; the workers that load examples use it, too."""

    def __post_init__(self) -> None:
        epochs = self.config.epochs
        wrong = [epoch for epoch in self.snapshots if not 1 <= epoch <= epochs]
        if wrong:
            raise ConfigError(f"got a snapshot of epoch {wrong[0]}; the training has epochs 1 to {epochs}")


class LoadExample:
    """The name of an example -> its pixels and coverage at the working resolution, as bytes."""

    def __init__(self, job: TrainJob) -> None:
        """Load for a training."""
        self.job = job

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of an example; `row` has its name."""
        be_patient(self.job.patience)
        loaded = self.job.data.load(row["name"], self.job.view, self.job.network.classes)
        pixels, coverage = loaded.pixels.tobytes(), loaded.coverage.tobytes()
        return {"name": row["name"], "height": loaded.coverage.shape[0], "pixels": pixels, "coverage": coverage}


class DrawTile:
    """The number of a tile in a worker's share of an epoch -> its pixels and coverage."""

    def __init__(self, job: TrainJob, data: SyntheticData, epoch: int, rank: int, size: int) -> None:
        """Draw for worker `rank` of `size` in an epoch."""
        self.job, self.data, self.epoch, self.rank, self.size = job, data, epoch, rank, size

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tile; `row` has its number, `id`."""
        batch = self.job.config.batch_size
        step, place = divmod(row["id"], batch // self.size)
        slot = (step * batch + place * self.size + self.rank) % self.data.pictures
        wanted = (self.epoch, slot, self.job.view, self.job.network.classes, self.job.config)
        with ThreadPoolExecutor(1, initializer=_take_what_is_left) as thread:
            made = thread.submit(self.data.draw, *wanted).result()
        return {"pixels": made.pixels, "coverage": made.coverage}


def examples_of(table: pa.Table, classes: int) -> Iterator[tuple[str, WorkingExample]]:
    """Yield the name and the example of each row that `LoadExample` made, as views of the table's memory."""
    columns = [table[name] for name in ("name", "height", "pixels", "coverage")]
    for name, height, pixels, coverage in zip(*columns, strict=True):
        shape = (height.as_py(), -1)
        yield (
            name.as_py(),
            WorkingExample(
                pixels=np.frombuffer(pixels.as_buffer(), np.uint8).reshape(*shape, 3),
                coverage=np.frombuffer(coverage.as_buffer(), np.uint8).reshape(*shape, classes),
            ),
        )


def _take_what_is_left() -> None:
    """Let this thread run only on CPUs that are idle otherwise, where the system has such a policy (Linux).

    The threads of a network wait for each other, so one thread that loses its CPU delays all others. Only root can undo
    this policy, so the policy is set for a thread that ends after its task.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
