"""Quality figures of a picture: focus, brightness, saturation and even illumination."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BACKGROUND_SIZE = 32
"""px. The picture is shrunk to a square of this side to estimate the illumination of its background."""
BACKGROUND_MEDIAN = 9
"""Side of the median filter in the shrunk picture, px. At least half of each filter window must be background."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality figures of one picture, with the names of their columns in the results."""

    focus: float
    """Variance of the Laplacian of the green channel (Pech-Pacheco et al., ICPR 2000), grey2; low means blurred."""
    brightness: float
    """Mean grey, 0-255."""
    saturated_fraction: float
    """Share of pixels at 0 or at 255 in every channel, 0-1."""
    unevenness: float
    """Range of the background's brightness over its mean; 0 means even illumination."""


def measure_quality(pixels: NDArray[np.uint8]) -> Quality:
    """Measure a picture (Y, X, 3) uint8 RGB.

    >>> flat = np.full((64, 64, 3), 200, np.uint8)
    >>> measure_quality(flat)
    Quality(focus=0.0, brightness=200.0, saturated_fraction=0.0, unevenness=0.0)
    >>> flat[:16] = 255
    >>> measure_quality(flat).saturated_fraction
    0.25
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return Quality(
        focus=_laplacian_variance(cv2.extractChannel(pixels, 1)),
        brightness=min(float(cv2.mean(grey)[0]), 255.0),
        saturated_fraction=(_count_pixels(pixels, 0) + _count_pixels(pixels, 255)) / grey.size,
        unevenness=_unevenness(grey),
    )


def _laplacian_variance(channel: cv2.typing.MatLike) -> float:
    _, deviation = cv2.meanStdDev(cv2.Laplacian(channel, cv2.CV_16S))  # at most 4 x 255 fits
    return float(deviation[0, 0]) ** 2


def _count_pixels(pixels: NDArray[np.uint8], value: int) -> int:
    """Count the pixels that have one value in every channel."""
    return cv2.countNonZero(cv2.inRange(pixels, (value,) * 3, (value,) * 3))


def _unevenness(grey: cv2.typing.MatLike) -> float:
    """Return the range over the mean of the background. In the shrunk picture, a median filter removes the cells."""
    small = cv2.resize(grey, (BACKGROUND_SIZE,) * 2, interpolation=cv2.INTER_AREA)
    background = cv2.medianBlur(small, BACKGROUND_MEDIAN)
    mean = float(background.mean())
    return float(np.ptp(background)) / mean if mean else 0.0
