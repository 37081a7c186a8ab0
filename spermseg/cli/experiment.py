"""`spermseg experiment`: repeats a published study."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from spermseg.cli.arguments.options import PATIENCE_MINUTES, Address, EndpointUrl, Gpu, PatienceMinutes, wants_gpu
from spermseg.cli.evaluate import ranked_figure
from spermseg.cli.terminal import say
from spermseg.cli.train import Train
from spermseg.cli.training_run.folder import snapshot_name
from spermseg.cli.training_run.side_by_side import train_side_by_side
from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.errors import ConfigError
from spermseg.evaluation.evaluate import Evaluator, rank, tabulate
from spermseg.evaluation.predictions import ModelPredictions
from spermseg.model.saved import load_model
from spermseg.recipes import paper
from spermseg.report.charts import histogram_figure
from spermseg.report.figures import panel_figure
from spermseg.report.study import FAILED_BELOW, StudyRow, StudyScores, study_csv, study_markdown
from spermseg.storage.filesystem import Location
from spermseg.training.config import PrecisionName
from spermseg.training.data.augment import PAPER_VARIANTS, Augmentation
from spermseg.training.distributed import Scaling, room_for_trainings

STUDIES = Literal["paper"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Repeat a published study on a dataset, with its tables beside the published ones.

    `paper` is Melendez et al., CBMS 2021: training without augmentation for 20 to 50 epochs and with it for 10 to 30,
    scored on every split. This takes two trainings, which keep their models at these epochs. They run side by side if
    the cluster has room for both. Writes tables.md, tables.csv, the scores of each row, and figures: the augmentation,
    the curves, the best and worst pictures, and the share of failed pictures. After a kill, the same command goes on,
    and repeats nothing that is finished.

    Example: spermseg experiment paper --dataset dataset --out study
    """

    study: Annotated[STUDIES, tyro.conf.Positional]
    """The study to repeat."""
    dataset: str
    """The dataset: a folder or s3://bucket/prefix."""
    out: str
    """Folder or s3://bucket/prefix for this study alone."""
    plain_epochs: tuple[int, ...] = (20, 30, 40, 50)
    """Epochs of the rows without augmentation."""
    augmented_epochs: tuple[int, ...] = (10, 20, 30)
    """Epochs of the rows with augmentation."""
    seed: int = 0
    """Seed of both trainings."""
    precision: PrecisionName = "float32"
    """Precision of the convolutions on a CPU. `auto` takes half the time on CPUs with bfloat16 instructions."""
    workers: int = 1
    """Data-parallel processes of a training."""
    gpu: Gpu = "auto"
    """GPUs, as in `spermseg train`."""
    address: Address = None
    """Ray cluster to train on."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Train the missing models, score them, and write tables and figures."""
        dataset, out = open_dataset(self._at(self.dataset)), self._at(self.out)
        rows = self._rows()
        for row in rows:
            self._check_model(row, dataset)
        self._train_all(rows)
        metrics = {(row, split): self._score(row, split, dataset) for row in rows for split in dataset.splits}
        scores = [StudyScores.of(row, found) for (row, _), found in metrics.items()]
        table = study_markdown(scores)
        out.child("tables.md").write_bytes(table.encode())
        out.child("tables.csv").write_bytes(study_csv(scores))
        self._draw(rows[-1], dataset, metrics[rows[-1], dataset.splits[-1]])
        say(*table.split("\n"))
        say(f"written: {out.child('tables.md').uri}, tables.csv, scores, figures")
        return 0

    def _at(self, uri: str) -> Location:
        return Location(uri, self.endpoint_url)

    def _rows(self) -> list[StudyRow]:
        epochs = {False: self.plain_epochs, True: self.augmented_epochs}
        return [
            StudyRow(augmented=augmented, epochs=count) for augmented in epochs for count in sorted(epochs[augmented])
        ]

    def _check_model(self, row: StudyRow, dataset: Dataset) -> None:
        """Raise ConfigError if the model of a row exists and was trained on another dataset or with other settings."""
        place = self._place(row)
        if not place.exists():
            return
        about = load_model(place).description
        train = about.settings.get("train")
        learned = {name: train.get(name) if isinstance(train, dict) else None for name in ("seed", "precision")}
        if about.training_data_sha256 != dataset.sha256:
            raise ConfigError(f"{place.uri} was trained on another dataset than {self.dataset}; give another --out")
        if learned != {"seed": self.seed, "precision": self.precision}:
            raise ConfigError(
                f"{place.uri} was trained with --seed {learned['seed']} --precision {learned['precision']}; "
                "give the same, or another --out"
            )

    def _place(self, row: StudyRow) -> Location:
        """Return the location of the model of a row."""
        return self._at(self.out).child(row.training, snapshot_name(row.epochs))

    def _train_all(self, rows: Sequence[StudyRow]) -> None:
        """Run or resume the trainings of missing models, side by side if the cluster has room."""
        by_training = {one.training: [row for row in rows if row.training == one.training] for one in rows}
        missing = {
            name: training for name, its in by_training.items() if (training := self._training(name, its)) is not None
        }
        scaling = Scaling(workers=self.workers, gpu=wants_gpu(self.gpu), address=self.address)
        at_once = room_for_trainings(scaling) if len(missing) > 1 else 1
        if at_once > 1:
            train_side_by_side(missing, at_once)
            return
        for name, training in missing.items():
            say(f"=== training {name}{', resumed' if training.resume else ''}")
            training.run()

    def _training(self, name: str, rows: Sequence[StudyRow]) -> Train | None:
        """Return the training of some rows, or None if all of their models exist."""
        place = self._at(self.out).child(name)
        if all(self._place(row).exists() for row in rows):
            return None
        epochs = tuple(row.epochs for row in rows)
        return Train(
            dataset=self.dataset,
            out=place.uri,
            recipe="paper",
            augment="paper" if rows[0].augmented else "none",
            epochs=max(epochs),
            snapshots=epochs,
            seed=self.seed,
            precision=self.precision,
            resume=next(iter(place.child("checkpoints").list()), None) is not None,
            workers=self.workers,
            gpu=self.gpu,
            address=self.address,
            endpoint_url=self.endpoint_url,
        )

    def _score(self, row: StudyRow, split: str, dataset: Dataset) -> dict[str, Any]:
        """Return the scores of the model of a row on a split, as in `metrics.json`. Existing scores are read."""
        saved = load_model(self._place(row))
        place = self._at(self.out).child("scores", f"{row.name}-{split}.json")
        about = {"model_sha256": saved.sha256, "dataset_sha256": dataset.sha256}
        if place.exists():
            before: dict[str, Any] = json.loads(place.read_bytes())
            if about.items() <= before.items():
                return before
        evaluator = Evaluator.of(saved, ModelPredictions.of(saved), dataset)
        scored = evaluator.score(split, lambda all_: tqdm(all_, desc=f"{row.name}, {split}", unit="picture"))
        found = tabulate(scored, split) | about
        place.write_bytes((json.dumps(found, indent=2) + "\n").encode())
        self._at(self.out).child("figures", f"{row.name}-{split}.png").write_bytes(
            ranked_figure(evaluator, rank(scored), examples=2)
        )
        return found

    def _draw(self, row: StudyRow, dataset: Dataset, metrics: dict[str, Any]) -> None:
        """Draw the augmentation, and a histogram of the scores of a row's pictures."""
        figures = self._at(self.out).child("figures")
        view, example = paper().view, dataset.examples("train")[0]
        pixels = dataset.read_working(example, view)
        mask = view.working_mask(dataset.read_mask(example))[..., None].astype("uint8")
        augmentation = Augmentation("paper", view.tile)
        variants = [augmentation.variant(pixels, mask, number, self.seed) for number in range(len(PAPER_VARIANTS))]
        figures.child("augmentation.png").write_bytes(
            panel_figure(PAPER_VARIANTS, [pixels for pixels, _ in variants], [one[..., 0] > 0 for _, one in variants])
        )
        values = [image["iou"] for image in metrics["images"]]
        figures.child("failed.png").write_bytes(
            histogram_figure(
                values, label=f"IoU of a picture, {row.name}, {metrics['split']}", failed_below=FAILED_BELOW
            )
        )
