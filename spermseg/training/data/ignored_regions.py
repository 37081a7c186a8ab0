"""Regions that the loss ignores: cells that are not annotated, or that the edge of a tile cuts."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.cells.heads import at_scale, headless
from spermseg.training.data.coverage import UNKNOWN, known

NEAR = 12
"""Native px: a prediction this near to an annotated cell is part of that cell's edge."""


def border(shape: tuple[int, ...], widths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask of the border of a picture of this shape (Y, X).

    Args:
        shape: of the picture.
        widths: of the border at top and bottom, and of the border at the sides, px.
    """
    near = [
        np.minimum(np.arange(length), np.arange(length)[::-1]) < width
        for length, width in zip(shape, widths, strict=True)
    ]
    return np.asarray(near[0][:, None] | near[1])


def forget_cut_off(coverage: NDArray[np.uint8], classes: Sequence[str], scale: float) -> NDArray[np.uint8]:
    """Return the coverage of a tile, with UNKNOWN in the cells whose heads lie outside the tile.

    Tails whose heads lie outside a picture are not annotated. A cell whose head lies outside the tile looks the same,
    so this tile cannot teach whether such a tail counts.

    Args:
        coverage: (Y, X, classes), the share of each pixel that is in the class.
        classes: their names. Without the classes of cells and of heads, the coverage is returned as it is.
        scale: resolution of the tile over the native one.
    """
    if not {WHOLE_CELL, HEAD} <= set(classes):
        return coverage
    cell, head = (known(coverage[..., classes.index(part)]) for part in (WHOLE_CELL, HEAD))
    return np.where(headless(cell, head, 0.5, scale)[..., np.newaxis], np.uint8(UNKNOWN), coverage)


def loose_pieces(
    maps: Mapping[str, NDArray[np.float32]], annotated: NDArray[np.bool_], threshold: float, scale: float
) -> NDArray[np.bool_]:
    """Return a mask (Y, X) of the predicted components that are not annotated and have no head.

    Args:
        maps: class -> probability (Y, X), 0-1, of the whole cell and of heads.
        annotated: (Y, X), the annotated cells.
        threshold: least probability of a predicted pixel, 0-1.
        scale: resolution of the maps over the native one.
    """
    side = 2 * at_scale(NEAR, scale) + 1
    square = np.ones((side, side), np.uint8)
    elsewhere = cv2.dilate(annotated.astype(np.uint8), square) == 0
    cell, head = (np.where(elsewhere, maps[part], np.float32(0)) for part in (WHOLE_CELL, HEAD))
    return np.asarray(headless(cell, head, threshold, scale) & elsewhere)
