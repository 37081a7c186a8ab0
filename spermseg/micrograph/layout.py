"""Windows: the parts in which a network reads a picture, and the pixels that each window owns (its core).

A picture at the working resolution is split into windows of one size. Along each axis::

    window 0   |========core 0========|--halo--|
    window 1             |--halo--|========core 1========|--halo--|
    window 2                                  |--halo--|====core 2====|

The cores partition the picture. So no pixel is an average of several windows, and only the halos are computed twice.
Beyond the lower and right edge of the picture, a window reads its mirror image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count, pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spermseg.errors import ShapeError

Shape = tuple[int, int]
"""(height, width), px."""
ALIGNMENT = 16
"""px. Windows start at multiples of this length, so that pooling uses the same grid as on the whole picture. 16 px are
enough for networks of up to 4 levels. A deeper network has its own `multiple`."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One window along one axis, px."""

    read: int
    """Start of the window."""
    core_start: int
    """Start of the core."""
    core_stop: int
    """End of the core, exclusive."""

    @property
    def core(self) -> slice:
        """The core, in pixels of the picture."""
        return slice(self.core_start, self.core_stop)

    @property
    def local(self) -> slice:
        """The core, in pixels of the window."""
        return slice(self.core_start - self.read, self.core_stop - self.read)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The windows through which pictures of one shape are read, row by row."""

    shape: Shape
    """Shape of the picture at the working resolution."""
    padded: Shape
    """Shape of the padded picture that the windows read, with the mirror image below and to the right."""
    window: Shape
    """Shape of each window."""
    halo: int
    """Px at each inner edge of a window that are read but are not in its core."""

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._rows) * len(self._columns)

    @property
    def spans(self) -> Iterator[tuple[Span, Span]]:
        """The windows as (rows, columns)."""
        return product(self._rows, self._columns)

    @property
    def pixels(self) -> int:
        """Pixels that the network computes for a picture: those of all windows."""
        return len(self) * self.window[0] * self.window[1]

    def split(self, picture: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Yield the windows of a picture (Y, X, C), as views (window height, window width, C) of one padded array.

        Raises:
            ShapeError: the picture has another shape.
        """
        if picture.shape[:2] != self.shape:
            raise ShapeError(f"got a picture {picture.shape[:2]}; {self.shape} is needed")
        below, right = (wide - side for wide, side in zip(self.padded, self.shape, strict=True))
        whole = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="symmetric") if below or right else picture
        height, width = self.window
        for row, column in self.spans:
            yield whole[row.read : row.read + height, column.read : column.read + width]

    def place(self, number: int, tile: NDArray[Any], whole: NDArray[Any]) -> None:
        """Copy the core of a window's map `tile` (..., window height, window width) into `whole` (..., Y, X)."""
        row, column = divmod(number, len(self._columns))
        y, x = self._rows[row], self._columns[column]
        whole[..., y.core, x.core] = tile[..., y.local, x.local]

    @cached_property
    def _rows(self) -> tuple[Span, ...]:
        return _spans(self.shape[0], self.padded[0], self.window[0], self.halo)

    @cached_property
    def _columns(self) -> tuple[Span, ...]:
        return _spans(self.shape[1], self.padded[1], self.window[1], self.halo)


def _spans(length: int, padded: int, window: int, halo: int) -> tuple[Span, ...]:
    """Return the windows along one axis, from 0 to the padded length, without those that own no pixels."""
    last = padded - window
    starts = [*range(0, last, window - 2 * halo), last] if last else [0]  # one window may be smaller than two halos
    edges = [0, *(min(start + halo, length) for start in starts[1:]), length]
    return tuple(
        Span(read=start, core_start=edge, core_stop=end)
        for start, (edge, end) in zip(starts, pairwise(edges), strict=True)
        if edge < end
    )


@lru_cache(maxsize=1024)
def choose_window(padded: Shape, halo: int, most: int, multiple: int = ALIGNMENT) -> Shape:
    """Return the window shape that computes the fewest pixels, halos included.

    If `most` is too small for a window that owns pixels, return the smallest window that owns some.

    Args:
        padded: shape of the padded picture, px; its sides are multiples of `multiple`.
        halo: px at each inner edge; a multiple of `multiple`.
        most: limit on the pixels of one window.
        multiple: divisor of the sides of a window, px.
    """
    height, width = padded
    least = 2 * halo + multiple
    best, fewest = (min(least, height), min(least, width)), float("inf")
    for rows in count(1):
        high = _shrunk(height, rows, halo, multiple)
        widest = most // high
        columns = 1 if widest >= width else _needed(width, widest, halo, multiple)
        # From some number of columns on, further columns cannot compute fewer pixels.
        while columns and rows * high * (width + 2 * halo * (columns - 1)) < fewest:
            wide = _shrunk(width, columns, halo, multiple)
            if rows * high * columns * wide < fewest:
                best, fewest = (high, wide), rows * high * columns * wide
            columns = 0 if wide <= least else columns + 1
        if high <= least:
            return best
    raise AssertionError  # there is a least height


def _needed(length: int, widest: int, halo: int, multiple: int) -> int:
    """Return how many windows of at most `widest` px an axis needs; 0 if such windows own no pixels."""
    owned = widest // multiple * multiple - 2 * halo
    return -(-(length - 2 * halo) // owned) if owned > 0 else 0


def _shrunk(length: int, windows: int, halo: int, multiple: int) -> int:
    """Return the least length of each of `windows` windows that together cover an axis."""
    return length if windows == 1 else aligned(-(-(length - 2 * halo) // windows) + 2 * halo, multiple)


def aligned(length: int, multiple: int = ALIGNMENT) -> int:
    """Return the least multiple of `multiple` that is not below a length, px."""
    return -(-length // multiple) * multiple
