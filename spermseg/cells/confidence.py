"""Confidence: the Dice that a model predicts for its own mask, without ground truth.

A mask is stable where it hardly changes when the threshold moves a little up and down (the stability score of Kirillov
et al., Segment Anything, ICCV 2023). A line maps stability to Dice. `evaluation.reliability` fits the line on annotated
pictures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from spermseg.errors import ConfigError

SHIFT = 2.0
"""How far the threshold moves up and down, in logits, at a temperature of 1."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How a model predicts the Dice of its masks. The defaults, which are not fitted, take stability as the Dice."""

    temperature: float = 1.0
    """Divisor of the logits that calibrates the probabilities (Guo et al., ICML 2017)."""
    slope: float = 1.0
    """Increase of the Dice from a stability of 0 to a stability of 1."""
    offset: float = 0.0
    """Dice at a stability of 0."""

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.slope, self.offset)
        if not (np.isfinite(numbers).all() and self.temperature > 0 and self.slope >= 0):
            raise ConfigError(
                f"got temperature {self.temperature}, slope {self.slope} and offset {self.offset}; finite numbers are "
                "needed, a temperature above 0, and a slope of 0 or more"
            )

    def judge(self, probability: NDArray[np.float32], threshold: float) -> float:
        """Return the expected Dice, 0-1, of the mask that a threshold gives of a probability map (Y, X)."""
        strict, lenient = moved_thresholds(threshold, self.temperature)
        stable = stability(*(int(np.count_nonzero(probability >= one)) for one in (strict, lenient)))
        return float(np.clip(self.offset + self.slope * stable, 0, 1))


UNFITTED = Confidence()


def moved_thresholds(threshold: float, temperature: float) -> tuple[float, float]:
    """Return (strict, lenient): a threshold, 0-1, moved up and moved down by `SHIFT` x temperature logits."""
    shift = SHIFT * temperature
    return float(expit(logit(threshold) + shift)), float(expit(logit(threshold) - shift))


def stability(inner: int, outer: int) -> float:
    """Return the Dice of two masks from their pixel counts, where one mask lies within the other; 1 for empty masks.

    >>> stability(30, 50), stability(0, 0)
    (0.75, 1.0)
    """
    return 2 * inner / (inner + outer) if outer else 1.0
