"""Domain randomisation: synthetic micrographs that differ in stain, light, focus, scale and cells as clinics do.

A network that is trained on this variety does not fit to one clinic (Tobin et al., IROS 2017).
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.rasterise import rasterise
from spermseg.synthetic.draw import DrawConfig, SyntheticMicrograph
from spermseg.synthetic.shapes import ACROSOME, HEAD, MIDPIECE, TAIL, CellForm, Shape

MARGINS = {"midpiece": 0.8, "tail": 1.6}
"""px at scale 1: how far outside the visible edge of a part annotators draw its outline. With these margins, midpieces
and tails are 8.6 and 8.2 px wide on average. In 17 annotated pictures of the Sperm Parsing Dataset, they are 8.6 and
8.4 px wide."""
TAIL_REACH = 400
"""px at scale 1: a head that lies farther outside a picture seldom has a tail in the picture."""
NOISE_SCALE = 0.5
"""Scale at which pictures have the full noise. At a smaller scale, a pixel is the mean of more camera pixels, so noise
is lower."""
JPEG_QUALITIES = (50, 98)
"""Range of qualities; half of the pictures are JPEG files. Blocks are 8 px wide at any scale, so a picture at a reduced
scale loses more than a camera's JPEG file does."""
PARTS = {"head": HEAD, "acrosome": ACROSOME, "midpiece": MIDPIECE, "tail": TAIL}
"""Parts that have masks, beside the whole cell -> their labels in a synthetic micrograph."""


def random_draw_config(rng: np.random.Generator, height: int, width: int, scale: float) -> DrawConfig:
    """Return the config of one micrograph of a random clinic.

    Args:
        rng: random numbers for the config.
        height: of the picture, px.
        width: of the picture, px.
        scale: middle of the range of magnifications; 1 makes heads of about 80 px.
    """
    magnification = scale * float(np.exp(rng.uniform(np.log(0.72), np.log(1.38))))
    beyond = TAIL_REACH * magnification / max(height, width)
    room = height * width * (1 + 2 * beyond) ** 2 / (1024 * 1280 * magnification**2)  # in pictures of the default size
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
        inner_parts=True,
        head_stain=rng.uniform(0.5, 1.15),
        tail_stain=float(np.exp(rng.uniform(np.log(0.3), np.log(1.3)))),
        round_cells=(0, 1) if rng.random() < 0.2 else (0, 0),
        debris=rng.uniform(0.0, 2.0),
        unevenness=rng.uniform(0.02, 0.3),
        blur=rng.uniform(0.7, 2.0),
        defocus=rng.uniform(0.0, 5.0),
        sharpening=rng.uniform(0.0, 0.6),
        noise=rng.uniform(0.8, 4.0) * min(1.0, scale / NOISE_SCALE),
        stain_variation=rng.uniform(0.5, 2.0),
        jpeg_quality=int(rng.integers(*JPEG_QUALITIES)) if rng.random() < 0.5 else None,
    )


def annotate(micrograph: SyntheticMicrograph, scale: float, *, finer: int = 1) -> dict[str, NDArray[np.bool_]]:
    """Return masks (Y, X) of `cell` and of its PARTS, as annotators would draw them.

    Annotators draw tails slightly too wide, so the masks have MARGINS around the painted parts. Annotators leave out
    cells whose heads lie outside the picture, so the masks leave them out, too.

    Args:
        micrograph: a synthetic one.
        scale: the scale of the micrograph.
        finer: number of mask pixels along each axis of one pixel of the micrograph.
    """
    height, width = micrograph.pixels.shape[:2]
    with_head = {shape.group_id for shape in micrograph.shapes if shape.label == HEAD}
    shapes = [shape for shape in micrograph.shapes if shape.group_id in with_head]
    parts = {part: _mask(shapes, label, (height * finer, width * finer), finer) for part, label in PARTS.items()}
    for part, margin in MARGINS.items():
        parts[part] = _widened(parts[part], margin * scale * finer)
    return {"cell": np.logical_or.reduce(list(parts.values())), **parts}


def _mask(shapes: Iterable[Shape], label: str, size: tuple[int, int], finer: int) -> NDArray[np.bool_]:
    return rasterise((shape.outline(finer) for shape in shapes if shape.label == label), *size)


def _widened(mask: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    """Return a mask dilated by a margin, px, from its edge. The edge runs between pixels."""
    away = np.arange(-int(margin + 0.5), int(margin + 0.5) + 1)
    disc = np.hypot(away[:, np.newaxis], away) <= margin + 0.5
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc.astype(np.uint8)) == 1)
