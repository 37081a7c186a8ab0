"""Confidence: fitted on annotated pictures, and compared with their Dice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, logit
from scipy.stats import linregress, mannwhitneyu, pearsonr

from spermseg.cells.confidence import UNFITTED, Confidence, moved_thresholds, stability

STEP, LIMIT = 0.05, 20.0
"""Width of a bin of logits, and the greatest absolute logit; larger logits are counted in the outermost bins."""
LOGITS = np.arange(-LIMIT + STEP / 2, LIMIT, STEP)
"""The middle of each bin."""
TEMPERATURES = (0.2, 10.0)
"""Range in which the temperature is searched."""
LEAST_PICTURES = 10
"""Least number of pictures to fit a slope; with fewer, the slope would be mostly noise."""
BAD_SHARE = 0.1
"""Share of the pictures that count as bad, those with the lowest Dice."""

JudgedMap = tuple[NDArray[np.float32], NDArray[np.bool_], float]
"""A probability map and the ground truth, both (Y, X) at the working resolution, and the Dice of the final mask."""


def fit_confidence(maps: Iterable[JudgedMap], threshold: float, before: Confidence = UNFITTED) -> Confidence:
    """Return the temperature of the least cross-entropy, and the least-squares line from stability to Dice.

    Where the correlation of stability and Dice is zero or negative, the slope is 0. With fewer than `LEAST_PICTURES`
    pictures, the slope is taken from `before`, and only the offset is fitted.

    Args:
        maps: read once, and not kept.
        threshold: least probability of a pixel of the mask, before components are dropped, 0-1.
        before: the confidence before this fit.
    """
    judged = [_CountedMap.of(*one) for one in maps]
    temperature = fit_temperature(*np.sum([(one.every, one.true) for one in judged], axis=0))
    strict, lenient = (logit(one) for one in moved_thresholds(threshold, temperature))
    stable = [stability(one.above(strict), one.above(lenient)) for one in judged]
    dice = [one.dice for one in judged]
    slope = before.slope if len(judged) < LEAST_PICTURES else _slope(stable, dice)
    offset = float(np.mean(dice) - slope * np.mean(stable))
    return Confidence(temperature=temperature, slope=slope, offset=offset)


def _slope(stable: Sequence[float], dice: Sequence[float]) -> float:
    return max(0.0, float(linregress(stable, dice).slope)) if np.ptp(stable) > 0 else 0.0


def fit_temperature(every: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Return the temperature at which probabilities have the least cross-entropy with the ground truth.

    Args:
        every: (len(LOGITS),) number of pixels in each bin.
        true: (len(LOGITS),) number of those pixels that belong to a cell.
    """

    def cross_entropy(logarithm: float) -> float:
        softened = LOGITS / np.exp(logarithm)
        return -float(true @ log_expit(softened) + (every - true) @ log_expit(-softened))

    found = minimize_scalar(cross_entropy, bounds=np.log(TEMPERATURES).tolist(), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, kw_only=True, eq=False)
class _CountedMap:
    """The histograms of a map's logits, and the Dice of its mask."""

    every: NDArray[np.int64]
    true: NDArray[np.int64]
    dice: float

    @classmethod
    def of(cls, probability: NDArray[np.float32], truth: NDArray[np.bool_], dice: float) -> "_CountedMap":
        return cls(every=_count_logits(probability), true=_count_logits(probability[truth]), dice=dice)

    def above(self, level: float) -> int:
        """Return how many pixels have at least this logit, exact to half a bin."""
        return int(self.every[level <= LOGITS].sum())


def _count_logits(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    steps = (logit(probability.ravel()).clip(-LIMIT, LIMIT) + LIMIT) / STEP
    return np.bincount(steps.astype(np.intp).clip(max=len(LOGITS) - 1), minlength=len(LOGITS))


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well confidence predicts the Dice of pictures."""

    pearson: float | None
    """Correlation of confidence and Dice; None where either is the same for all pictures."""
    auroc: float | None
    """Area under the ROC curve of finding, by confidence, the tenth of the pictures with the lowest Dice; None where
    all have the same Dice."""
    mean_error: float
    """Mean absolute difference of confidence and Dice."""
    risk: tuple[tuple[float, float], ...]
    """(coverage, risk) for each number of kept pictures: the kept share, the most confident first, and 1 minus the mean
    Dice of the kept pictures (El-Yaniv and Wiener, JMLR 2010)."""

    @classmethod
    def of(cls, confidence: Sequence[float], dice: Sequence[float]) -> "Reliability":
        """Compare the confidence of pictures with their Dice, both 0-1."""
        said, came = np.asarray(confidence), np.asarray(dice)
        limit = np.quantile(came, BAD_SHARE)
        bad = came < limit if limit > came.min() else (came == limit) & (came < came.max())  # many may tie as lowest
        varies = len(came) > 1 and np.ptp(said) > 0 and np.ptp(came) > 0
        kept = came[np.argsort(-said, kind="stable")]
        number = np.arange(1, len(kept) + 1)
        return cls(
            pearson=float(pearsonr(said, came).statistic) if varies else None,
            auroc=_auroc(said[~bad], said[bad]) if bad.any() else None,
            mean_error=float(np.abs(said - came).mean()),
            risk=tuple(zip((number / len(kept)).tolist(), (1 - kept.cumsum() / number).tolist(), strict=True)),
        )


def _auroc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    return float(mannwhitneyu(good, bad).statistic) / (len(good) * len(bad))
