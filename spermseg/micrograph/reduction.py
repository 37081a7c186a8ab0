"""The reduction at which a JPEG is decoded, and the resolution at which quality figures are measured.

A JPEG can be decoded at a half, a quarter or an eighth of its resolution: the inverse DCT then computes fewer pixels.
Every other format is decoded at full resolution. Shapes are (height, width), px.
"""

import numpy as np
from numpy.typing import NDArray

from spermseg.micrograph.layout import Shape
from spermseg.micrograph.tiling import resize

FACTORS = (8, 4, 2)
"""Possible reductions of a JPEG, the largest first. Its blocks are 8 x 8 px (ITU-T T.81)."""
FIGURES = 2
"""Least reduction of a picture before its quality figures are measured."""


def exact_reduction(native: Shape, working: Shape) -> int:
    """Return the largest of 1, 2, 4 and 8 that divides both sides exactly, to no less than the working resolution.

    >>> exact_reduction((1024, 1280), (256, 256)), exact_reduction((1022, 1280), (256, 256))
    (4, 2)
    """
    return next((by for by in FACTORS if _fits(native, working, by) and not any(side % by for side in native)), 1)


def figure_pixels(pixels: NDArray[np.uint8], reduction: int, working: Shape) -> NDArray[np.uint8]:
    """Return a picture at the resolution at which its quality figures are measured. It is the same for all formats.

    It is half of the native resolution, or a quarter or an eighth if the working resolution is that low. Each pixel is
    the mean of a square. Incomplete squares at the right and lower edge are left out.

    Args:
        pixels: (Y, X, 3) as decoded.
        reduction: the reduction of `pixels`.
        working: the shape of the picture at the working resolution.
    """
    native = (pixels.shape[0] * reduction, pixels.shape[1] * reduction)
    by = max(FIGURES, next((by for by in FACTORS if _fits(native, working, by)), 1))
    height, width = (max(1, side // by) for side in native)
    squares = pixels[: height * by // reduction, : width * by // reduction]
    return resize(squares, (height, width))


def _fits(native: Shape, working: Shape, by: int) -> bool:
    return all(-(-side // by) >= least for side, least in zip(native, working, strict=True))
