"""A cell has a head: what is connected to no head is not counted as a cell.

Tails that come in over the edge of a picture, and loose ones, look like the tails of cells. A network that looks 100 px
around a pixel cannot tell them apart; who annotates leaves them out, and who counts does not count them.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

GAP = 16
"""Pieces this near to each other, native px, are connected: a faint tail has gaps."""
LEAST_HEAD = 256
"""Pixels of a head, native; fewer are a speck."""
RIM = 8
"""Native px around what is dropped that are dropped, too: they are its edge."""


def headless(cell: NDArray[np.float32], head: NDArray[np.float32], threshold: float, scale: float) -> NDArray[np.bool_]:
    """Return where (Y, X) a map finds a cell that has no head.

    Args:
        cell: (Y, X), 0-1: the probability of the whole cell.
        head: (Y, X), 0-1: that of a head.
        threshold: probability from which a pixel is a cell's or a head's.
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
    """Return how many heads are connected to cells that a map finds; the arguments are those of `headless`."""
    heads = _heads(head, threshold, scale)[_groups(cell, threshold, scale) > 0]
    return int(np.count_nonzero(np.unique(heads)))


def _groups(cell: NDArray[np.float32], threshold: float, scale: float) -> NDArray[np.int32]:
    """Return the connected pieces of a map (Y, X), and a little around them, as instances; 0 is background."""
    gap = at_scale(GAP, scale)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap + 1, gap + 1))
    _, groups = cv2.connectedComponents(cv2.dilate((cell >= threshold).astype(np.uint8), disc), connectivity=8)
    return np.asarray(groups, np.int32)


def _heads(head: NDArray[np.float32], threshold: float, scale: float) -> NDArray[np.int32]:
    """Return the heads that a map (Y, X) finds, as instances: 0 is background, or a speck."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats((head >= threshold).astype(np.uint8), connectivity=8)
    is_speck = figures[:, cv2.CC_STAT_AREA] < LEAST_HEAD * scale**2
    return np.where(is_speck[labels], np.int32(0), labels)


def at_scale(native: int, scale: float) -> int:
    """Return a native length, px, in px at a scale; at least 1."""
    return max(1, round(native * scale))
