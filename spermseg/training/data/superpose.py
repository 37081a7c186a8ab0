"""Superposition: a tile in which the cells, debris and noise of two pictures lie on each other."""

import numpy as np
from numpy.typing import NDArray

GROUND = 75
"""Percentile of brightness that is taken as the background: most pixels are background, and stain is darker."""
FADED = (0.5, 1.0)
"""Range of the share of its density that the second tile keeps, so that faint tails appear on other backgrounds."""


def superpose(
    pixels: NDArray[np.uint8],
    coverage: NDArray[np.uint8],
    above: NDArray[np.uint8],
    other_coverage: NDArray[np.uint8],
    density: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a tile seen through another one, and the coverage of both.

    Stain absorbs light, so the transmission of both tiles is the product of their transmissions (Beer and Lambert).
    There is no seam, unlike where cells are cut out and pasted (Ghiasi et al., CVPR 2021).

    Args:
        pixels: (Y, X, 3) RGB.
        coverage: (Y, X, classes), the share of each pixel that is in the class.
        above: the pixels of the other tile.
        other_coverage: the coverage of the other tile. A pixel that is unknown in one tile is unknown in the result.
        density: share of its stain that the other tile keeps, 0-1.
    """
    ground = np.maximum(np.percentile(above[::4, ::4], GROUND, axis=(0, 1)), 1).astype(np.float32)
    passing = (above / ground) ** np.float32(density)
    return np.clip(pixels * passing + 0.5, 0, 255).astype(np.uint8), np.maximum(coverage, other_coverage)
