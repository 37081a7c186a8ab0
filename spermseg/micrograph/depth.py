"""Conversion of 16 bits to 8: which bits the camera used, and which pixels to leave out of that estimate.

A 12-bit camera writes files of 16 bits, whose 8 highest bits would be almost black. If the file states the bits of its
camera, these count. Otherwise the estimate is the smallest of `SENSOR_BITS` that holds all pixels. The bright
background of bright field makes this estimate safe, except for a few outliers that the sensor did not record: a scale
bar that a program burned in at 65535, or a hot pixel.

Pixels above a range count as outliers if they cover at most `MOST_OUTLIERS` of the picture and have sharp edges. Sharp
means: of the outliers next to other pixels, hardly any is below twice the range. A lens makes soft edges. From the dark
to a glowing cell, such an edge passes every grey between. So a true 16-bit picture with glowing or saturated areas
keeps its 16 bits. Outliers are clipped to the range, and `Depth` holds their share.
"""

import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SENSOR_BITS = (8, 10, 12, 14, 16)
"""Bits of cameras whose pixels are stored as 16 bits; 8 if a program has converted 8-bit pixels."""
MOST_OUTLIERS = 0.05
"""Largest share of the pixels that may be outliers, 0-1. A scale bar with its text covers about 1 %."""
SOFTER = 2.0
"""Accepted ratio between the edge pixels below twice the range and their number if the greys of the edge were uniformly
distributed. Anti-aliased letters have somewhat more of the darker greys."""
SOFT = (0.08, 0.5)
"""Bounds of the accepted share of edge pixels below twice the range, 0-1. Edges that a lens makes have a larger share:
a sixth or more if 12 bits are tested, and nearly all at 14."""
STRAY = 10
"""Number of edge pixels that may have any value, since they may be hot pixels."""
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True, kw_only=True)
class Depth:
    """The bits of a 16-bit picture that the camera used."""

    bits: int
    clipped_fraction: float
    """Share of the pixels above the range of these bits, 0-1; they are clipped."""


def find_depth(pixels: NDArray[np.uint16], told: int | None = None) -> Depth:
    """Estimate the bits of the camera.

    Args:
        pixels: (Y, X) or (Y, X, 3) uint16.
        told: the number of bits that the file states. It is ignored if more than `MOST_OUTLIERS` of the pixels lie
            above it.

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
    """Return whether the pixels above a range have sharp edges, as burned-in marks have.

    Programs burn in marks at 65535. If the brightest pixel is in the range of a 14-bit camera, the pixels count as
    recorded by a camera.
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
    """Return the 8 highest of the bits that the camera used. Pixels above the range become white."""
    if depth.clipped_fraction:
        pixels = np.minimum(pixels, np.uint16((1 << depth.bits) - 1))
    return (pixels >> (depth.bits - 8)).astype(np.uint8)
