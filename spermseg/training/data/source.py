"""Sources of training data: annotated micrographs, or synthetic ones in any number."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import WHOLE_CELL
from spermseg.dataset.dataset import Dataset
from spermseg.dataset.index import Example
from spermseg.errors import ConfigError, DatasetError
from spermseg.micrograph.tiling import Tiles, View, to_native
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel
from spermseg.model.unet_config import check_knows_heads
from spermseg.synthetic.domain import PARTS, annotate, random_draw_config
from spermseg.synthetic.draw import draw_micrograph
from spermseg.training.config import TrainConfig
from spermseg.training.data.augment import Augmentation
from spermseg.training.data.coverage import UNKNOWN, coverage_of, covered
from spermseg.training.data.ignored_regions import border, forget_cut_off, loose_pieces
from spermseg.training.data.sampling import WorkingExample

SYNTHETIC_VERSION = 5
"""Version of the generator of synthetic micrographs; part of the digest of synthetic data."""
FRAME, FRAME_SCALE = (512, 640), 0.5
"""Size and scale of a synthetic picture for a network that sees the whole picture."""
FINER = 4
"""Pixels of a mask along each axis of one pixel of a synthetic tile: coverage is exact to 1/16."""
HELD_OUT = 2**32 - 1
"""Stands for the epoch in the seeds of the validation split."""


class TrainingData(Protocol):
    """Examples by split and name. Objects can be pickled, so every worker reads, or draws, its own examples."""

    @property
    def name(self) -> str:
        """Name of the data in messages."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that have masks."""

    @property
    def sha256(self) -> str:
        """Digest of all data that the training sees."""

    @property
    def settings(self) -> dict[str, Any]:
        """Which data the training sees, as JSON values."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Examples in each split."""

    def names(self, split: str) -> Sequence[str]:
        """Return the names of the examples of a split, sorted.

        Raises:
            DatasetError: there are none.
        """

    def load(self, name: str, view: View, classes: tuple[str, ...]) -> WorkingExample:
        """Return an example at the working resolution."""

    def native_cells(self, name: str, view: View, classes: tuple[str, ...]) -> NDArray[np.bool_]:
        """Return the union (Y, X) of some classes of an example, at the resolution of its ground truth."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedData:
    """A prepared dataset."""

    dataset: Dataset
    limit: int | None = None
    """Number of training pictures, chosen at random, for learning curves; None takes all."""
    seed: int = 0
    """Seed of that choice."""
    ignore_border: int = 0
    """Loss and scores ignore pixels that are nearer than this to the edge of their picture and not annotated, px."""
    scout: SavedModel | None = None
    """A model that has learned heads. Loss and scores ignore its predictions that are not annotated and have no
    head."""

    def __post_init__(self) -> None:
        if self.ignore_border < 0:
            raise ConfigError(f"got a border of {self.ignore_border} px to ignore; 0 or more is needed")
        if self.scout is not None:
            check_knows_heads(self.scout.network.config.classes)

    @property
    def name(self) -> str:
        """The URI of the dataset."""
        return self.dataset.location.uri

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the dataset."""
        return self.dataset.classes

    @property
    def sha256(self) -> str:
        """The digest of the dataset. Where the training sees only a part, the digest depends on that part, too."""
        if self.limit is None and not self.ignore_border and self.scout is None:
            return self.dataset.sha256
        scout = [] if self.scout is None else [self.scout.sha256]
        seen = [self.dataset.sha256, str(self.ignore_border), *scout, *self.names("train")]
        return hashlib.sha256("\n".join(seen).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """The digest of the dataset, and the settings that leave some of it out."""
        return {
            "dataset_sha256": self.dataset.sha256,
            "pictures": self.limit,
            "ignore_border": self.ignore_border,
            "ignore_loose": None if self.scout is None else self.scout.sha256,
        }

    @property
    def counts(self) -> Mapping[str, int]:
        """Examples in each split that the training sees."""
        counts = self.dataset.description.counts
        return counts if self.limit is None else {**counts, "train": len(self.names("train"))}

    def names(self, split: str) -> Sequence[str]:
        """Return the names of the images.

        Raises:
            DatasetError: there are none, or fewer than the limit.
        """
        names = [example.image for example in self.dataset.examples(split)]
        if split != "train" or self.limit is None:
            return names
        if not 1 <= self.limit <= len(names):
            raise DatasetError(f"got {self.limit} pictures to train on; {self.name} has {len(names)}")
        return sorted(np.random.default_rng(self.seed).permutation(names)[: self.limit].tolist())

    def load(self, name: str, view: View, classes: tuple[str, ...]) -> WorkingExample:
        """Return a micrograph and the coverage of its mask.

        Raises:
            DatasetError: a file of the example is missing or has changed.
        """
        example = self.dataset.example(name)
        coverage = np.stack([coverage_of(self.dataset.read_mask(example, part), view) for part in classes], axis=-1)
        pixels = self.dataset.read_working(example, view)
        if self.ignore_border or self.scout is not None:
            annotated = view.working_mask(self.dataset.read_mask(example))
        if self.ignore_border:
            shares = np.divide(annotated.shape, (example.height, example.width))
            coverage[border(annotated.shape, self.ignore_border * shares) & ~annotated] = UNKNOWN
        if self.scout is not None:
            coverage[self._loose(self.scout, example, annotated, view.scale)] = UNKNOWN
        return WorkingExample(pixels=pixels, coverage=coverage)

    def native_cells(self, name: str, view: View, classes: tuple[str, ...]) -> NDArray[np.bool_]:  # noqa: ARG002 (native)
        """Return the union (Y, X) of some classes, as annotated.

        Raises:
            DatasetError: a file of the example is missing or has changed.
        """
        return np.asarray(
            np.any([self.dataset.read_mask(self.dataset.example(name), part) for part in classes], axis=0)
        )

    def _loose(
        self, scout: SavedModel, example: Example, annotated: NDArray[np.bool_], scale: float
    ) -> NDArray[np.bool_]:
        """Return the `loose_pieces` that a model finds in a picture, at the resolution of the annotation."""
        predictor = Predictor(scout, scout.description.view, PredictConfig(device="cpu"), parts=True)
        pixels = self.dataset.read_working(example, predictor.view)
        maps = {part: to_native(one, annotated.shape) for part, one in predictor.predict_parts(pixels).items()}
        return loose_pieces(maps, annotated, scout.description.threshold, scale)


@dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """Synthetic micrographs: new ones for each epoch, and a fixed validation split."""

    pictures: int = 1000
    """Pictures of an epoch."""
    held_out: int = 48
    """Pictures of the validation split."""
    seed: int = 0
    """Seed of all pictures."""

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise ConfigError(f"got {self.pictures} pictures for an epoch; 1 or more is needed")

    @property
    def name(self) -> str:
        """Name of the data in messages."""
        return "synthetic micrographs"

    @property
    def classes(self) -> tuple[str, ...]:
        """The whole cell and its parts."""
        return (WHOLE_CELL, *PARTS)

    @property
    def sha256(self) -> str:
        """Digest of the settings, and of the version of the generator."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of this class, and the version of the generator."""
        return {"synthetic": SYNTHETIC_VERSION, **asdict(self)}

    @property
    def counts(self) -> Mapping[str, int]:
        """Examples of an epoch, and of the validation split."""
        return {"train": self.pictures, "val": self.held_out}

    def names(self, split: str) -> Sequence[str]:
        """Return numbers of six digits as names.

        Raises:
            DatasetError: the split is not `val`. Pictures of the training split are new in every epoch.
        """
        if split != "val":
            raise DatasetError(f"split {split!r} of {self.name} has no names: it is made anew for every epoch")
        return [f"{number:06d}" for number in range(self.held_out)]

    def load(self, name: str, view: View, classes: tuple[str, ...]) -> WorkingExample:
        """Draw a picture of the validation split."""
        return draw_example(np.random.default_rng((self.seed, HELD_OUT, int(name))), view, classes)

    def native_cells(self, name: str, view: View, classes: tuple[str, ...]) -> NDArray[np.bool_]:
        """Return the union (Y, X) of some classes at the working resolution, which is the only one."""
        return np.asarray(covered(self.load(name, view, classes).coverage).any(axis=-1))

    def draw(self, epoch: int, slot: int, view: View, classes: tuple[str, ...], config: TrainConfig) -> WorkingExample:
        """Draw an augmented training tile, a function of only seed, epoch, slot and settings."""
        rng = np.random.default_rng((self.seed, epoch, slot))
        example = draw_example(rng, view, classes)
        augmentation = Augmentation(config.augment, view.tile)
        pixels, coverage = augmentation.variant(example.pixels, example.coverage, slot, int(rng.integers(2**31)))
        if config.ignore_cut:
            coverage = forget_cut_off(coverage, classes, view.scale)
        return replace(example, pixels=pixels, coverage=coverage)


def draw_example(rng: np.random.Generator, view: View, classes: tuple[str, ...]) -> WorkingExample:
    """Draw a picture of a random clinic, at the working resolution: a tile, or a whole picture for a `WholeFrame`."""
    tiles = isinstance(view, Tiles)
    size, scale = ((view.tile, view.tile), view.scale) if isinstance(view, Tiles) else (FRAME, FRAME_SCALE)
    config = random_draw_config(rng, *size, scale)
    made = draw_micrograph(int(rng.integers(2**31)), config)
    masks = annotate(made, config.scale, finer=FINER if tiles else 1)
    reading = Tiles(scale=1 / FINER) if tiles else view
    coverage = np.stack([coverage_of(masks[part], reading) for part in classes], axis=-1)
    return WorkingExample(pixels=made.pixels if tiles else view.working_pixels(made.pixels), coverage=coverage)
