"""Figures of a picture's quality: what a technician looks at before she counts."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BACKGROUND_SIZE = 32
"""px; the picture is shrunk to this square to see its background's light."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures of one picture. The fields are those of the results contract."""

    focus: float
    """Variance of the Laplacian of the green channel (Pech-Pacheco et al., ICPR 2000), grey2; low is blurred."""
    brightness: float
    """Mean grey, 0-255."""
    saturated_fraction: float
    """Share of pixels at 0 or at 255 in every channel, 0-1."""
    unevenness: float
    """Range of the background's light over its mean; 0 is evenly lit."""


def measure_quality(pixels: NDArray[np.uint8]) -> Quality:
    """Measure a picture (Y, X, 3) uint8 RGB.

    >>> measure_quality(np.full((64, 64, 3), 200, np.uint8)).unevenness
    0.0
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    background = cv2.medianBlur(cv2.resize(grey, (BACKGROUND_SIZE,) * 2, interpolation=cv2.INTER_AREA), 9)
    mean = float(background.mean())
    lowest, highest = (
        cv2.reduce(pixels.reshape(-1, 3), 1, cv2.REDUCE_MIN),
        cv2.reduce(pixels.reshape(-1, 3), 1, cv2.REDUCE_MAX),
    )
    return Quality(
        focus=float(cv2.Laplacian(pixels[..., 1], cv2.CV_32F).var()),
        brightness=float(grey.mean()),
        saturated_fraction=float(np.count_nonzero((lowest == 255) | (highest == 0)) / grey.size),
        unevenness=float(np.ptp(background)) / mean if mean else 0.0,
    )
