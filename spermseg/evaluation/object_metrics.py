"""Scores of objects: detection of heads, and average precision of instances."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from spermseg.errors import ShapeError

RunLengths = dict[str, Any]
MOST_INSTANCES = 1000
"""Most instances of a picture that the average precision takes, the most confident first."""


@dataclass(frozen=True, kw_only=True)
class Detected:
    """Confusion counts of objects."""

    tp: int = 0
    """Annotated and predicted."""
    fp: int = 0
    """Predicted only."""
    fn: int = 0
    """Annotated only."""

    def __add__(self, other: "Detected") -> "Detected":
        return Detected(tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predicted objects that are annotated; 1 where nothing is predicted and nothing annotated."""
        return self._ratio(self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the annotated objects that are predicted; 1 where nothing is predicted and nothing annotated."""
        return self._ratio(self.tp + self.fn)

    def _ratio(self, whole: int) -> float:
        if not self.tp + self.fp + self.fn:
            return 1.0
        return self.tp / whole if whole else 0.0


def match_centres(found: NDArray[np.int32], annotated: NDArray[np.int32]) -> Detected:
    """Count heads. A predicted head is right when its centre of mass lies in an annotated head.

    An annotated head counts once as a true positive. Further predictions in this head are false positives.

    Args:
        found: predicted instances, (Y, X) int32, 0 is background.
        annotated: annotated instances, (Y, X) int32, 0 is background.

    Raises:
        ShapeError: the two arrays differ in shape.
    """
    if found.shape != annotated.shape:
        raise ShapeError(f"got {found.shape} for annotations {annotated.shape}; the same shape is needed")
    places = np.nonzero(found)
    numbers, instance = np.unique(found[places], return_inverse=True)
    sizes = np.bincount(instance)
    y, x = (np.rint(np.bincount(instance, axis) / sizes).astype(int) for axis in places)
    hit = len(_numbers(annotated[y, x]))
    return Detected(tp=hit, fp=len(numbers) - hit, fn=len(_numbers(annotated)) - hit)


@dataclass(frozen=True, kw_only=True)
class InstancePair:
    """The predicted and the annotated instances of one picture, as COCO run lengths."""

    found: Sequence[RunLengths]
    """Predicted instances."""
    confidence: Sequence[float]
    """Confidence of each predicted instance, 0-1."""
    annotated: Sequence[RunLengths]
    shape: tuple[int, int]
    """Height and width of the picture."""

    @classmethod
    def of(
        cls, found: NDArray[np.int32], probability: NDArray[np.float32], annotated: NDArray[np.int32]
    ) -> "InstancePair":
        """Take the instances of label maps (Y, X), 0 is background. The confidence of one is its mean probability."""
        numbers = _numbers(found)
        return cls(
            found=[_run_lengths(found == number) for number in numbers],
            confidence=[float(one) for one in ndimage.mean(probability, found, numbers)],
            annotated=[_run_lengths(annotated == number) for number in _numbers(annotated)],
            shape=(annotated.shape[0], annotated.shape[1]),
        )


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """Average precision of instances (COCO, 2014)."""

    mean: float
    """Mean over the IoU thresholds 0.50, 0.55 ... 0.95."""
    at_50: float
    """At an IoU threshold of 0.50."""


def average_precision(pairs: Sequence[InstancePair]) -> AveragePrecision | None:
    """Return the average precision of instances over all pictures, by the reference implementation of COCO.

    Returns None where nothing is annotated, since the average precision is undefined there.
    """
    truth, results = COCO(), []
    annotations: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs, start=1):
        for region in pair.annotated:
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(about | {"area": float(coco.area(region)), "segmentation": region})
        for region, confidence in zip(pair.found, pair.confidence, strict=True):
            results.append({"image_id": number, "category_id": 1, "segmentation": region, "score": confidence})
    if not annotations:
        return None
    if not results:
        return AveragePrecision(mean=0.0, at_50=0.0)
    images = [
        {"id": number, "height": pair.shape[0], "width": pair.shape[1]} for number, pair in enumerate(pairs, start=1)
    ]
    truth.dataset = {"info": {}, "images": images, "categories": [{"id": 1}], "annotations": annotations}
    with redirect_stdout(StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        scores = COCOeval(truth, truth.loadRes(results), "segm")
        scores.params.maxDets = [1, 10, MOST_INSTANCES]
        scores.params.areaRng, scores.params.areaRngLbl = scores.params.areaRng[:1], ["all"]
        scores.evaluate()
        scores.accumulate()
    precision = scores.eval["precision"][:, :, 0, 0, -1]  # (overlaps, recalls)
    return AveragePrecision(mean=float(precision.mean()), at_50=float(precision[0].mean()))


def _numbers(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.unique(labels[labels > 0])


def _run_lengths(mask: NDArray[np.bool_]) -> RunLengths:
    encoded: RunLengths = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return encoded
