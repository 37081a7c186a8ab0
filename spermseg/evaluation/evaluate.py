"""Evaluation of a model, a baseline or a rater on the annotations of a split: scores pooled, and per image."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.cells.instances import label_cells
from spermseg.dataset.dataset import Dataset
from spermseg.dataset.index import Example
from spermseg.evaluation.object_metrics import Detected, InstancePair, average_precision, match_centres
from spermseg.evaluation.pixel_metrics import Confusion, confusion, pooled, summarise
from spermseg.evaluation.predictions import Prediction, Predictions
from spermseg.evaluation.reliability import Reliability
from spermseg.evaluation.shape_metrics import TOLERANCE, centreline_dice, surface_dice
from spermseg.micrograph.tiling import View
from spermseg.model.saved import SavedModel

Progress = Callable[[Sequence[Example]], Iterable[Example]]


@dataclass(frozen=True, kw_only=True)
class PartScores:
    """The scores of one part of the cells in one picture."""

    counts: Confusion
    """Confusion counts of pixels."""
    cldice: float
    surface_dice: float

    @classmethod
    def of(cls, predicted: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float) -> "PartScores":
        """Score a mask (Y, X) by the ground truth; the tolerance is of the surface Dice, px."""
        return cls(
            counts=confusion(predicted, truth),
            cldice=centreline_dice(predicted, truth),
            surface_dice=surface_dice(predicted, truth, tolerance),
        )

    def scores(self) -> dict[str, float]:
        """Return all scores by name."""
        return self.counts.scores() | {"cldice": self.cldice, "surface_dice": self.surface_dice}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """One picture's scores at its native resolution."""

    example: Example
    parts: Mapping[str, PartScores]
    """Part -> its scores; the whole cell is among them."""
    instances: InstancePair
    """Instances of whole cells."""
    heads: Detected | None = None
    """Counts of heads; None where the annotations or the predictions have no heads."""
    n_heads: int | None = None
    """Number of heads as a table counts them; None where the source has no such count."""
    network: Confusion | None = None
    """Confusion counts of the whole cell at the working resolution; None where there is no such resolution."""
    confidence: float | None = None
    """Dice that the source expected; None where the source has no confidence."""

    @property
    def native(self) -> Confusion:
        """The confusion counts of the whole cell."""
        return self.parts[WHOLE_CELL].counts


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """One picture with ground truth and prediction, at native resolution."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Compares predictions with the annotations of a dataset."""

    source: Predictions
    dataset: Dataset
    view: View | None = None
    """How the source sees pictures; None where the source has no working resolution."""
    min_area: int = 0
    """Smaller instances are dropped, px."""
    tolerance: float = TOLERANCE
    """Tolerance of the surface Dice, px."""
    forgive_border: bool = False
    """Whether predicted components that touch the edge of the picture and no annotation are ignored. Annotators skip
    cells that the edge cuts."""

    @classmethod
    def of(
        cls, saved: SavedModel, source: Predictions, dataset: Dataset, *, tolerance: float = TOLERANCE
    ) -> "Evaluator":
        """Return an evaluator of a model's predictions, with the model's own view and least area."""
        about = saved.description
        return cls(source=source, dataset=dataset, view=about.view, min_area=about.min_area, tolerance=tolerance)

    def score(self, split: str, progress: Progress = iter) -> list[Scored]:
        """Score every picture of a split.

        Raises:
            DatasetError: there is no such split, or a file of the split is missing.
        """
        return [self._score(example) for example in progress(self.dataset.examples(split))]

    def segment(self, example: Example) -> Segmented:
        """Segment one picture at native resolution, for a figure."""
        predicted = self._read(example).masks[WHOLE_CELL]
        pixels, truth = self.dataset.read_image(example), self.dataset.read_mask(example)
        return Segmented(pixels=pixels, truth=truth, predicted=predicted)

    def _score(self, example: Example) -> Scored:
        prediction = self._read(example)
        parts = [part for part in self.source.parts if part in self.dataset.classes]
        truth = {part: self.dataset.read_mask(example, part) for part in parts}
        network = None
        if self.view is not None and prediction.working is not None:
            network = confusion(prediction.working, self.view.working_mask(truth[WHOLE_CELL]))
        return Scored(
            example=example,
            parts={part: PartScores.of(prediction.masks[part], truth[part], self.tolerance) for part in parts},
            instances=self._instances(prediction, truth[WHOLE_CELL]),
            heads=self._heads(prediction.masks[HEAD], truth[HEAD]) if HEAD in parts else None,
            n_heads=prediction.n_heads,
            network=network,
            confidence=prediction.confidence,
        )

    def _read(self, example: Example) -> Prediction:
        """Return the prediction for a picture, without the components that `forgive_border` ignores."""
        prediction = self.source.predict(example, self.dataset)
        if not self.forgive_border:
            return prediction
        truth = self.dataset.read_mask(example)
        cut = unannotated_at_border(prediction.masks[WHOLE_CELL], truth)
        working = prediction.working
        if self.view is not None and working is not None:
            working = working & ~unannotated_at_border(working, self.view.working_mask(truth))
        masks = {part: mask & ~cut for part, mask in prediction.masks.items()}
        return replace(prediction, masks=masks, working=working, n_heads=None)

    def _instances(self, prediction: Prediction, truth: NDArray[np.bool_]) -> InstancePair:
        mask = prediction.masks[WHOLE_CELL]
        sureness = mask.astype(np.float32) if prediction.probability is None else prediction.probability
        return InstancePair.of(label_cells(mask, self.min_area), sureness, label_cells(truth))

    def _heads(self, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Detected:
        return match_centres(label_cells(found, self.min_area), label_cells(truth))


def unannotated_at_border(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask (Y, X) of the connected components that touch the edge of the picture and no annotation."""
    labels = label_cells(found)
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    forgiven = np.setdiff1d(at_edge, [0, *np.unique(labels[truth])])
    return np.isin(labels, forgiven)


def tabulate(scored: Sequence[Scored], split: str) -> dict[str, Any]:
    """Return the content of `metrics.json`: scores of the whole cell at native resolution, then all other scores."""
    parts = {part: _summary(scored, [one.parts[part] for one in scored]) for part in scored[0].parts}
    return {
        "split": split,
        "n_images": len(scored),
        **parts.pop(WHOLE_CELL),
        "images": [_image(one) for one in scored],
        "parts": parts,
        **dict(_things(scored)),
        **dict(_network(scored)),
        **dict(_confidence(scored)),
    }


def _image(one: Scored) -> dict[str, Any]:
    """Return the scores of the whole cell in one picture, and the confidence where there is one."""
    expected = {} if one.confidence is None else {"confidence": one.confidence}
    return {"image": one.example.image, "group": one.example.group, **one.parts[WHOLE_CELL].scores(), **expected}


def _summary(scored: Sequence[Scored], part: Sequence[PartScores]) -> dict[str, Any]:
    groups = [one.example.group for one in scored]
    return _both_ways([one.counts for one in part], [one.scores() for one in part], groups)


def _both_ways(
    counts: Sequence[Confusion], rows: Sequence[Mapping[str, float]], groups: Sequence[str]
) -> dict[str, Any]:
    """Return scores pooled over pixels, and summaries of the scores of each picture, `rows`."""
    per_image = {name: asdict(summarise([row[name] for row in rows], groups)) for name in rows[0]}
    return {"pooled": pooled(counts).scores(), "per_image": per_image}


def _things(scored: Sequence[Scored]) -> Iterator[tuple[str, Any]]:
    """Yield the scores of objects: heads, count errors and average precision."""
    heads = [one.heads for one in scored if one.heads is not None]
    if heads:
        total = sum(heads, Detected())
        yield "heads", {**asdict(total), "precision": total.precision, "recall": total.recall}
        yield "count_error", dict(_count_errors(scored))
    found = average_precision([one.instances for one in scored])
    if found is not None:
        yield "average_precision", asdict(found)


def _count_errors(scored: Sequence[Scored]) -> Iterator[tuple[str, float]]:
    """Yield the mean absolute error of the number of cells in a picture, by heads and by outlines."""
    told = [(one, one.heads) for one in scored if one.heads is not None]
    annotated = np.array([heads.tp + heads.fn for _, heads in told])
    found = [heads.tp + heads.fp if one.n_heads is None else one.n_heads for one, heads in told]
    yield "heads", float(np.abs(found - annotated).mean())
    yield "outlines", float(np.abs([len(one.instances.found) for one, _ in told] - annotated).mean())


def _network(scored: Sequence[Scored]) -> Iterator[tuple[str, Any]]:
    """Yield the scores of the whole cell at the working resolution, where there is one."""
    groups = [one.example.group for one in scored if one.network is not None]
    counts = [one.network for one in scored if one.network is not None]
    if counts:
        yield "network_resolution", _both_ways(counts, [one.scores() for one in counts], groups)


def _confidence(scored: Sequence[Scored]) -> Iterator[tuple[str, Any]]:
    """Yield how well the source's confidence predicts its Dice, where the source has a confidence."""
    said = [(one.confidence, one.native.dice) for one in scored if one.confidence is not None]
    if said:
        yield "confidence", asdict(Reliability.of(*zip(*said, strict=True)))


def rank(scored: Sequence[Scored]) -> list[Scored]:
    """Return the pictures from the best Dice to the worst; pictures of equal Dice by name."""
    return sorted(scored, key=lambda one: (-one.native.dice, one.example.image))
