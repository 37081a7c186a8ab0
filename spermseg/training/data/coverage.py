"""How much of each pixel is cell: annotations at the working resolution, as bytes.

A pixel of the working resolution covers several of the annotation's. A tail that is 2 to 5 px wide has hardly a pixel
that is all tail, so how much of each one is (a soft label) says more than whether it is at least half.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spermseg.micrograph.tiling import HALF, View
from spermseg.training.losses import IGNORED

FULL = 254
"""All of a pixel is cell; 0: nothing of it."""
UNKNOWN = 255
"""Nobody knows what the pixel is."""


def coverage_of(mask: NDArray[np.bool_], view: View) -> NDArray[np.uint8]:
    """Return how much of each pixel (Y, X) of the working resolution is in a native mask (Y, X), 0 to FULL."""
    return np.minimum(view.working_coverage(mask), np.uint8(FULL))


def full_coverage(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the coverage of a mask that is at the working resolution."""
    return mask * np.uint8(FULL)


def covered(coverage: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where at least half of a pixel is known to be cell."""
    return np.asarray((coverage >= HALF) & (coverage != UNKNOWN))


def known(coverage: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the share of each pixel, 0-1, that is known to be in the class."""
    return np.where(coverage == UNKNOWN, np.float32(0), coverage / np.float32(FULL))


def target_of(coverage: Tensor, *, soft: bool) -> Tensor:
    """Return what is to be learned: float, IGNORED where nobody knows, else 0 or 1, or 0 to 1 with soft labels."""
    share = coverage / FULL if soft else (coverage >= HALF).float()
    return torch.where(coverage == UNKNOWN, IGNORED, share)
