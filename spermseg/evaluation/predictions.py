"""Sources of predictions to evaluate: a model, a baseline, or another rater."""

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
"""Test-time augmentation: the axes along which a picture is flipped, one tuple a pass."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The prediction for one picture."""

    masks: Mapping[str, NDArray[np.bool_]]
    """Part -> mask (Y, X), at native resolution; the whole cell is among the parts."""
    probability: NDArray[np.float32] | None = None
    """Probability (Y, X) of the whole cell, at native resolution; None where the source has only masks."""
    working: NDArray[np.bool_] | None = None
    """Mask (Y, X) of the whole cell at the working resolution; None where there is no such resolution."""
    confidence: float | None = None
    """Dice that the source expects of its mask of whole cells; None where the source has no confidence."""
    n_heads: int | None = None
    """Number of heads, as a table counts them; None where the source has no such count."""


class Predictions(Protocol):
    """Predicts masks of cells, and of their parts, in the pictures of a dataset."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have masks; the whole cell is among them."""

    def predict(self, example: Example, dataset: Dataset) -> Prediction:
        """Return the prediction for a picture of a dataset."""


@dataclass(frozen=True, kw_only=True)
class ModelPredictions:
    """Predictions of a model."""

    predictor: Predictor
    """The model, as `Predictor(..., parts=True)`."""
    cells: CellConfig
    """What counts as a cell."""
    confidence: Confidence = field(default_factory=Confidence)
    """How the model predicts the Dice of its masks."""
    flips: bool = False
    """Whether to use test-time augmentation: the mean over the picture and its flips along each axis and along both."""

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        *,
        threshold: float | None = None,
        require_head: bool | None = None,
        flips: bool = False,
        device: str = "auto",
    ) -> "ModelPredictions":
        """Return the predictions of a model. Threshold and `require_head` are the model's own where they are None.

        Raises:
            ConfigError: the threshold is no probability, or heads are required and the model has not learned heads.
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
        """The whole cell, and the classes of the network."""
        return tuple(dict.fromkeys((WHOLE_CELL, *self.predictor.classes)))

    def predict(self, example: Example, dataset: Dataset) -> Prediction:
        """Return the model's prediction, with the same masks as in a table."""
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
        return Prediction(
            masks={WHOLE_CELL: found.mask} | {part: one >= self.cells.threshold for part, one in parts.items()},
            probability=found.probability,
            working=found.working >= self.cells.threshold,
            confidence=found.confidence,
            n_heads=found.n_heads,
        )

    def _mean_of_flips(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return part -> (Y, X), the mean of the maps of a picture and of its flips, each flipped back.

        Args:
            pixels: (Y, X, 3) at the working resolution.
        """
        found = []
        for flip in FLIPS:
            maps = self.predictor.predict_parts(np.ascontiguousarray(np.flip(pixels, flip)))
            found.append({part: np.flip(one, flip) for part, one in maps.items()})
        return {part: np.mean([one[part] for one in found], axis=0, dtype=np.float32) for part in found[0]}


@dataclass(frozen=True, kw_only=True)
class BaselinePredictions:
    """Predictions of a method without learning; it has only whole cells."""

    name: BaselineName

    @property
    def parts(self) -> tuple[str, ...]:
        """Only the whole cell."""
        return (WHOLE_CELL,)

    def predict(self, example: Example, dataset: Dataset) -> Prediction:
        """Return the method's prediction."""
        return Prediction(masks={WHOLE_CELL: BASELINES[self.name](dataset.read_image(example))})


@dataclass(frozen=True, kw_only=True)
class RaterPredictions:
    """Annotations of another rater, from a dataset of the same pictures."""

    dataset: Dataset

    @property
    def parts(self) -> tuple[str, ...]:
        """The classes that the rater has annotated."""
        return self.dataset.classes

    def predict(self, example: Example, dataset: Dataset) -> Prediction:  # noqa: ARG002 (he has seen the pictures)
        """Return the annotations of the other rater.

        Raises:
            DatasetError: the rater has not annotated this picture.
        """
        his = [one for one in self.dataset.all_examples if one.image_sha256 == example.image_sha256]
        if not his:
            raise DatasetError(f"{self.dataset.location.uri} has no annotation of {example.image!r}")
        return Prediction(masks={part: self.dataset.read_mask(his[0], part) for part in self.parts})
