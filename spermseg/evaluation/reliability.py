"""Confidence: fitted where the truth is known, and compared with it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, logit
from scipy.stats import linregress, mannwhitneyu, pearsonr

from spermseg.cells.confidence import UNFITTED, Confidence, moved_thresholds, stability

STEP, LIMIT = 0.05, 20.0
"""Pixels are counted by their logits in such steps; those beyond the limit, up or down, with those at it."""
LOGITS = np.arange(-LIMIT + STEP / 2, LIMIT, STEP)
"""The middle of each step."""
TEMPERATURES = (0.2, 10.0)
"""Between which the temperature is looked for."""
LEAST_PICTURES = 10
"""To fit a slope to; through fewer, a line says more of luck than of pictures."""
BAD_SHARE = 0.1
"""The share of the pictures, those with the lowest Dice, that are to be found."""

JudgedMap = tuple[NDArray[np.float32], NDArray[np.bool_], float]
"""A probability map and the true mask, both (Y, X) at the working resolution, and the Dice of what was made of it."""


def fit_confidence(maps: Iterable[JudgedMap], threshold: float, before: Confidence = UNFITTED) -> Confidence:
    """Return the temperature of the least cross-entropy, and the line of the least squares from stability to Dice.

    Where stability says nothing of the Dice, or the reverse, the line is level. Where there are fewer than
    `LEAST_PICTURES`, it has the slope of before, and only its height is fitted.

    Args:
        maps: read once, and not kept.
        threshold: from which a pixel is in the mask, unless what it belongs to is dropped.
        before: how the model judged so far; unfitted, it takes stability for Dice.
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
    """Return the temperature at which probabilities have the least cross-entropy with the truth.

    Args:
        every: (len(LOGITS),) pixels in each step.
        true: those of them that are a cell's.
    """

    def cross_entropy(logarithm: float) -> float:
        softened = LOGITS / np.exp(logarithm)
        return -float(true @ log_expit(softened) + (every - true) @ log_expit(-softened))

    found = minimize_scalar(cross_entropy, bounds=np.log(TEMPERATURES).tolist(), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, kw_only=True, eq=False)
class _CountedMap:
    """What is kept of a map: its pixels counted by their logits, and how good its mask is."""

    every: NDArray[np.int64]
    true: NDArray[np.int64]
    dice: float

    @classmethod
    def of(cls, probability: NDArray[np.float32], truth: NDArray[np.bool_], dice: float) -> "_CountedMap":
        return cls(every=_count_logits(probability), true=_count_logits(probability[truth]), dice=dice)

    def above(self, level: float) -> int:
        """Return how many pixels have logits of a level or more, to half a step."""
        return int(self.every[level <= LOGITS].sum())


def _count_logits(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    steps = (logit(probability.ravel()).clip(-LIMIT, LIMIT) + LIMIT) / STEP
    return np.bincount(steps.astype(np.intp).clip(max=len(LOGITS) - 1), minlength=len(LOGITS))


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well confidence foretells the Dice of pictures."""

    pearson: float | None
    """Correlation of the two; None where either is the same for all pictures."""
    auroc: float | None
    """Of finding the tenth of the pictures with the lowest Dice: how often one of them has less confidence than one of
    the others; None where all have the same Dice."""
    mean_error: float
    """Mean distance of confidence from Dice."""
    risk: tuple[tuple[float, float], ...]
    """(coverage, risk): the share of the pictures that are kept, those of the most confidence, and 1 minus their mean
    Dice (El-Yaniv and Wiener, JMLR 2010)."""

    @classmethod
    def of(cls, confidence: Sequence[float], dice: Sequence[float]) -> "Reliability":
        """Hold the confidence of pictures against their Dice, both 0-1."""
        said, came = np.asarray(confidence), np.asarray(dice)
        limit = np.quantile(came, BAD_SHARE)
        bad = came < limit if limit > came.min() else (came == limit) & (came < came.max())  # many may share the lowest
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
