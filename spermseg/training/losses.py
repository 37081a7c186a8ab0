"""What training minimises."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossName = Literal["bce", "bce+dice"]


def segmentation_loss(logits: Tensor, target: Tensor, name: LossName = "bce") -> Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: (N, classes, Y, X) float.
        target: (N, classes, Y, X), 0 or 1.
        name: `bce` is binary cross-entropy, the paper's; `bce+dice` adds 1 - soft Dice (Milletari et al., 3DV 2016),
            averaged over pictures and classes.
    """
    target = target.to(logits.dtype)
    loss = functional.binary_cross_entropy_with_logits(logits, target)
    if name == "bce+dice":
        probability = torch.sigmoid(logits)
        overlap = (probability * target).sum(dim=(2, 3))
        total = (probability + target).sum(dim=(2, 3))
        loss = loss + (1 - (2 * overlap + 1) / (total + 1)).mean()
    return loss
