"""Baselines: segmentation methods without learning, for comparison with a network.

Each takes a picture (Y, X, 3) uint8 RGB and returns the mask (Y, X) bool of stained pixels. The papers do not state all
constants. The constants below were chosen on training pictures.
"""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.cells.instances import label_cells

BaselineName = Literal["otsu", "medina", "mostajer"]
BACKGROUND_SHRINK = 8
"""The background is estimated at 1 / BACKGROUND_SHRINK of the resolution."""
BACKGROUND_WINDOW = 31
"""Side of the median filter at that resolution, px: larger than any cell."""
ELEMENT = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
"""Structuring element of the morphological operations."""
MIN_AREA = 200
"""Smaller components are dropped as debris, px."""
GAMMA = 2.0
"""Exponent of the non-linear transform. It spreads bright grey levels, where thin tails differ from the background."""
SPREADS = 7.0
"""A cell is darker than the background's peak by this many standard deviations of the peak's bright side."""


def otsu(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels whose green channel is below Otsu's threshold (1979) of the whole picture."""
    return _darker(pixels[..., 1], cv2.THRESH_OTSU)


def medina(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels that reflect less than their surroundings (after Medina-Rodriguez et al., CAIP 2015).

    A picture is light times reflectance (Lambert). The light is smooth, so a median over a window larger than any cell
    estimates it. The picture divided by the light is the reflectance. It is thresholded by the triangle method (Zack et
    al., 1977), since Otsu's method finds only heads. The mask is closed and opened, and small components are dropped.
    """
    small = cv2.resize(pixels, None, fx=1 / BACKGROUND_SHRINK, fy=1 / BACKGROUND_SHRINK, interpolation=cv2.INTER_AREA)
    light = cv2.resize(cv2.medianBlur(small, BACKGROUND_WINDOW), pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    reflectance = np.minimum(pixels / np.maximum(light, 1).astype(np.float32), 1).mean(axis=2)
    return _tidied(_darker(np.rint(255 * reflectance).astype(np.uint8), cv2.THRESH_TRIANGLE))


def mostajer(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels darker than the histogram's background peak (after Mostajer Kheirkhah et al., CMPB 2018).

    A power of the grey levels spreads bright levels. The highest peak of the histogram is the background. No cell is
    brighter than the peak, so the bright side of the peak gives its standard deviation. A pixel that is darker than the
    peak by `SPREADS` standard deviations belongs to a cell. The mask is closed and opened, and small components are
    dropped.
    """
    grey = cv2.GaussianBlur(pixels[..., 1], (0, 0), 1.5).astype(np.float32) / 255
    levels = np.rint(255 * grey**GAMMA).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256)
    peak = int(np.argmax(np.convolve(counts, np.ones(5), mode="same")))
    brighter = np.arange(peak, 256)
    spread = np.sqrt(np.average((brighter - peak) ** 2, weights=counts[peak:] + 1e-9))
    return _tidied(levels < peak - SPREADS * spread)


BASELINES: dict[BaselineName, Callable[[NDArray[np.uint8]], NDArray[np.bool_]]] = {
    "otsu": otsu,
    "medina": medina,
    "mostajer": mostajer,
}


def _darker(grey: NDArray[np.uint8], method: int) -> NDArray[np.bool_]:
    _, dark = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY_INV | method)
    return dark > 0


def _tidied(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps, remove thin threads, and drop small components."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, ELEMENT)
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, ELEMENT)
    return label_cells(opened > 0, MIN_AREA) > 0
