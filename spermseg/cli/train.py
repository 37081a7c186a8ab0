"""`spermseg train`: a dataset -> a model."""

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import spermseg
from spermseg.cli.options import Address, EndpointUrl, Gpu, RecipeFloat, RecipeInt, wants_gpu
from spermseg.errors import ConfigError, DatasetError
from spermseg.model.saved import ModelDescription, encode_model
from spermseg.model.unet import UNet
from spermseg.recipes import Recipe, RecipeName, recipe
from spermseg.report.figures import curves_figure
from spermseg.report.model_card import render_model_card
from spermseg.storage.filesystem import Location
from spermseg.training.dataset import Dataset, open_dataset
from spermseg.training.distributed import Scaling, TrainJob, train_on_ray
from spermseg.training.evaluate import half_precision_agreement
from spermseg.training.fit import FitState, StepReport, Weights

MODEL = "model.safetensors"
SHOW_AFTER_S = 5.0
"""A bar of what is done sooner would only flicker."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on a dataset that `spermseg prepare` wrote.

    Writes OUT/model.safetensors (of the epoch with the best Dice on the validation split), history.csv, curves.png,
    model_card.md, settings.json and TensorBoard files; a checkpoint an epoch, from which --resume goes on.

    Example: spermseg train --dataset dataset --out run --recipe paper
    """

    dataset: str
    """The dataset: a folder or s3://bucket/prefix."""
    out: str
    """Where this training is written: a folder or s3://bucket/prefix of its own."""
    recipe: RecipeName = "paper"
    """`paper`: the whole picture at 256 x 256, as Melendez et al. 2021; `clinic`: tiles at half the resolution."""
    epochs: RecipeInt = None
    """Times that the training split is seen (paper: 30)."""
    batch_size: RecipeInt = None
    """Pictures a step, over all workers (paper: 4)."""
    learning_rate: RecipeFloat = None
    """Of Adam (paper: 3e-4)."""
    augment: bool = True
    """Whether an epoch also sees the recipe's variants of each picture."""
    expansion: RecipeInt = None
    """Pictures that an epoch makes of each: itself and its variants (paper: 6)."""
    seed: RecipeInt = None
    """Of the first weights, the order and the variants."""
    freeze_batch_norm: bool = False
    """Keep the statistics of batch normalisation as they are."""
    classes: tuple[str, ...] = ("cell",)
    """Parts to learn, one output each; `cell` is the whole cell."""
    snapshots: tuple[int, ...] = ()
    """Epochs whose models are kept, too, as OUT/model-epoch-N.safetensors."""
    resume: bool = False
    """Go on with the training that lies in OUT."""
    workers: int = 1
    """Processes that train together, data-parallel; they share the batch."""
    gpu: Gpu = "auto"
    """One GPU a worker: `auto` when the cluster has them now, `always` to wait for an autoscaler's, or `never`."""
    max_failures: int = 3
    """Times that lost workers are replaced."""
    address: Address = None
    """Ray cluster to train on."""
    endpoint_url: EndpointUrl = None
    """S3 server of the dataset and the run, where it is not AWS."""

    def run(self) -> int:
        """Train, show how far it is, and print what came of it."""
        dataset = open_dataset(Location(self.dataset, self.endpoint_url))
        out = Location(self.out, self.endpoint_url)
        _check_run(out, resume=self.resume)
        chosen = self._recipe()
        _check_dataset(dataset, chosen)
        _keep_settings(out, chosen, dataset)
        job = TrainJob(
            dataset=dataset.location,
            network=chosen.network,
            view=chosen.view,
            config=chosen.train,
            threshold=chosen.cells.threshold,
            snapshots=self.snapshots,
        )
        scaling = Scaling(
            workers=self.workers, gpu=wants_gpu(self.gpu), max_failures=self.max_failures, address=self.address
        )
        with TrainingRecord(out, chosen) as record:
            state = train_on_ray(job, out, scaling, record.show)
            record.keep(state.history)
        for epoch, weights in state.snapshots.items():
            name = snapshot_name(epoch)
            out.child(name).write_bytes(encode_model(weights, describe_model(chosen, dataset, state, epoch, weights)))
        write_model(out, chosen, dataset, state)
        best = state.history[state.best_epoch - 1]
        print(
            f"model: {out.child(MODEL).uri}, of epoch {state.best_epoch}: validation Dice {best['val_dice']:.3f}, "
            f"IoU {best['val_iou']:.3f}, at network resolution"
        )
        return 0

    def _recipe(self) -> Recipe:
        chosen = recipe(self.recipe)
        given = {
            name: value
            for name in ("epochs", "batch_size", "learning_rate", "expansion", "seed")
            if (value := getattr(self, name)) is not None
        }
        if not self.augment:
            given |= {"augment": "none", "expansion": 1}
        config = replace(chosen.train, freeze_batch_norm=self.freeze_batch_norm, **given)
        return replace(chosen, train=config).with_classes(self.classes)


