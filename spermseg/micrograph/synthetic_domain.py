"""Every clinic at once: drawings whose stain, light, focus, magnification and cells differ as much as clinics' do.

A network that has learned from all of them has no clinic to be used to (domain randomisation: Tobin et al., IROS 2017).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.micrograph.rasterise import Polygon, rasterise
from spermseg.micrograph.synthetic import DrawConfig, DrawnMicrograph
from spermseg.micrograph.synthetic_shapes import HEAD, MIDPIECE, TAIL, CellForm, Shape

MARGIN = 1.6
"""px at scale 1; how far outside of what can be seen of a tail people draw its outline."""
TAIL_REACH = 400
"""px at scale 1; heads that lie farther outside of a picture seldom have a tail in it."""
PARTS = {"head": HEAD, "midpiece": MIDPIECE, "tail": TAIL}
"""What there are masks of, beside the whole cell, and its label in a drawing."""


def random_drawing(rng: np.random.Generator, height: int, width: int, scale: float) -> DrawConfig:
    """Return what one micrograph of any clinic looks like.

    Args:
        rng: decides it.
        height: of the picture, px.
        width: of the picture, px.
        scale: about which the magnification varies; 1 makes heads of about 80 px.
    """
    magnification = scale * float(np.exp(rng.uniform(np.log(0.72), np.log(1.38))))
    beyond = TAIL_REACH * magnification / max(height, width)
    room = height * width * (1 + 2 * beyond) ** 2 / (1024 * 1280 * magnification**2)  # ordinary pictures' worth
    odd = rng.dirichlet((6.0, 1.5, 0.7, 1.2))  # shares of heads
    return DrawConfig(
        height=height,
        width=width,
        scale=magnification,
        beyond=beyond,
        cells=(0, max(1, round(room * rng.uniform(3, 14)))),
        form=CellForm(
            heads=tuple(float(share) for share in odd / odd.sum()),  # type: ignore[arg-type]
            tail_length=rng.uniform(0.8, 1.5),
            tail_width=rng.uniform(0.55, 0.95),
            curled=rng.uniform(0.05, 0.3),
            waviness=rng.uniform(0.6, 2.2),
            tailless=rng.uniform(0.0, 0.08),
        ),
        head_stain=rng.uniform(0.5, 1.15),
        tail_stain=float(np.exp(rng.uniform(np.log(0.3), np.log(1.3)))),
        round_cells=(0, 1) if rng.random() < 0.2 else (0, 0),
        debris=rng.uniform(0.0, 2.0),
        unevenness=rng.uniform(0.02, 0.3),
        blur=rng.uniform(0.7, 2.0),
        defocus=rng.uniform(0.0, 5.0),
        sharpening=rng.uniform(0.0, 0.6),
        noise=rng.uniform(0.8, 4.0),
        stain_variation=rng.uniform(0.5, 2.0),
    )


def annotate(drawn: DrawnMicrograph, scale: float) -> dict[str, NDArray[np.bool_]]:
    """Return masks (Y, X) of `cell` and of its PARTS, as people would draw them.

    People see where a tail must be and outline it a little wide, so MARGIN is added to what is painted.

    Args:
        drawn: the micrograph.
        scale: at which it was drawn.
    """
    size = drawn.pixels.shape[:2]
    parts = {part: _mask(drawn.shapes, label, size) for part, label in PARTS.items()}
    for part in ("midpiece", "tail"):
        parts[part] = _widened(parts[part], MARGIN * scale)
    return {"cell": np.logical_or.reduce(list(parts.values())), **parts}


def _mask(shapes: tuple[Shape, ...], label: str, size: tuple[int, ...]) -> NDArray[np.bool_]:
    return rasterise(
        (Polygon(points=tuple(map(tuple, shape.points.tolist()))) for shape in shapes if shape.label == label),
        size[0],
        size[1],
    )


def _widened(mask: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    """Return a mask with all within the margin, px, of its edge; the edge runs between pixels."""
    if not mask.any():
        return mask
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= margin + 0.5)
