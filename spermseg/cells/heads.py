"""Components without a head are not counted as cells.

Loose tails, and tails that enter over the edge of a picture, look like the tails of cells. A network that sees 100 px
around a pixel cannot distinguish them. Annotators leave them out, and so do people who count cells.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

GAP = 16
"""Components this near to each other, native px, are connected: a faint tail has gaps."""
LEAST_HEAD = 256
"""Least area of a head, native px; a smaller component is a speck."""
RIM = 8
"""Width of the rim around a dropped component that is dropped, too, native px: the rim is the component's edge."""


def headless(cell: NDArray[np.float32], head: NDArray[np.float32], threshold: float, scale: float) -> NDArray[np.bool_]:
    """Return a mask (Y, X) of the components that have no head, and of their rims.

    Args:
        cell: (Y, X), 0-1: the probability of the whole cell.
        head: (Y, X), 0-1: the probability of a head.
        threshold: least probability of a pixel of a cell, and of a head.
        scale: resolution of the maps over the native one (`View.scale`).
    """
    found, groups = cell >= threshold, _groups(cell, threshold, scale)
    has_head = np.zeros(groups.max() + 1, bool)
    has_head[groups[_heads(head, threshold, scale) > 0]] = True
    dropped = found & ~has_head[groups]
    side = 2 * at_scale(RIM, scale) + 1
    rim = cv2.dilate(dropped.astype(np.uint8), np.ones((side, side), np.uint8)) == 1
    return np.asarray(dropped | (rim & ~found))


def count_heads(cell: NDArray[np.float32], head: NDArray[np.float32], threshold: float, scale: float) -> int:
    """Return the number of heads that are connected to cells; the arguments are those of `headless`."""
    heads = _heads(head, threshold, scale)[_groups(cell, threshold, scale) > 0]
    return int(np.count_nonzero(np.unique(heads)))


def _groups(cell: NDArray[np.float32], threshold: float, scale: float) -> NDArray[np.int32]:
    """Return the connected components of a map (Y, X), dilated so that small gaps close, as labels; 0 is background."""
    gap = at_scale(GAP, scale)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap + 1, gap + 1))
    _, groups = cv2.connectedComponents(cv2.dilate((cell >= threshold).astype(np.uint8), disc), connectivity=8)
    return np.asarray(groups, np.int32)


def _heads(head: NDArray[np.float32], threshold: float, scale: float) -> NDArray[np.int32]:
    """Return the heads in a map (Y, X) as labels; 0 is background or a speck."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats((head >= threshold).astype(np.uint8), connectivity=8)
    is_speck = figures[:, cv2.CC_STAT_AREA] < LEAST_HEAD * scale**2
    return np.where(is_speck[labels], np.int32(0), labels)


def at_scale(native: int, scale: float) -> int:
    """Return a native length, px, in px at a scale; at least 1."""
    return max(1, round(native * scale))
