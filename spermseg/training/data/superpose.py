"""Two smears on one slide: a tile in which the cells, the dirt and the grain of two pictures lie on each other."""

import numpy as np
from numpy.typing import NDArray

GROUND = 75
"""Percentile of brightness that is the ground of a picture: most of it is, and what is stained is darker."""
FADED = (0.5, 1.0)
"""Share of its density that the second smear keeps: faint tails are learned on the ground of other sessions."""


def superpose(
    pixels: NDArray[np.uint8],
    coverage: NDArray[np.uint8],
    above: NDArray[np.uint8],
    other_coverage: NDArray[np.uint8],
    density: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a tile seen through another one, and the coverage of both.

    Stain absorbs light, so what comes through both is the product of what comes through each (Beer and Lambert), and no
    seam tells what was added, as where cells are cut out and pasted (Ghiasi et al., CVPR 2021).

    Args:
        pixels: (Y, X, 3) RGB.
        coverage: (Y, X, classes), how much of each pixel is in the class.
        above: the same as `pixels`, of the other tile.
        other_coverage: the same as `coverage`; what is unknown in either is so in both.
        density: share of its stain that the other one keeps, 0-1.
    """
    ground = np.maximum(np.percentile(above[::4, ::4], GROUND, axis=(0, 1)), 1).astype(np.float32)
    passing = (above / ground) ** np.float32(density)
    return np.clip(pixels * passing + 0.5, 0, 255).astype(np.uint8), np.maximum(coverage, other_coverage)
