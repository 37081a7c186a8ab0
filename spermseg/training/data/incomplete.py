"""Cells that are left out, by who annotates or by the edge of a tile: where nothing is to be learned."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.cells.heads import at_scale, headless
from spermseg.training.data.coverage import UNKNOWN, known

NEAR = 12
"""Native px: what is found this near to an annotated cell is its edge, and no other cell's."""


def border(shape: tuple[int, ...], widths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where (Y, X) a picture is nearer to its upper and lower edge, or to its sides, than two widths, px."""
    near = [
        np.minimum(np.arange(length), np.arange(length)[::-1]) < width
        for length, width in zip(shape, widths, strict=True)
    ]
    return np.asarray(near[0][:, None] | near[1])


def forget_cut_off(coverage: NDArray[np.uint8], classes: Sequence[str], scale: float) -> NDArray[np.uint8]:
    """Return the coverage of a tile in which cells that show no head are UNKNOWN: the tile has cut it off.

    Tails whose heads are outside of a picture are not annotated. What a tile shows of a cell without its head looks
    just the same, so what it is cannot be learned from this tile.

    Args:
        coverage: (Y, X, classes), how much of each pixel is in the class.
        classes: their names. Without heads among them nothing is known to be cut off, and nothing changes.
        scale: resolution of the tile over the native one.
    """
    if not {WHOLE_CELL, HEAD} <= set(classes):
        return coverage
    cell, head = (known(coverage[..., classes.index(part)]) for part in (WHOLE_CELL, HEAD))
    return np.where(headless(cell, head, 0.5, scale)[..., np.newaxis], np.uint8(UNKNOWN), coverage)


def loose_pieces(
    maps: Mapping[str, NDArray[np.float32]], annotated: NDArray[np.bool_], threshold: float, scale: float
) -> NDArray[np.bool_]:
    """Return where (Y, X) a model finds something that nobody has annotated, and that is connected to no head.

    Args:
        maps: class -> probability (Y, X), 0-1, of the whole cell and of heads.
        annotated: (Y, X), the cells that are annotated.
        threshold: from which a pixel is found.
        scale: resolution of the maps over the native one.
    """
    side = 2 * at_scale(NEAR, scale) + 1
    square = np.ones((side, side), np.uint8)
    elsewhere = cv2.dilate(annotated.astype(np.uint8), square) == 0
    cell, head = (np.where(elsewhere, maps[part], np.float32(0)) for part in (WHOLE_CELL, HEAD))
    return np.asarray(headless(cell, head, threshold, scale) & elsewhere)
