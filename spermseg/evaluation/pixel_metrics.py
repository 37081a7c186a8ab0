"""IoU, Dice, precision, recall and F1, from confusion counts that are summed before any ratio is taken.

Pooled scores sum the counts over all pixels of all pictures. Per-image scores take the ratios of each picture first. On
the same pixels, F1 and Dice are the same number. They differ in the paper's tables because the paper averaged them
differently.

The empty-mask rule: where both ground truth and prediction are empty, every score is 1. Where one of them is empty,
every score is 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spermseg.errors import ShapeError

SCORES = ("iou", "dice", "precision", "recall", "f1")


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of pixels."""

    tp: int = 0
    """In both masks."""
    fp: int = 0
    """In the prediction only."""
    fn: int = 0
    """In the ground truth only."""
    tn: int = 0
    """In neither."""

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn, tn=self.tn + other.tn)

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard)."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of the areas (Dice-Sorensen)."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of the predicted pixels that are true."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the true pixels that are predicted."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; on the same pixels it is the Dice."""
        return self.dice

    def scores(self) -> dict[str, float]:
        """Return all scores by name."""
        return {name: getattr(self, name) for name in SCORES}

    def _ratio(self, part: int, whole: int) -> float:
        if self.tp + self.fp + self.fn == 0:
            return 1.0
        return part / whole if whole else 0.0


def confusion(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
    """Count the pixels of two masks of the same shape.

    >>> confusion(np.array([True, True, False]), np.array([True, False, False])).dice
    0.6666666666666666
    """
    check_same_shape(predicted, truth)
    tp = int(np.count_nonzero(predicted & truth))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Confusion(tp=tp, fp=fp, fn=fn, tn=truth.size - tp - fp - fn)


def check_same_shape(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    """Raise ShapeError where two masks differ in shape."""
    if predicted.shape != truth.shape:
        raise ShapeError(f"got a prediction {predicted.shape} for a truth {truth.shape}; the same shape is needed")


def pooled(counts: Iterable[Confusion]) -> Confusion:
    """Return the sum of the counts."""
    return sum(counts, Confusion())


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One score over the pictures of a split."""

    mean: float
    median: float
    ci95: tuple[float, float] | None
    """95 % interval of the mean, by bootstrap over groups, since pictures of one group are not independent. None where
    there is only one group, since one group says nothing about others."""


def summarise(values: Sequence[float], groups: Sequence[str], *, rounds: int = 2000, seed: int = 0) -> Summary:
    """Summarise a score over pictures. The bootstrap of the interval samples whole groups with replacement.

    Args:
        values: one score a picture.
        groups: the group of each picture.
        rounds: number of bootstrap samples.
        seed: seed of the bootstrap.
    """
    mean, median = float(np.mean(values)), float(np.median(values))
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return Summary(mean=mean, median=median, ci95=None)
    sums = np.bincount(index, weights=np.asarray(values, float))
    sizes = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(names), (rounds, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Summary(mean=mean, median=median, ci95=(float(low), float(high)))
