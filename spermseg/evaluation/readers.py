"""What is compared with the annotations of a dataset: a model, a method that does not learn, or another rater."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.cells.confidence import Confidence
from spermseg.cells.instances import CellConfig
from spermseg.cells.interpret import Interpretation
from spermseg.dataset.dataset import Dataset
from spermseg.dataset.index import Example
from spermseg.errors import DatasetError
from spermseg.evaluation.baselines import BASELINES, BaselineName
from spermseg.micrograph.tiling import to_native
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel

FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
"""Axes along which a picture is flipped."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What was found in one picture."""

    masks: Mapping[str, NDArray[np.bool_]]
    """Part -> (Y, X), at native resolution; the whole cell is among them."""
    probability: NDArray[np.float32] | None = None
    """(Y, X) of the whole cell, at native resolution; None where a pixel is a cell's or it is not."""
    working: NDArray[np.bool_] | None = None
    """(Y, X) of the whole cell at the working resolution, where there is one."""
    confidence: float | None = None
    """Dice that the reader expects of its mask of whole cells; None where it expects nothing."""
    n_heads: int | None = None
    """Heads, as a table counts them; None where the reader has no such count."""


class Reader(Protocol):
    """Finds cells, and parts of them, in the pictures of a dataset."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What it finds; the whole cell is among them."""

    def read(self, example: Example, dataset: Dataset) -> Reading:
        """Return what is in a picture of a dataset."""


@dataclass(frozen=True, kw_only=True)
class ModelReader:
    """A model. Made with `Predictor(..., parts=True)`."""

    predictor: Predictor
    cells: CellConfig
    """What counts as a cell."""
    confidence: Confidence = field(default_factory=Confidence)
    """How it judges its masks."""
    flips: bool = False
    """Whether it reads each picture four times, flipped along each axis and along both, and takes the mean."""

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        *,
        threshold: float | None = None,
        require_head: bool | None = None,
        flips: bool = False,
        device: str = "auto",
    ) -> "ModelReader":
        """Return what reads with a model; threshold and `require_head` are the model's own where none is given.

        Raises:
            ConfigError: the threshold is no probability, or heads are asked for that the model does not know.
        """
        about = saved.description
        return cls(
            predictor=Predictor(saved, about.view, PredictConfig(device=device), parts=True),
            cells=about.cells(threshold=threshold, require_head=require_head),
            confidence=about.confidence,
            flips=flips,
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The cell, and what else the network has learned."""
        return tuple(dict.fromkeys((WHOLE_CELL, *self.predictor.classes)))

    def read(self, example: Example, dataset: Dataset) -> Reading:
        """Return what the network finds, as a table would hold it."""
        view, native = self.predictor.view, (example.height, example.width)
        pixels = dataset.read_working(example, view)
        maps = self._mean_of_flips(pixels) if self.flips else self.predictor.predict_parts(pixels)
        found = Interpretation(
            cell=maps.pop(WHOLE_CELL),
            head=maps.get(HEAD),
            native=native,
            config=self.cells,
            view=view,
            judge=self.confidence,
        )
        parts = {part: to_native(found.without_dropped(one), native) for part, one in maps.items()}
        return Reading(
            masks={WHOLE_CELL: found.mask} | {part: one >= self.cells.threshold for part, one in parts.items()},
            probability=found.probability,
            working=found.working >= self.cells.threshold,
            confidence=found.confidence,
            n_heads=found.n_heads,
        )

    def _mean_of_flips(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return part -> (Y, X), the mean of what is found in a picture and in its flips, each flipped back.

        Args:
            pixels: (Y, X, 3) at the working resolution.
        """
        found = []
        for flip in FLIPS:
            maps = self.predictor.predict_parts(np.ascontiguousarray(np.flip(pixels, flip)))
            found.append({part: np.flip(one, flip) for part, one in maps.items()})
        return {part: np.mean([one[part] for one in found], axis=0, dtype=np.float32) for part in found[0]}


@dataclass(frozen=True, kw_only=True)
class BaselineReader:
    """A method that does not learn; it finds whole cells."""

    name: BaselineName

    @property
    def parts(self) -> tuple[str, ...]:
        """The cell alone."""
        return (WHOLE_CELL,)

    def read(self, example: Example, dataset: Dataset) -> Reading:
        """Return what the method finds."""
        return Reading(masks={WHOLE_CELL: BASELINES[self.name](dataset.read_image(example))})


@dataclass(frozen=True, kw_only=True)
class RaterReader:
    """Another rater: a dataset of the same pictures, with annotations of his own."""

    dataset: Dataset

    @property
    def parts(self) -> tuple[str, ...]:
        """What the rater has annotated."""
        return self.dataset.classes

    def read(self, example: Example, dataset: Dataset) -> Reading:  # noqa: ARG002 (he has seen the pictures)
        """Return what the other rater has annotated.

        Raises:
            DatasetError: the rater has not annotated this picture.
        """
        his = [one for one in self.dataset.all_examples if one.image_sha256 == example.image_sha256]
        if not his:
            raise DatasetError(f"{self.dataset.location.uri} has no annotation of {example.image!r}")
        return Reading(masks={part: self.dataset.read_mask(his[0], part) for part in self.parts})
