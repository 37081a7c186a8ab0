"""Losses."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossName = Literal["bce", "bce+dice", "focal-tversky", "bce+dice+cldice"]
MISSED = 0.7
"""Weight of false negatives in the Tversky index; false positives weigh 1 - MISSED. The authors' value."""
FOCUS = 0.75
"""Exponent of 1 - Tversky index: 1 / gamma, with the authors' gamma of 4/3."""
THINNINGS = 4
"""Iterations that thin a soft mask to its centreline: tails are up to 2 x 4 px wide at half the resolution."""
IGNORED = 2
"""Value of a target pixel whose class is unknown."""
NOWHERE = -30.0
"""Logit of an ignored pixel: certainly no cell."""
PIXELS = (0, 2, 3)
"""Axes that are summed before a ratio is taken: the whole batch. With ratios picture by picture, the network would
learn that a part that is missing in most tiles is missing everywhere."""
CLDICE_SHARE = 0.3
"""Weight of the centreline in `bce+dice+cldice`."""


def segmentation_loss(logits: Tensor, target: Tensor, name: LossName = "bce") -> Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: (N, classes, Y, X) float.
        target: (N, classes, Y, X), 0 to 1, or IGNORED. The overlap with a probability is the minimum of the two (Wang
            et al., NeurIPS 2023). Where the target is 0 or 1, this is their product.
        name: `bce` is binary cross-entropy, the paper's loss. `bce+dice` adds 1 - soft Dice (Milletari et al., 3DV
            2016) of the whole batch, averaged over classes. `bce+dice+cldice` also adds 1 - soft centreline Dice (Shit
            et al., CVPR 2021). `focal-tversky` is the loss of Abraham and Khan (ISBI 2019), in which false negatives
            weigh more.
    """
    return LOSSES[name](*drop_ignored(logits, target.to(logits.dtype)))


def drop_ignored(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both, changed where the target is IGNORED: there the target is no cell, and the prediction is right."""
    ignored = target == IGNORED
    return logits.masked_fill(ignored, NOWHERE), target.masked_fill(ignored, 0)


def _bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    return _bce(logits, target) + _dice(torch.sigmoid(logits), target)


def _bce_dice_cldice(logits: Tensor, target: Tensor) -> Tensor:
    return _bce_dice(logits, target) + CLDICE_SHARE * _cldice(torch.sigmoid(logits), target)


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target)


def _dice(probability: Tensor, target: Tensor) -> Tensor:
    overlap = torch.minimum(probability, target).sum(dim=PIXELS)
    total = (probability + target).sum(dim=PIXELS)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def _focal_tversky(logits: Tensor, target: Tensor) -> Tensor:
    probability = torch.sigmoid(logits)
    hit = torch.minimum(probability, target).sum(dim=PIXELS)
    missed = target.sum(dim=PIXELS) - hit
    false = probability.sum(dim=PIXELS) - hit
    # the slope of x**FOCUS is infinite at 0, hence the clamp
    lost = 1 - (hit + 1) / (hit + MISSED * missed + (1 - MISSED) * false + 1)
    return lost.clamp(min=1e-6).pow(FOCUS).mean()


def _cldice(probability: Tensor, target: Tensor) -> Tensor:
    """Return 1 - the harmonic mean of two shares: of our centreline in the truth, and of the truth's in our mask."""
    ours, truth = soft_centreline(probability), soft_centreline(target)
    precision = ((ours * target).sum(dim=PIXELS) + 1) / (ours.sum(dim=PIXELS) + 1)
    recall = ((truth * probability).sum(dim=PIXELS) + 1) / (truth.sum(dim=PIXELS) + 1)
    return (1 - 2 * precision * recall / (precision + recall)).mean()


def soft_centreline(mask: Tensor) -> Tensor:
    """Return the centreline of a soft mask (N, C, Y, X), 0-1. Minima and maxima of neighbours thin the mask."""
    eroded = _eroded(mask)
    line = functional.relu(mask - _dilated(eroded))
    for _ in range(THINNINGS):
        mask, eroded = eroded, _eroded(eroded)
        line = line + functional.relu(functional.relu(mask - _dilated(eroded)) * (1 - line))
    return line


def _eroded(mask: Tensor) -> Tensor:
    across = -functional.max_pool2d(-mask, (3, 1), stride=1, padding=(1, 0))
    along = -functional.max_pool2d(-mask, (1, 3), stride=1, padding=(0, 1))
    return torch.minimum(across, along)


def _dilated(mask: Tensor) -> Tensor:
    return functional.max_pool2d(mask, 3, stride=1, padding=1)


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": _bce,
    "bce+dice": _bce_dice,
    "focal-tversky": _focal_tversky,
    "bce+dice+cldice": _bce_dice_cldice,
}
