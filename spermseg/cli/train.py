"""`spermseg train`: a dataset -> a model."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.cli.arguments.dataset import given_dataset
from spermseg.cli.arguments.options import (
    PATIENCE_MINUTES,
    Address,
    EndpointUrl,
    Epochs,
    Gpu,
    OptionalInt,
    OptionalText,
    PatienceMinutes,
    RecipeFloat,
    RecipeInt,
    RecipeInts,
    RecipeParts,
    RecipeSwitch,
    is_on,
    recipe_choice,
    wants_gpu,
)
from spermseg.cli.terminal import say
from spermseg.cli.training_run.folder import MODEL, check_run, keep_settings, settings_of, snapshot_name
from spermseg.cli.training_run.model import write_models
from spermseg.cli.training_run.record import TrainingRecord
from spermseg.errors import ConfigError, DatasetError
from spermseg.micrograph.layout import aligned
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.pretrained import model_location
from spermseg.model.saved import SavedModel, load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.recipes import Recipe, RecipeName, recipe
from spermseg.storage.filesystem import Location
from spermseg.training.config import PrecisionName, ScheduleName, TrainConfig
from spermseg.training.data.augment import AugmentName
from spermseg.training.data.source import AnnotatedData, SyntheticData, TrainingData
from spermseg.training.distributed import Scaling, train_on_ray
from spermseg.training.job import TrainJob
from spermseg.training.learner import first_weights
from spermseg.training.losses import LossName
from spermseg.training.optimizers import OptimizerName

OF_ANNOTATED = ("ignore_border", "ignore_loose", "expansion", "places", "superpose")
"""Options for annotated pictures only. Synthetic pictures are annotated completely, and no tile is seen twice."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on a dataset that `spermseg prepare` wrote.

    Writes OUT/model.safetensors (the epoch with the best Dice on the validation split), history.csv, curves.png,
    model_card.md, settings.json and TensorBoard files. Each epoch writes a checkpoint. --resume goes on from the last.

    Example: spermseg train --dataset dataset --out run --recipe paper
    """

    GOES_ON: ClassVar[str] = "--resume goes on after the last finished epoch"

    out: str
    """Folder or s3://bucket/prefix for this training alone."""
    dataset: OptionalText = None
    """The dataset: a folder or s3://bucket/prefix."""
    synthetic: bool = False
    """Train on synthetic micrographs, new ones every epoch, instead of a dataset."""
    pictures: OptionalInt = None
    """Number of training pictures, chosen from the dataset at random; with --synthetic, pictures in an epoch (1000)."""
    ignore_border: int = 0
    """Width of a border in which background is ignored in the loss and in the validation scores, px. For annotations
    that skip cells which the edge of the picture cuts."""
    ignore_loose: OptionalText = None
    """A model that has learned heads, or `pretrained`. Pieces that this model finds, that have no annotation and no
    head, are ignored in the loss and in the validation scores. For annotations that skip cells whose heads lie outside
    the picture."""
    ignore_cut: RecipeSwitch = None
    """Ignore cells whose heads a tile cuts off in the loss. They look like tails of cells outside the picture, which
    annotations skip. Needs the classes `cell` and `head`."""
    init: OptionalText = None
    """First weights: a model file, `pretrained` (the bundled model) or `scratch`. The network, classes and view of a
    model are taken over. (paper: scratch; clinic: pretrained, but scratch with --synthetic or another network.)"""
    recipe: RecipeName = "paper"
    """`paper`: the whole picture at 256 x 256, as Melendez et al. 2021; `clinic`: tiles at a quarter of
    the resolution."""
    epochs: RecipeInt = None
    """Passes over the training split (paper: 30)."""
    batch_size: RecipeInt = None
    """Pictures in one step, over all workers (paper: 4)."""
    optimizer: Annotated[OptimizerName | None, recipe_choice(OptimizerName)] = None
    """Optimiser: `adam`, as in the paper, or `muon`, which learns as much in fewer steps."""
    learning_rate: RecipeFloat = None
    """Learning rate; with a schedule, its maximum (paper: 3e-4; clinic: 0.001, and 0.003 from scratch)."""
    schedule: Annotated[ScheduleName | None, recipe_choice(ScheduleName)] = None
    """Schedule of the learning rate (paper: constant; clinic: constant, and one-cycle from scratch)."""
    weight_decay: RecipeFloat = None
    """Decoupled weight decay, as in AdamW."""
    ema_decay: RecipeFloat = None
    """Decay of the exponential moving average (EMA) of the weights, such as 0.998. The decay is smaller in the first
    steps. The EMA is scored and kept. 0 turns it off."""
    precision: Annotated[PrecisionName | None, recipe_choice(PrecisionName)] = None
    """Precision of the convolutions on a CPU."""
    loss: Annotated[LossName | None, recipe_choice(LossName)] = None
    """Loss function."""
    soft_labels: RecipeSwitch = None
    """Learn the coverage of each pixel (0 to 1) instead of a binary mask."""
    filters: RecipeInts = None
    """Filters of each encoder level (paper: 16 32 48 64)."""
    bridge: RecipeInt = None
    """Filters of the bridge (paper: 64)."""
    residual: bool = False
    """Add a skip connection around the second convolution of each level."""
    subpixel: RecipeInt = None
    """Block size n: the network reads and writes blocks of n x n pixels as channels (pixel unshuffle and shuffle)."""
    scale: RecipeFloat = None
    """Working resolution divided by native resolution, for recipes with tiles (clinic: 0.25)."""
    tile: RecipeInt = None
    """Side of a training tile, or of the resized whole picture, px (paper: 256)."""
    augment: Annotated[AugmentName | None, recipe_choice(AugmentName)] = None
    """Augmentation: `none`; `paper`, its five transforms; `symmetries` of a square; or `clinic`, which also changes
    scale, light, stain, blur and noise."""
    expansion: RecipeInt = None
    """Variants of each picture in an epoch, the picture itself included (paper: 6)."""
    places: RecipeInt = None
    """Candidate squares for each tile. The one with the most cell pixels is taken."""
    superpose: RecipeFloat = None
    """Share of the training tiles that a second tile is laid on, as if two smears lay on one slide. Cells cross, and
    faint tails lie on other backgrounds. 0 turns it off."""
    seed: RecipeInt = None
    """Seed of the first weights, the order and the augmentation."""
    freeze_batch_norm: bool = False
    """Freeze the statistics of batch normalisation."""
    classes: RecipeParts = None
    """Classes to learn, one output each; `cell` is the whole cell (paper: cell; clinic: those of cell, head, acrosome,
    midpiece and tail that are annotated)."""
    snapshots: Epochs = ()
    """Epochs whose models are kept, too, as OUT/model-epoch-N.safetensors."""
    resume: bool = False
    """Resume the training in OUT."""
    workers: int = 1
    """Data-parallel processes. They share the batch."""
    gpu: Gpu = "auto"
    """One GPU for each worker: `auto` if the cluster has them now, `always` to wait for an autoscaler, or `never`."""
    max_failures: int = 3
    """How often lost workers are replaced."""
    address: Address = None
    """Ray cluster to train on."""
    endpoint_url: EndpointUrl = None
    """S3 server of the dataset and the run, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Train, show the progress, and print the result."""
        out = Location(self.out, self.endpoint_url)
        check_run(out, resume=self.resume)
        begun = self._begun()
        chosen = self._recipe(begun)
        data = self._data(chosen)
        chosen = self._with_classes(chosen, data)
        _check_data(data)
        job = TrainJob(
            data=data,
            network=chosen.network,
            view=chosen.view,
            config=chosen.train,
            threshold=chosen.cells.threshold,
            snapshots=self.snapshots,
            first_weights=None if begun is None else first_weights(begun, chosen.network, chosen.train.seed),
        )
        scaling = Scaling(
            workers=self.workers, gpu=wants_gpu(self.gpu), max_failures=self.max_failures, address=self.address
        )
        settings = settings_of(chosen, begun, data) | {"snapshots": sorted(self.snapshots)}
        kept = keep_settings(out, settings, resume=self.resume)
        job = replace(job, snapshots=kept["snapshots"])
        with TrainingRecord(out, chosen) as record:
            state = train_on_ray(job, out, scaling, record.show)
            record.keep(state.history)
        write_models(out, chosen, begun, data, state)
        for epoch in sorted({*job.snapshots} - {*state.snapshots}):
            say(f"no {snapshot_name(epoch)}: that epoch was finished before --snapshots named it", to=sys.stderr)
        best = state.history[state.best_epoch - 1]
        say(
            f"model: {out.child(MODEL).uri}, of epoch {state.best_epoch}: validation Dice {best['val_dice']:.3f}, "
            f"IoU {best['val_iou']:.3f}, at network resolution"
        )
        return 0

    def _begun(self) -> SavedModel | None:
        """Return the model to start from, or None to start from scratch."""
        start = self.init or recipe(self.recipe).start
        fits = not (self.synthetic or self.residual or self._given(["filters", "bridge", "subpixel"]))
        return None if start == "scratch" or (self.init is None and not fits) else self._model(start)

    def _model(self, given: str) -> SavedModel:
        """Return the model of a file, or the bundled model for the word `pretrained`."""
        return load_model(model_location(None if given == "pretrained" else given, self.endpoint_url))

    def _data(self, chosen: Recipe) -> TrainingData:
        seed = chosen.train.seed
        dataset = given_dataset(self.dataset, self.endpoint_url, synthetic=self.synthetic)
        if dataset is None:
            self._check_options_of_synthetic()
        if dataset is not None:
            return AnnotatedData(
                dataset=dataset,
                limit=self.pictures,
                seed=seed,
                ignore_border=self.ignore_border,
                scout=None if self.ignore_loose is None else self._model(self.ignore_loose),
            )
        return SyntheticData(seed=seed) if self.pictures is None else SyntheticData(pictures=self.pictures, seed=seed)

    def _recipe(self, begun: SavedModel | None) -> Recipe:
        chosen = recipe(self.recipe)
        if begun is None:
            chosen = chosen.from_scratch()
        else:
            chosen = replace(chosen, network=begun.description.network, view=begun.description.view)
        given = self._given(field.name for field in fields(TrainConfig))
        for name in ("soft_labels", "ignore_cut"):
            given[name] = is_on(getattr(self, name), getattr(chosen.train, name))
        if self.augment == "none":
            given["expansion"] = 1
        if self.synthetic:
            given["superpose"] = 0.0
        network = replace(chosen.network, **self._given(["filters", "bridge", "subpixel"]))
        network = replace(network, residual=network.residual or self.residual)
        view = self._view(chosen.view, network)
        network.check_size(view.tile, view.tile)
        return replace(chosen, train=replace(chosen.train, **given), network=network, view=view)

    def _with_classes(self, chosen: Recipe, data: TrainingData) -> Recipe:
        """Return the recipe with the classes of --classes, or with its own classes that have masks."""
        own = chosen.network.classes
        classes = self.classes or tuple(name for name in own if name in data.classes) or own
        unknown = [name for name in classes if name not in data.classes]
        if unknown:
            raise DatasetError(f"{data.name} has no part {', '.join(unknown)}; it has {', '.join(data.classes)}")
        if chosen.train.ignore_cut and not {WHOLE_CELL, HEAD} <= set(classes):
            raise ConfigError(
                f"got --ignore-cut with the classes {', '.join(classes)}; it needs {WHOLE_CELL} and {HEAD}"
            )
        return replace(chosen, network=replace(chosen.network, classes=classes))

    def _check_options_of_synthetic(self) -> None:
        """Raise ConfigError if an option is given that is for annotated pictures only."""
        given = [name for name in OF_ANNOTATED if getattr(self, name) not in (None, 0)]
        if given:
            option = given[0].replace("_", "-")
            raise ConfigError(
                f"got --{option} with --synthetic; the option is for annotated pictures: leave out one of the two"
            )

    def _view(self, view: WholeFrame | Tiles, network: UNetConfig) -> WholeFrame | Tiles:
        if isinstance(view, Tiles):
            return replace(view, halo=aligned(network.reach, network.multiple), **self._given(["scale", "tile"]))
        if self.scale is not None:
            raise ConfigError("got --scale with a recipe that sees the whole picture; give --tile, or --recipe clinic")
        return WholeFrame(size=self.tile or view.size)

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the settings that the command line gives. The others are the recipe's."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _check_data(data: TrainingData) -> None:
    if isinstance(data, AnnotatedData):
        for split in ("train", "val"):
            data.names(split)
