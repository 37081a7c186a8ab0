"""How a network sees a micrograph: the whole picture resized, or tiles with a halo at the working resolution.

A view brings a picture to its working resolution and lays out the windows through which the network reads it. Where the
halo covers the network's reach, the map is that of the whole picture, whatever the size of the windows: so they may be
as large as memory allows. Where it does not, the windows are the tiles that the network has learned from.
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
"""Cover of a pixel of which at least half is in a mask."""
NATIVE_SIDE = math.sqrt(2452 * 2056)
"""Side of a square as large as the paper's pictures, px."""

LONGEST_SIDE = 4096
"""Most px of a tile's side, of a whole picture resized, and of a halo: more has no use, and takes all memory."""
LEAST_SCALE = 0.01
"""At less a cell is no pixel."""


class View(Protocol):
    """Working resolution, and windows. Shapes: pixels (Y, X, 3) uint8, masks (Y, X)."""

    @property
    def tile(self) -> int:
        """Side of what the network learns from, px."""

    @property
    def scale(self) -> float:
        """Working resolution over native resolution, in each direction; at most 1."""

    def working_shape(self, shape: Shape) -> Shape:
        """Return the shape at the working resolution of a picture of a native shape."""

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture at the working resolution."""

    def working_coverage(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return how much of what each pixel of the working resolution covers is in a mask, 0 to 255."""

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask at the working resolution: a pixel is in when at least half of what it covers is."""

    def layout(self, shape: Shape, *, reach: int, window_px: int, multiple: int = ALIGNMENT) -> Layout:
        """Return the windows of a picture of a shape at the working resolution.

        Args:
            shape: at the working resolution.
            reach: how far the network sees, px (`UNetConfig.reach`).
            window_px: the most pixels of a window, where that is a matter of memory only.
            multiple: of which the sides of a window must be multiples, px (`UNetConfig.multiple`).

        Raises:
            ConfigError: a halo covers neither the reach nor leaves a tile anything of its own.
        """


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The whole picture resized to one square, as in the paper; the aspect is not kept."""

    kind: Literal["whole-frame"] = "whole-frame"
    size: int = 256
    """Side of the square, px."""

    def __post_init__(self) -> None:
        _check_multiple("size", self.size, least=ALIGNMENT)

    @property
    def tile(self) -> int:
        """Side of what the network learns from, px."""
        return self.size

    @property
    def scale(self) -> float:
        """What a picture of the paper's size shrinks by, in the mean of both directions."""
        return min(1.0, self.size / NATIVE_SIDE)

    def working_shape(self, shape: Shape) -> Shape:  # noqa: ARG002 (of any)
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
    """Side of what the network learns from, px; a multiple of 16."""
    halo: int = 112
    """Context read but not owned, at each inner edge, px; a multiple of 16. The default is the least that covers the
    107 px that the paper's network sees around a pixel (`UNetConfig.reach`)."""

    def __post_init__(self) -> None:
        if not LEAST_SCALE <= self.scale <= 1:
            raise ConfigError(f"got scale {self.scale}; {LEAST_SCALE} to 1 is needed")
        _check_multiple("tile", self.tile, least=ALIGNMENT)
        _check_multiple("halo", self.halo, least=0)

    def working_shape(self, shape: Shape) -> Shape:
        """Return the shape scaled."""
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
        """Return windows of the size of a tile or, where the halo covers the reach, as large as they may be."""
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
    """Resize a picture to (height, width): area mean where it shrinks, linear where it grows."""
    if pixels.shape[:2] == shape:
        return pixels
    shrinks = shape[0] <= pixels.shape[0] and shape[1] <= pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (shape[1], shape[0]), interpolation=method), np.uint8)


def to_native(probability: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a probability map to the native (height, width), linearly."""
    if probability.shape == shape:
        return probability
    return np.asarray(cv2.resize(probability, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def _coverage(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    return resize(mask * np.uint8(255), shape)


def _check_multiple(name: str, value: int, *, least: int) -> None:
    if not least <= value <= LONGEST_SIDE or value % ALIGNMENT:
        raise ConfigError(f"got {name} {value}; a multiple of {ALIGNMENT} from {least} to {LONGEST_SIDE} is needed")
