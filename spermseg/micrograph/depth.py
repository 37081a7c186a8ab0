"""The 8 bits of a picture of 16: which bits its camera used, and which pixels do not count in telling it.

A camera of 12 bits writes files of 16 bits that would come out black. What the file tells of its camera counts first.
Where it tells nothing, the fewest bits of `SENSOR_BITS` count that hold its pixels. Bright field leaves no doubt then,
for its background is bright: but for a few pixels that no camera saw, such as a scale bar that a program burned in at
65535, or a hot pixel. They are set aside where they cover at most `MOST_OUTLIERS` of the picture, and have sharp edges:
where they begin, next to the camera's own pixels, hardly one lies within the double of the camera's range. What a lens
has drawn begins softly: on the way from the dark to a glowing cell, the edge passes every grey between. So a picture of
16 bits with glowing or saturated areas stays one. What is set aside is cut to the camera's range, and its share told.
"""

import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SENSOR_BITS = (8, 10, 12, 14, 16)
"""Bits of cameras whose pixels are stored as 16 bits; of 8, where a program has widened them."""
MOST_OUTLIERS = 0.05
"""The largest share of a picture's pixels that may be set aside; a scale bar with its text covers about 1 %."""
SOFTER = 2.0
"""How many times as many pixels of their edges may lie within the double of the range as if all greys were alike there:
smooth letters have somewhat more of the darker ones."""
SOFT = (0.08, 0.5)
"""Bounds of that share. Of the edges that a lens draws, more lies there: a sixth or more where a camera of 12 bits is
in question, nearly all at 14."""
STRAY = 10
"""So many pixels at the edges of what lies above may have any value: hot pixels."""
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


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
    brightest = pixels if pixels.ndim == 2 else functools.reduce(cv2.max, cv2.split(pixels))
    allowed = MOST_OUTLIERS * brightest.size
    if told:
        bits = next((bits for bits in SENSOR_BITS if bits >= told), SENSOR_BITS[-1])
        if (above := _count_above(brightest, bits)) <= allowed:
            return Depth(bits=bits, clipped_fraction=above / brightest.size)
    for bits in SENSOR_BITS[:-1]:
        above = _count_above(brightest, bits)
        if above <= allowed and (not above or _begins_sharply(brightest, bits)):
            return Depth(bits=bits, clipped_fraction=above / brightest.size)
    return Depth(bits=SENSOR_BITS[-1], clipped_fraction=0.0)


def _begins_sharply(pixels: Any, bits: int) -> bool:
    """Say whether what lies above some bits was drawn in, rather than by a lens.

    White is 65535 to a program. What reaches no more than the range of a larger camera is taken for that camera's.
    """
    reach, top = 1 << bits, int(pixels.max())
    inside = (pixels < reach).astype(np.uint8)
    edge = pixels[(inside == 0) & (cv2.dilate(inside, CROSS) > 0)]
    soft = np.count_nonzero(edge < 2 * reach)
    if edge.size > STRAY and top < 1 << SENSOR_BITS[-2]:
        return False
    expected = float(np.clip(SOFTER * reach / max(1, top - reach), *SOFT)) * edge.size
    return bool(soft <= max(1.0, expected + 2 * expected**0.5))


def _count_above(pixels: Any, bits: int) -> int:
    return int(np.count_nonzero(pixels >= 1 << bits)) if bits < SENSOR_BITS[-1] else 0


def highest_8_bits(pixels: NDArray[np.uint16], depth: Depth) -> NDArray[np.uint8]:
    """Return the 8 highest bits that the camera used; what lies above them is white."""
    if depth.clipped_fraction:
        pixels = np.minimum(pixels, np.uint16((1 << depth.bits) - 1))
    return (pixels >> (depth.bits - 8)).astype(np.uint8)
