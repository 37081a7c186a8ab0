"""Instances -> measured cells, and masks as COCO run-length strings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy import ndimage

from spermseg.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One predicted cell, in px of the native picture. The fields are those of the results contract."""

    x: int
    """Left edge of the bounding box, px."""
    y: int
    """Top edge of the bounding box, px."""
    width: int
    """Width of the bounding box, px."""
    height: int
    """Height of the bounding box, px."""
    area: int
    """Pixels of the cell."""
    area_um2: float | None
    """Area of the cell in the sample, um2; None where the pixel size is unknown."""
    touches_border: bool
    """Whether the bounding box touches the edge of the picture, so that a part of the cell may lie outside."""
    confidence: float
    """Mean probability of the cell's pixels, 0-1."""
    mask: str
    """The cell within its bounding box, as a COCO run-length string."""


def measure_cells(
    labels: NDArray[np.int32], probability: NDArray[np.float32], um_per_px: float | None = None
) -> list[Cell]:
    """Measure each instance.

    Args:
        labels: (Y, X) int32 instances, 0 is background.
        probability: (Y, X) float32, 0-1.
        um_per_px: pixel size; without it, areas are in px only.

    Returns:
        One cell a label, in the order of the labels. Numbers that label no pixel are skipped.

    Raises:
        ShapeError: the labels and the probability differ in shape.
    """
    if labels.shape != probability.shape:
        raise ShapeError(f"got labels {labels.shape} for a probability {probability.shape}; the same shape is needed")
    boxes = ndimage.find_objects(labels)
    return [
        _measure(box, labels[box] == number, probability[box], labels.shape, um_per_px)
        for number, box in enumerate(boxes, start=1)
        if box is not None
    ]


def _measure(
    box: tuple[slice, ...],
    inside: NDArray[np.bool_],
    probability: NDArray[np.float32],
    shape: tuple[int, ...],
    um_per_px: float | None,
) -> Cell:
    rows, columns = box
    area = int(inside.sum())
    return Cell(
        x=columns.start,
        y=rows.start,
        width=columns.stop - columns.start,
        height=rows.stop - rows.start,
        area=area,
        area_um2=None if um_per_px is None else area * um_per_px**2,
        touches_border=rows.start == 0 or columns.start == 0 or rows.stop == shape[0] or columns.stop == shape[1],
        confidence=float(probability[inside].mean()),
        mask=encode_mask(inside),
    )


def encode_mask(mask: NDArray[np.bool_]) -> str:
    """Return a (Y, X) bool mask as a COCO run-length string. The string does not hold the shape.

    >>> decode_mask(encode_mask(np.eye(3, dtype=bool)), (3, 3)).tolist() == np.eye(3, dtype=bool).tolist()
    True
    """
    return str(coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii"))


def decode_mask(counts: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the (Y, X) bool mask of a COCO run-length string; `shape` is (height, width)."""
    return np.asarray(coco.decode({"size": list(shape), "counts": counts}), bool)
