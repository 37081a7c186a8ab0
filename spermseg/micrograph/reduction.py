"""By how much a picture may be divided before a network sees it, and the resolution at which its figures are measured.

A JPEG can be decoded at a half, a quarter or an eighth of its resolution in the transform itself, which leaves out most
of the work. Every other format is decoded whole. Shapes are (height, width), px.
"""

import numpy as np
from numpy.typing import NDArray

from spermseg.micrograph.layout import Shape
from spermseg.micrograph.tiling import resize

FACTORS = (8, 4, 2)
"""What a JPEG can be divided by, the largest first: its blocks are 8 x 8 (ITU-T T.81)."""
FIGURES = 2
"""What a picture is divided by, at the least, before its figures of quality are measured."""


def exact_reduction(native: Shape, working: Shape) -> int:
    """Return the largest of 1, 2, 4 and 8 that divides a picture without a rest, to no less than a working resolution.

    >>> exact_reduction((1024, 1280), (256, 256)), exact_reduction((1022, 1280), (256, 256))
    (4, 2)
    """
    return next((by for by in FACTORS if _fits(native, working, by) and not any(side % by for side in native)), 1)


def figure_pixels(pixels: NDArray[np.uint8], reduction: int, working: Shape) -> NDArray[np.uint8]:
    """Return a picture at the resolution at which its figures of quality are measured, whatever format it came in.

    That is half of the native resolution or, where the network works at a quarter or an eighth of it, that. Each pixel
    is the mean of a square; what is left over at the right and the lower edge, less than a square, is left out.

    Args:
        pixels: (Y, X, 3) as decoded.
        reduction: what they are divided by already.
        working: the shape at which the network sees the picture.
    """
    native = (pixels.shape[0] * reduction, pixels.shape[1] * reduction)
    by = max(FIGURES, next((by for by in FACTORS if _fits(native, working, by)), 1))
    height, width = (max(1, side // by) for side in native)
    squares = pixels[: height * by // reduction, : width * by // reduction]
    return resize(squares, (height, width))


def _fits(native: Shape, working: Shape, by: int) -> bool:
    return all(-(-side // by) >= least for side, least in zip(native, working, strict=True))
