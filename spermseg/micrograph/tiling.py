"""How a network sees a micrograph: the whole picture resized, or tiles with a halo at the working resolution.

A view resizes a picture to the working resolution and splits it into windows. If the halo covers the receptive field of
the network (its reach), the size of the windows does not change the result, and windows may be as large as memory
allows. Otherwise the windows are as large as the tiles in training.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.errors import ConfigError
from spermseg.micrograph.layout import ALIGNMENT, Layout, Shape, aligned, choose_window

HALF = 128
"""Least coverage, 0 to 255, of a pixel of which at least half is in a mask."""
NATIVE_SIDE = math.sqrt(2452 * 2056)
"""Side of a square with as many pixels as the paper's pictures, px."""

LONGEST_SIDE = 4096
"""Limit on the side of a tile, of a resized whole picture, and on a halo, px. More is useless and exhausts memory."""
LEAST_SCALE = 0.01
"""Least scale. Below it, a cell is smaller than a pixel."""


class View(Protocol):
    """The working resolution and the windows of a network. Shapes: pixels (Y, X, 3) uint8, masks (Y, X)."""

    @property
    def tile(self) -> int:
        """Side of the square that the network reads in training, px."""

    @property
    def scale(self) -> float:
        """Working resolution over native resolution, in each direction; at most 1."""

    def working_shape(self, shape: Shape) -> Shape:
        """Return the shape at the working resolution, for a picture of a native shape."""

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture at the working resolution."""

    def working_coverage(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the coverage (Y, X) uint8 at the working resolution: the share of each pixel in the mask, 0 to 255."""

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask at the working resolution: pixels of which at least half is in the native mask."""

    def layout(self, shape: Shape, *, reach: int, window_px: int, multiple: int = ALIGNMENT) -> Layout:
        """Return the windows of a picture.

        Args:
            shape: shape of the picture at the working resolution.
            reach: how far the network sees from a pixel, px (`UNetConfig.reach`).
            window_px: limit on the pixels of a window, for memory, if the halo covers the reach.
            multiple: divisor of the sides of a window, px (`UNetConfig.multiple`).

        Raises:
            ConfigError: the halo does not cover the reach, and the tile is no larger than two halos.
        """


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The whole picture resized to one square, as in the paper. The aspect ratio is not kept."""

    kind: Literal["whole-frame"] = "whole-frame"
    size: int = 256
    """Side of the square, px."""

    def __post_init__(self) -> None:
        _check_multiple("size", self.size, least=ALIGNMENT)

    @property
    def tile(self) -> int:
        """Side of the square that the network reads in training, px."""
        return self.size

    @property
    def scale(self) -> float:
        """Scale of a picture of the paper's size, as the geometric mean of both directions; at most 1."""
        return min(1.0, self.size / NATIVE_SIDE)

    def working_shape(self, shape: Shape) -> Shape:  # noqa: ARG002 (the same for every picture)
        """Return (size, size)."""
        return self.size, self.size

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture as (size, size, 3)."""
        return resize(pixels, (self.size, self.size))

    def working_coverage(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the coverage as (size, size)."""
        return _coverage(mask, (self.size, self.size))

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask as (size, size)."""
        return self.working_coverage(mask) >= HALF

    def layout(self, shape: Shape, *, reach: int, window_px: int, multiple: int = ALIGNMENT) -> Layout:  # noqa: ARG002 (there is one window)
        """Return the one window."""
        return Layout(shape=shape, padded=shape, window=shape, halo=0)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Square tiles with a halo at each inner edge, at `scale` times the native resolution."""

    kind: Literal["tiles"] = "tiles"
    scale: float = 0.5
    """Working resolution over native resolution, in each direction; 0.01 to 1."""
    tile: int = 512
    """Side of the square that the network reads in training, px; a multiple of 16."""
    halo: int = 112
    """Context at each inner edge of a window, px; a multiple of 16. The default is the least that covers the 107 px
    that the paper's network sees around a pixel (`UNetConfig.reach`)."""

    def __post_init__(self) -> None:
        if not LEAST_SCALE <= self.scale <= 1:
            raise ConfigError(f"got scale {self.scale}; {LEAST_SCALE} to 1 is needed")
        _check_multiple("tile", self.tile, least=ALIGNMENT)
        _check_multiple("halo", self.halo, least=0)

    def working_shape(self, shape: Shape) -> Shape:
        """Return the shape times `scale`, rounded, at least 1 px."""
        return max(1, round(shape[0] * self.scale)), max(1, round(shape[1] * self.scale))

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture scaled."""
        return resize(pixels, self.working_shape(pixels.shape[:2]))

    def working_coverage(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the coverage scaled."""
        return _coverage(mask, self.working_shape(mask.shape))

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask scaled."""
        return self.working_coverage(mask) >= HALF

    def layout(self, shape: Shape, *, reach: int, window_px: int, multiple: int = ALIGNMENT) -> Layout:
        """Return windows as large as allowed if the halo covers the reach, and otherwise of the size of a tile."""
        step = max(multiple, ALIGNMENT)
        padded = (max(aligned(shape[0], step), self.tile), max(aligned(shape[1], step), self.tile))
        if self.halo >= reach:
            window = choose_window(padded, self.halo, window_px, step)
        elif self.tile > 2 * self.halo:
            window = (self.tile, self.tile)
        else:
            raise ConfigError(
                f"got tile {self.tile}, halo {self.halo} and a network that sees {reach} px around a pixel; a halo of "
                "as much, or a tile larger than two halos, is needed"
            )
        return Layout(shape=shape, padded=padded, window=window, halo=self.halo)


def resize(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture to (height, width): by area mean to shrink, linearly to enlarge."""
    if pixels.shape[:2] == shape:
        return pixels
    shrinks = shape[0] <= pixels.shape[0] and shape[1] <= pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (shape[1], shape[0]), interpolation=method), np.uint8)


def to_native(probability: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a probability map to the native (height, width), linearly."""
    if probability.shape == shape:
        return probability
    return np.asarray(cv2.resize(probability, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def _coverage(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    return resize(mask * np.uint8(255), shape)


def _check_multiple(name: str, value: int, *, least: int) -> None:
    if not least <= value <= LONGEST_SIDE or value % ALIGNMENT:
        raise ConfigError(f"got {name} {value}; a multiple of {ALIGNMENT} from {least} to {LONGEST_SIDE} is needed")
