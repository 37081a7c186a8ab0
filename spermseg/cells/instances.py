"""Probability map -> mask -> instances."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spermseg.errors import ConfigError

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """What counts as a cell."""

    threshold: float = 0.5
    """Least probability of a pixel of the mask, 0-1."""
    min_area: int = 64
    """Smaller connected components are dropped from the cells and from the mask, px at native resolution."""
    require_head: bool = False
    """Whether a component that is connected to no head is dropped: a loose tail, or the tail of a cell outside the
    picture."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"got threshold {self.threshold:g}; more than 0 and less than 1 is needed")
        if self.min_area < 0:
            raise ConfigError(f"got min_area {self.min_area}; 0 px or more is needed")


def label_cells(mask: NDArray[np.bool_], min_area: int = 0) -> NDArray[np.int32]:
    """Label the 8-connected components of a mask from 1 to n, in reading order of their first pixels.

    Args:
        mask: (Y, X) bool.
        min_area: least area of a component, px; smaller ones become background.

    Returns:
        (Y, X) int32, 0 is background.

    >>> label_cells(np.array([[1, 0, 1], [1, 0, 0]], bool), min_area=2).tolist()
    [[1, 0, 0], [1, 0, 0]]
    """
    # OpenCV is no faster where areas are needed, too, and it does not number components in reading order
    labels, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_area
    keep[0] = False
    if keep[1:].all():
        return np.asarray(labels, np.int32)
    new = np.zeros(count + 1, np.int32)
    new[keep] = np.arange(1, keep.sum() + 1)
    return np.asarray(new[labels], np.int32)
