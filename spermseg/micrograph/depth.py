"""The 8 bits of a picture of 16: which bits its camera used, and which pixels do not count in telling it.

A camera of 12 bits writes files of 16 bits that would come out black. What the file tells of its camera counts first.
Where it tells nothing, the fewest bits of `SENSOR_BITS` count that hold its pixels. Bright field leaves no doubt then,
for its background is bright: but for a few pixels that no camera saw, such as a scale bar that a program burned in at
65535, or a hot pixel. Those are told by the gap below them. They are set aside where they are at most `MOST_OUTLIERS`
of the picture, and next to none of them lies within the double of the camera's range. What a lens has drawn leaves no
such gap: from the dark around a glowing cell to its brightest pixel, the edge passes every grey between. So a picture
of 16 bits with saturated areas stays one. What is set aside is shown as white, and its share is told.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SENSOR_BITS = (8, 10, 12, 14, 16)
"""Bits of cameras whose pixels are stored as 16 bits; of 8, where a program has widened them."""
MOST_OUTLIERS = 0.05
"""The largest share of a picture's pixels that may be set aside; a scale bar with its text covers about 1 %."""
MOST_IN_GAP = 0.05
"""The largest share of these that may lie within the double of the range: smooth letters have a few such pixels."""
STRAY = 1e-4
"""Share of all pixels that may lie there, too, whatever else does: hot pixels."""
LEVELS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Which bits of a picture's numbers its camera used."""

    bits: int
    clipped_fraction: float
    """Share of the pixels above them, 0-1."""


def find_depth(pixels: NDArray[np.uint16], told: int | None = None) -> Depth:
    """Return the bits of the camera.

    Args:
        pixels: (Y, X) or (Y, X, 3).
        told: how many bits the file says that its numbers use. It does not count where the picture contradicts it,
            that is where more than `MOST_OUTLIERS` of it would be lost.

    >>> picture = np.tile(np.arange(4096, dtype=np.uint16), (10, 1))
    >>> picture[0, :100] = 65535
    >>> find_depth(picture)
    Depth(bits=12, clipped_fraction=0.00244140625)
    """
    brightest = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    counts = cv2.calcHist([np.ascontiguousarray(brightest)], [0], None, [LEVELS], [0, LEVELS]).ravel()
    above = {bits: int(counts[1 << bits :].sum(dtype=np.float64)) for bits in SENSOR_BITS}
    wider = {bits: int(counts[2 << bits :].sum(dtype=np.float64)) for bits in SENSOR_BITS}
    allowed = MOST_OUTLIERS * brightest.size
    if told and above[bits := _sensor(told)] <= allowed:
        return Depth(bits=bits, clipped_fraction=above[bits] / brightest.size)
    stray = max(1.0, STRAY * brightest.size)
    bits = next(
        bits
        for bits in SENSOR_BITS
        if above[bits] <= allowed and above[bits] - wider[bits] <= max(stray, MOST_IN_GAP * above[bits])
    )
    return Depth(bits=bits, clipped_fraction=above[bits] / brightest.size)


def _sensor(bits: int) -> int:
    return next((one for one in SENSOR_BITS if one >= bits), SENSOR_BITS[-1])


def highest_8_bits(pixels: NDArray[np.uint16], depth: Depth) -> NDArray[np.uint8]:
    """Return the 8 highest bits that the camera used; what lies above them is white."""
    if depth.clipped_fraction:
        pixels = np.minimum(pixels, np.uint16((1 << depth.bits) - 1))
    eight: NDArray[Any] = (pixels >> (depth.bits - 8)).astype(np.uint8)
    return eight
