"""How a network sees a micrograph: the whole picture resized, or tiles with a halo at the working resolution.

A view brings a picture to its working resolution, splits it into what the network reads, and stitches what the network
answers. Along each axis of a tiled picture::

    window 0   |========core 0========|--halo--|
    window 1             |--halo--|========core 1========|--halo--|
    window 2                                  |--halo--|====core 2====|

The cores partition the picture, so nothing is averaged and nothing is computed twice but the halos. Where the halo
covers the network's receptive field, the stitched map equals the map of the whole picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.errors import ConfigError, ShapeError

ALIGNMENT = 16
"""px; windows start at multiples of it, so that every tile pools on the same grid as the whole picture would. It is
that of a network of 4 levels, and of fewer."""


class View(Protocol):
    """Working resolution, split and stitch. Shapes: pixels (Y, X, 3) uint8, maps (Y, X) float32."""

    @property
    def tile(self) -> int:
        """Side of what the network reads, px."""

    def working_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the shape at the working resolution of a picture of a native shape."""

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture at the working resolution."""

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask at the working resolution: a pixel is in when at least half of what it covers is."""

    def split(self, working: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the tiles (N, tile, tile, 3) of a picture at the working resolution."""

    def stitch(self, maps: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the map at the working resolution from the maps (N, tile, tile) of its tiles."""


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
        """Side of what the network reads, px."""
        return self.size

    def working_shape(self, shape: tuple[int, int]) -> tuple[int, int]:  # noqa: ARG002 (of any)
        """Return (size, size)."""
        return self.size, self.size

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture as (size, size, 3)."""
        return resize(pixels, (self.size, self.size))

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask as (size, size)."""
        return _resize_mask(mask, (self.size, self.size))

    def split(self, working: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the one tile (1, size, size, 3)."""
        return working[np.newaxis]

    def stitch(self, maps: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the map of the one tile."""
        if maps.shape[0] != 1 or maps.shape[1:3] != shape:
            raise ShapeError(f"got maps {maps.shape}; one of {shape} is needed")
        return np.asarray(maps[0], np.float32)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Square tiles with a halo at each inner edge, at `scale` times the native resolution."""

    kind: Literal["tiles"] = "tiles"
    scale: float = 0.5
    """Working resolution over native resolution, in each direction; at most 1."""
    tile: int = 512
    """Side of what the network reads, px; a multiple of 16."""
    halo: int = 112
    """Context read but not owned, at each inner edge, px; a multiple of 16. The default is the least that covers the
    107 px that the paper's network sees around a pixel (`UNetConfig.reach`)."""

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ConfigError(f"got scale {self.scale}; more than 0 and at most 1 is needed")
        _check_multiple("tile", self.tile, least=ALIGNMENT)
        _check_multiple("halo", self.halo, least=0)
        if self.stride <= 0:
            raise ConfigError(f"got tile {self.tile} and halo {self.halo}; a tile larger than two halos is needed")

    @property
    def stride(self) -> int:
        """From one window to the next, px: the tile less two halos."""
        return self.tile - 2 * self.halo

    def working_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the shape scaled."""
        return max(1, round(shape[0] * self.scale)), max(1, round(shape[1] * self.scale))

    def working_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture scaled."""
        return resize(pixels, self.working_shape(pixels.shape[:2]))

    def working_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask scaled."""
        return _resize_mask(mask, self.working_shape(mask.shape))

    def split(self, working: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the tiles (N, tile, tile, 3), row by row; what lies beyond the picture mirrors it."""
        height, width = working.shape[:2]
        below, right = max(_aligned(height), self.tile) - height, max(_aligned(width), self.tile) - width
        padded = np.pad(working, ((0, below), (0, right), (0, 0)), mode="symmetric")
        return np.stack([padded[w.read_y, w.read_x] for w in self.windows(height, width)])

    def stitch(self, maps: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the map (Y, X), each pixel from the tile whose core owns it."""
        whole = np.empty(shape, np.float32)
        windows = list(self.windows(*shape))
        if len(windows) != len(maps):
            raise ShapeError(f"got maps {maps.shape}; {len(windows)} tiles cover {shape}")
        for window, tile in zip(windows, maps, strict=True):
            whole[window.core_y, window.core_x] = tile[window.local_y, window.local_x]
        return whole

    def windows(self, height: int, width: int) -> Iterator["Window"]:
        """Yield the windows of a picture at the working resolution, row by row."""
        columns = self._spans(width)
        for y in self._spans(height):
            for x in columns:
                yield Window(y=y, x=x, tile=self.tile)

    def _spans(self, length: int) -> list["Span"]:
        """Cut one axis: the first window starts at 0, the last one ends at the (aligned) end."""
        last = max(_aligned(length) - self.tile, 0)
        starts = [*range(0, last, self.stride), last]
        edges = [0, *(start + self.halo for start in starts[1:]), length]
        return [
            Span(read=start, core_start=edge, core_stop=end)
            for start, edge, end in zip(starts, edges, edges[1:], strict=False)
        ]


@dataclass(frozen=True, kw_only=True)
class Span:
    """One window along one axis, px."""

    read: int
    """Where the window starts."""
    core_start: int
    """Where the pixels that it owns start."""
    core_stop: int
    """Where they stop."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a tile is read, and which pixels it owns."""

    y: Span
    x: Span
    tile: int

    @property
    def read_y(self) -> slice:
        """Rows of the padded picture that the network reads."""
        return slice(self.y.read, self.y.read + self.tile)

    @property
    def read_x(self) -> slice:
        """Columns of the padded picture that the network reads."""
        return slice(self.x.read, self.x.read + self.tile)

    @property
    def core_y(self) -> slice:
        """Rows of the picture that the tile owns."""
        return slice(self.y.core_start, self.y.core_stop)

    @property
    def core_x(self) -> slice:
        """Columns of the picture that the tile owns."""
        return slice(self.x.core_start, self.x.core_stop)

    @property
    def local_y(self) -> slice:
        """Rows of the tile that are its core."""
        return slice(self.y.core_start - self.y.read, self.y.core_stop - self.y.read)

    @property
    def local_x(self) -> slice:
        """Columns of the tile that are its core."""
        return slice(self.x.core_start - self.x.read, self.x.core_stop - self.x.read)


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


def _resize_mask(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    return resize(mask.astype(np.uint8) * np.uint8(255), shape) >= 128


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _check_multiple(name: str, value: int, *, least: int) -> None:
    if value < least or value % ALIGNMENT:
        raise ConfigError(f"got {name} {value}; a multiple of {ALIGNMENT} from {least} on is needed")
