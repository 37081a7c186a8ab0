"""Does Ray Train cost time? Pictures a second of a training on Ray, compared with the same loop in plain PyTorch.

    python benchmarks/learning/training.py

The data are synthetic micrographs; network and settings are the paper's, without augmentation. Both ways write a
checkpoint each epoch. The first epoch is not counted, since it allocates memory and starts threads. The table also
shows how long Ray takes to start.

Prints a table and, as its last line, one JSON object of the figures.
"""

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from spermseg.cli.prepare import Prepare
from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.recipes import paper
from spermseg.storage.filesystem import Location
from spermseg.synthetic.clinic import ClinicConfig, write_clinic
from spermseg.training.checkpoint import write_state
from spermseg.training.config import TrainConfig
from spermseg.training.data.sampling import Sampler
from spermseg.training.data.source import AnnotatedData
from spermseg.training.distributed import Scaling, train_on_ray
from spermseg.training.fit import Fit, FitState, StepReport
from spermseg.training.job import TrainJob


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the same job with Ray and without, in turn."""

    repeats: int = 5
    """Trainings of each kind."""
    epochs: int = 6
    """Epochs of a training; the first is not counted."""
    threads: int = 2
    """Compute threads without Ray; give the number that a single Ray worker has on this machine."""


class Clock:
    """Measures pictures a second after the first epoch, from the reports of a training."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._begun = time.perf_counter()
        self._from: tuple[float, int] | None = None
        self._to = (0.0, 0)
        self.start_s = 0.0

    def note(self, report: StepReport) -> None:
        """Take a report of the training."""
        now, steps = time.perf_counter(), (report.epoch - 1) * report.steps + report.step
        self.start_s = self.start_s or now - self._begun
        if report.epoch > 1:
            self._from = self._from or (now, steps)
        if steps > self._to[1]:
            self._to = (now, steps)

    @property
    def pictures_a_second(self) -> float:
        """The rate between the first report that counts and the last one with new steps."""
        assert self._from
        return self._batch_size * (self._to[1] - self._from[1]) / (self._to[0] - self._from[0])


def draw_dataset(folder: Path) -> Dataset:
    """Draw a clinic and prepare it."""
    clinic = write_clinic(folder / "clinic", ClinicConfig(), lambda all_: tqdm(all_, desc="drawing", unit="patient"))
    place = folder / "dataset"
    Prepare(
        images=clinic.images,
        annotations=clinic.annotations,
        out=str(place),
        group_pattern="(patient-[0-9]+)",
        fractions=(0.66, 0.17, 0.17),
    ).run()
    return open_dataset(Location(str(place)))


def train_plainly(job: TrainJob, folder: Path, threads: int) -> Clock:
    """Train in this process."""
    torch.set_num_threads(threads)
    clock = Clock(job.config.batch_size)
    train, val = (
        [job.data.load(name, job.view, job.network.classes) for name in job.data.names(split)]
        for split in ("train", "val")
    )

    def keep(state: FitState) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write_state(state, Path(place))

    batches = Sampler(examples=train, tile=job.view.tile, scale=job.view.scale, config=job.config)
    fit = Fit(network_config=job.network, view=job.view, config=job.config, train=batches, val=val)
    fit.run(on_epoch=keep, on_step=clock.note)
    return clock


def train_with_ray(job: TrainJob, folder: Path) -> Clock:
    """Train on Ray, with one worker."""
    clock = Clock(job.config.batch_size)
    with tempfile.TemporaryDirectory(dir=folder) as run:
        train_on_ray(job, Location(run), Scaling(workers=1, gpu=False), clock.note)
    return clock


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    recipe = paper()
    config = TrainConfig(epochs=options.epochs, augment="none", expansion=1)
    plain, ray = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = AnnotatedData(dataset=draw_dataset(folder))
        job = TrainJob(data=data, network=recipe.network, view=recipe.view, config=config, threshold=0.5)
        for _ in tqdm(range(options.repeats), desc="training", unit="pair"):
            plain.append(train_plainly(job, folder, options.threads))
            ray.append(train_with_ray(job, folder))
    ratios = [one.pictures_a_second / other.pictures_a_second for one, other in zip(ray, plain, strict=True)]
    figures = {
        **asdict(options),
        "plain_pictures_a_second": round(statistics.median(one.pictures_a_second for one in plain), 2),
        "ray_pictures_a_second": round(statistics.median(one.pictures_a_second for one in ray), 2),
        "ray_over_plain": round(statistics.median(ratios), 3),
        "ray_over_plain_each": [round(ratio, 3) for ratio in ratios],
        "ray_start_s": round(statistics.median(one.start_s for one in ray), 1),
    }
    print(f"plain PyTorch  {figures['plain_pictures_a_second']:>8} pictures/s")
    print(f"Ray Train      {figures['ray_pictures_a_second']:>8} pictures/s, after {figures['ray_start_s']} s of start")
    print(f"ratio          {figures['ray_over_plain']:>8} ({min(ratios):.3f} to {max(ratios):.3f})")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