def _check_run(out: Location, *, resume: bool) -> None:
    present = next(iter(out.child("checkpoints").list()), None) is not None or out.child(MODEL).exists()
    if present and not resume:
        raise ConfigError(f"{out.uri} already holds a training; give --resume to go on with it, or another --out")
    if resume and not present:
        raise ConfigError(f"{out.uri} holds no training to resume; leave out --resume")


def _keep_settings(out: Location, chosen: Recipe, dataset: Dataset) -> None:
    """Write down the settings of a new training; a resumed one must have the same, but for the number of epochs."""
    place = out.child("settings.json")
    settings = json.loads(json.dumps({**asdict(chosen), "training_data_sha256": dataset.sha256}))
    if place.exists():
        before = json.loads(place.read_bytes())
        before["train"]["epochs"] = settings["train"]["epochs"]
        if before != settings:
            names = ", ".join(sorted(name for name in settings if settings[name] != before.get(name)))
            raise ConfigError(
                f"{out.uri} was begun with other settings ({names}); resume with the same, or another --out"
            )
    place.write_bytes((json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())


def _check_dataset(dataset: Dataset, chosen: Recipe) -> None:
    for split in ("train", "val"):
        dataset.examples(split)
    unknown = set(chosen.network.classes) - set(dataset.classes)
    if unknown:
        raise DatasetError(
            f"{dataset.location.uri} has no part {', '.join(sorted(unknown))}; it has {', '.join(dataset.classes)}"
        )


class TrainingRecord(AbstractContextManager["TrainingRecord"]):
    """What a person watches: the progress bar, and history.csv, curves.png and TensorBoard files after every epoch."""

    def __init__(self, out: Location, chosen: Recipe) -> None:
        self.out, self.epochs = out, chosen.train.epochs
        self._kept = 0
        self._folder = tempfile.TemporaryDirectory()
        self._board = SummaryWriter(self._folder.name)
        self._bar = tqdm(desc="training", unit="step")

    def show(self, report: StepReport) -> None:
        """Show how far the training is, and keep the epochs that are done."""
        self._bar.total = self.epochs * report.steps
        if not self._bar.n:  # a resumed training: what was done before says nothing of the speed
            self._bar.initial = (report.epoch - 1) * report.steps
        self._bar.n = (report.epoch - 1) * report.steps + report.step
        dice = f"{report.history[-1]['val_dice']:.3f}" if report.history else "-"
        self._bar.set_description(f"epoch {report.epoch}/{self.epochs}")
        self._bar.set_postfix_str(f"loss {report.loss:.3f}, validation Dice {dice}")
        self.keep(report.history)

    def keep(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write down the epochs that are done, unless they are written already."""
        if len(history) <= self._kept:
            return
        for record in history[self._kept :]:
            for name, value in record.items():
                self._board.add_scalar(name.replace("_", "/", 1), value, int(record["epoch"]))
        self._kept = len(history)
        self._board.flush()
        for file in Path(self._folder.name).iterdir():
            self.out.child("tensorboard", file.name).write_bytes(file.read_bytes())
        self.out.child("history.csv").write_bytes(_encode_history(history))
        self.out.child("curves.png").write_bytes(curves_figure(history))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._board.close()
        self._folder.cleanup()


def _encode_history(history: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def snapshot_name(epoch: int) -> str:
    """Return the name of the model file of an epoch."""
    return f"model-epoch-{epoch}.safetensors"


def write_model(out: Location, chosen: Recipe, dataset: Dataset, state: FitState) -> None:
    """Write the model file of the best epoch, and its card."""
    description = describe_model(chosen, dataset, state, state.best_epoch, state.best_weights)
    out.child(MODEL).write_bytes(encode_model(state.best_weights, description))
    card = render_model_card(description, dataset.description.counts, state.best_epoch, len(state.history))
    out.child("model_card.md").write_bytes(card.encode())


def describe_model(chosen: Recipe, dataset: Dataset, state: FitState, epoch: int, weights: Weights) -> ModelDescription:
    """Return what the model file of an epoch says of itself; half precision is checked for it."""
    record = state.history[epoch - 1]
    network = UNet(chosen.network).eval()
    network.load_state_dict(weights)
    agreement = half_precision_agreement(
        network,
        chosen.view,
        chosen.cells.threshold,
        dataset,
        lambda some: tqdm(some, desc="checking half precision", unit="picture", leave=False, delay=SHOW_AFTER_S),
    )
    return ModelDescription(
        network=chosen.network,
        view=chosen.view,
        threshold=chosen.cells.threshold,
        min_area=chosen.cells.min_area,
        recipe=chosen.name,
        settings=asdict(chosen),
        training_data_sha256=dataset.sha256,
        scores={name: value for name, value in record.items() if name.startswith("val_")},
        mask_agreement=agreement,
        version=spermseg.__version__,
    )
