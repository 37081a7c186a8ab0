"""What is fitted to the validation split after the weights: threshold, confidence, the check of half precision."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spermseg.micrograph.annotation import WHOLE_CELL
from spermseg.micrograph.tiling import View
from spermseg.model.confidence import Confidence
from spermseg.model.folded import CellProbability
from spermseg.model.precision import BATCH_PX, forward_here, mask_agreement
from spermseg.model.predict import predict_working, window_layout
from spermseg.model.unet import UNet
from spermseg.training.confidence import Map, fit_confidence
from spermseg.training.losses import IGNORED
from spermseg.training.sampling import WorkingExample
from spermseg.training.source import TrainingData

AGREEMENT_PICTURES = 20
"""Of the validation split, on which half precision is held against full precision."""
LEVELS = 100
"""Thresholds that are tried are multiples of 1 / LEVELS."""
LEAST, MOST = 10, 90
"""Of them: what lies beyond is noise."""
Progress = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is fitted after the weights. The fields are those of the model's description."""

    threshold: float
    mask_agreement: float
    confidence: Confidence


def calibrate(
    network: UNet, view: View, threshold: float | None, data: TrainingData, show: Callable[[str], Progress]
) -> Calibration:
    """Fit to the validation split what is not learned in training.

    Args:
        network: in evaluation mode.
        view: how it sees a picture.
        threshold: probability from which a pixel is a cell's; None chooses it.
        data: what has a validation split.
        show: the name of a step -> its progress bar.

    Raises:
        DatasetError: there are no validation pictures.
    """
    if threshold is None:
        threshold = choose_threshold(network, view, data, show("choosing the threshold"))
    maps = _maps(network, view, data, show("fitting the confidence"))
    return Calibration(
        threshold=threshold,
        mask_agreement=half_precision_agreement(network, view, threshold, data, show("checking half precision")),
        confidence=fit_confidence(maps, threshold),
    )


def half_precision_agreement(
    network: UNet, view: View, threshold: float, data: TrainingData, progress: Progress = iter
) -> float:
    """Return `mask_agreement` of a network on pictures spread over the validation split."""
    names = data.names("val")
    some = names[:: -(-len(names) // AGREEMENT_PICTURES)]
    pictures = (data.load(name, view, judged_classes(network)).pixels for name in progress(some))
    return mask_agreement(network, view, threshold, pictures)


def choose_threshold(network: UNet, view: View, data: TrainingData, progress: Progress = iter) -> float:
    """Return the probability from which a pixel is a cell's that gives the best mean Dice of validation pictures.

    The Dice is that of the whole cell at the working resolution; among thresholds as good, the one nearest to 0.5.
    """
    curves = [dice_curve(probability, truth) for probability, truth in _maps(network, view, data, progress)]
    mean = np.mean(curves, axis=0)
    levels = np.arange(LEAST, MOST + 1)
    good = levels[mean[levels] >= mean[levels].max() - 1e-9]
    return float(good[np.argmin(np.abs(good - LEVELS // 2))] / LEVELS)


def dice_curve(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice of a probability map at every threshold k / LEVELS, k from 0 to LEVELS.

    Args:
        probability: (Y, X), 0-1.
        truth: (Y, X).
    """
    level = np.floor(probability * LEVELS + 1e-6).astype(np.intp).clip(0, LEVELS)
    above = {
        name: np.bincount(level[chosen], minlength=LEVELS + 1)[::-1].cumsum()[::-1]
        for name, chosen in (("all", np.ones_like(truth)), ("hit", truth))
    }
    total = above["all"] + np.count_nonzero(truth)
    curve: NDArray[np.float64] = np.divide(2 * above["hit"], total, out=np.ones(LEVELS + 1), where=total > 0)
    return curve


def _maps(network: UNet, view: View, data: TrainingData, progress: Progress) -> Iterator[Map]:
    """Yield the probability of the whole cell, and its mask, of each picture of the validation split."""
    forward = forward_here(CellProbability(network))
    layout = window_layout(view, network.config, BATCH_PX)
    classes = judged_classes(network)
    for name in progress(data.names("val")):
        example: WorkingExample = data.load(name, view, classes)
        (probability,) = predict_working(forward, layout, [example.pixels], BATCH_PX)
        known = (example.mask != IGNORED).all(axis=-1)
        yield probability * known, whole_cell(example, classes)


def judged_classes(network: UNet) -> tuple[str, ...]:
    """Return what must be annotated where a network is calibrated: the cell, or the parts that are a cell to it."""
    classes = network.config.classes
    return (WHOLE_CELL,) if WHOLE_CELL in classes else classes


def whole_cell(example: WorkingExample, classes: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return the mask (Y, X) of the whole cell of an example: its own, or the union of the parts."""
    mask = example.mask[..., classes.index(WHOLE_CELL)] if WHOLE_CELL in classes else (example.mask == 1).max(axis=-1)
    return np.asarray(mask == 1)
