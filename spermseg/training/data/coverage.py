"""Coverage: the share of each pixel that is cell. Annotations at the working resolution, as bytes.

A pixel of the working resolution covers several pixels of the annotation. A tail is 2 to 5 px wide, so hardly any pixel
is completely tail. The share (a soft target) says more about a tail than whether at least half of a pixel is tail.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spermseg.micrograph.tiling import HALF, View
from spermseg.training.losses import IGNORED

FULL = 254
"""Value of a pixel that is completely cell; 0 is no cell."""
UNKNOWN = 255
"""Value of a pixel whose class is unknown."""


def coverage_of(mask: NDArray[np.bool_], view: View) -> NDArray[np.uint8]:
    """Return the coverage (Y, X), 0 to FULL, at the working resolution of a native mask (Y, X)."""
    return np.minimum(view.working_coverage(mask), np.uint8(FULL))


def full_coverage(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the coverage of a mask that is already at the working resolution."""
    return mask * np.uint8(FULL)


def covered(coverage: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return a mask of the pixels that are known, and at least half cell."""
    return np.asarray((coverage >= HALF) & (coverage != UNKNOWN))


def known(coverage: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the share of each pixel, 0-1, that is in the class; 0 where the class is unknown."""
    return np.where(coverage == UNKNOWN, np.float32(0), coverage / np.float32(FULL))


def target_of(coverage: Tensor, *, soft: bool) -> Tensor:
    """Return the target: float, IGNORED where the class is unknown, else 0 or 1; 0 to 1 with soft targets."""
    share = coverage / FULL if soft else (coverage >= HALF).float()
    return torch.where(coverage == UNKNOWN, IGNORED, share)
