"""How good a mask is, told without the truth: the Dice that a model expects of a mask of its own.

A mask is stable where it stays as it is when the threshold is moved a little up and down (the stability score of
Kirillov et al., Segment Anything, ICCV 2023). A line turns stability into Dice; it is fitted where the truth is known
(`training.confidence`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from spermseg.errors import ConfigError

SHIFT = 2.0
"""By which the threshold is moved each way, in logits, at a temperature of 1."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How a model judges its masks. As it is, unfitted, it takes stability for Dice."""

    temperature: float = 1.0
    """What logits are divided by, so that probabilities are as often right as they say (Guo et al., ICML 2017)."""
    slope: float = 1.0
    """Dice gained from a mask that changes wholly to one that does not change."""
    offset: float = 0.0
    """Dice of a mask that changes wholly."""

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.slope, self.offset)
        if not (np.isfinite(numbers).all() and self.temperature > 0 and self.slope >= 0):
            raise ConfigError(
                f"got temperature {self.temperature}, slope {self.slope} and offset {self.offset}; finite numbers are "
                "needed, a temperature above 0, and a slope of 0 or more"
            )

    def judge(self, probability: NDArray[np.float32], threshold: float) -> float:
        """Return the Dice, 0-1, that is expected of the mask that a threshold cuts from a map (Y, X), 0-1."""
        strict, lenient = moved_thresholds(threshold, self.temperature)
        stable = stability(*(int(np.count_nonzero(probability >= one)) for one in (strict, lenient)))
        return float(np.clip(self.offset + self.slope * stable, 0, 1))


UNFITTED = Confidence()


def moved_thresholds(threshold: float, temperature: float) -> tuple[float, float]:
    """Return a threshold, 0-1, moved up and moved down by `SHIFT` x temperature logits."""
    shift = SHIFT * temperature
    return float(expit(logit(threshold) + shift)), float(expit(logit(threshold) - shift))


def stability(inner: int, outer: int) -> float:
    """Return the Dice of two masks, one within the other, of so many pixels; of two empty ones it is 1.

    >>> stability(30, 50), stability(0, 0)
    (0.75, 1.0)
    """
    return 2 * inner / (inner + outer) if outer else 1.0
