"""Scores for thin structures. In pixel scores, one pixel more along the edge of a tail weighs as much as a torn tail.

Masks are (Y, X) bool at the same resolution. The empty-mask rule is that of `pixel_metrics`: where both masks are
empty, a score is 1; where one of them is empty, a score is 0.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import skeletonize

from spermseg.errors import ConfigError
from spermseg.evaluation.pixel_metrics import check_same_shape

TOLERANCE = 2.0
"""Default tolerance of the surface Dice, px at native resolution: a fifth of a tail's width."""

FARTHEST = 100
"""Greatest tolerance, px: longer than a head."""


def centreline_dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the clDice of two masks (Shit et al., CVPR 2021).

    clDice is the harmonic mean of two shares: the share of the prediction's skeleton that lies in the ground truth, and
    the share of the ground truth's skeleton that lies in the prediction. Skeletons are scikit-image's (after Zhang and
    Suen, 1984), as in the authors' code. scikit-image deletes a few corners more than the rules of Zhang and Suen do.
    This changes a score by up to 0.04.

    >>> tail = np.zeros((9, 40), bool)
    >>> tail[3:6, 2:38] = True
    >>> torn = tail.copy()
    >>> torn[:, 15:25] = False
    >>> round(centreline_dice(torn, tail), 2)
    0.83
    """
    check_same_shape(predicted, truth)
    if not (predicted.any() and truth.any()):
        return float(predicted.any() == truth.any())
    precision = _share_within(_skeleton(predicted), truth)
    sensitivity = _share_within(_skeleton(truth), predicted)
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def surface_dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float = TOLERANCE) -> float:
    """Return the normalised surface Dice (Nikolov et al., 2018): the share of both outlines that is near the other one.

    An outline is the pixels of a mask that have one of their 4 neighbours outside the mask. Outside the picture counts
    as outside the mask. Near means at most `tolerance` between the centres of pixels.

    Args:
        predicted: (Y, X).
        truth: (Y, X).
        tolerance: px; 0 to 100.

    Raises:
        ConfigError: the tolerance is out of this range.
        ShapeError: the masks differ in shape.
    """
    check_same_shape(predicted, truth)
    if not 0 <= tolerance <= FARTHEST:
        raise ConfigError(f"got a tolerance of {tolerance} px; 0 to {FARTHEST} is needed")
    outlines = [_outline(mask) for mask in (predicted, truth)]
    lengths = [int(np.count_nonzero(outline)) for outline in outlines]
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    near = sum(
        int(np.count_nonzero(one & _within(tolerance, of=other))) for one, other in (outlines, reversed(outlines))
    )
    return near / sum(lengths)


def _share_within(skeleton: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(skeleton & mask) / np.count_nonzero(skeleton))


def _skeleton(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the skeleton of a mask. Each connected component is thinned in its bounding box, which is faster."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    skeleton = np.zeros_like(mask)
    for label in range(1, count):
        x, y, width, height, _ = boxes[label]
        box = np.s_[y : y + height, x : x + width]
        skeleton[box] |= skeletonize(labels[box] == label)
    return skeleton


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    side_neighbours = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), side_neighbours, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (inner == 0), bool)


def _within(distance: float, *, of: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of the pixels whose centres lie within a distance of the centre of a pixel of `of`."""
    reach = int(distance)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = (y**2 + x**2 <= distance**2).astype(np.uint8)
    return np.asarray(cv2.dilate(of.astype(np.uint8), disc), bool)
