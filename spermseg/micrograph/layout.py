"""Where a picture is read, and which pixels each reading owns.

A picture at its working resolution is read through windows of one size. Along each axis::

    window 0   |========core 0========|--halo--|
    window 1             |--halo--|========core 1========|--halo--|
    window 2                                  |--halo--|====core 2====|

The cores partition the picture, so nothing is averaged and nothing is computed twice but the halos. What a window reads
beyond the picture mirrors it.
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
"""px; windows start at multiples of it, so that each pools on the same grid as the whole picture would. It is that of a
network of 4 levels, and of fewer; a deeper one brings its own `multiple`."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One window along one axis, px."""

    read: int
    """Where the window starts."""
    core_start: int
    """Where the pixels that it owns start."""
    core_stop: int
    """Where they stop."""

    @property
    def core(self) -> slice:
        """The pixels of the picture that the window owns."""
        return slice(self.core_start, self.core_stop)

    @property
    def local(self) -> slice:
        """The same, counted from where the window starts."""
        return slice(self.core_start - self.read, self.core_stop - self.read)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The windows through which pictures of one shape are read, row by row."""

    shape: Shape
    """Of the picture, at the working resolution."""
    padded: Shape
    """Of what all windows together read: the picture, and its mirror image below and to the right."""
    window: Shape
    """Of each window."""
    halo: int
    """Px that a window reads and does not own, at each inner edge."""

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._rows) * len(self._columns)

    @property
    def spans(self) -> Iterator[tuple[Span, Span]]:
        """The windows as (rows, columns)."""
        return product(self._rows, self._columns)

    @property
    def pixels(self) -> int:
        """What the network computes for a picture, px."""
        return len(self) * self.window[0] * self.window[1]

    def split(self, picture: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Yield what each window reads of a picture (Y, X, C): views (window height, window width, C) of one array.

        Raises:
            ShapeError: the picture is of another shape.
        """
        if picture.shape[:2] != self.shape:
            raise ShapeError(f"got a picture {picture.shape[:2]}; {self.shape} is needed")
        below, right = (wide - side for wide, side in zip(self.padded, self.shape, strict=True))
        whole = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="symmetric") if below or right else picture
        height, width = self.window
        for row, column in self.spans:
            yield whole[row.read : row.read + height, column.read : column.read + width]

    def place(self, number: int, tile: NDArray[Any], whole: NDArray[Any]) -> None:
        """Write the core of a window's map (..., window height, window width) where it belongs in (..., Y, X)."""
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
    """Cut one axis: the first window starts at 0, the last one ends at the padded end, if it owns pixels at all."""
    last = padded - window
    starts = [*range(0, last, window - 2 * halo), last] if last else [0]  # one window may hold no more than the halos
    edges = [0, *(min(start + halo, length) for start in starts[1:]), length]
    return tuple(
        Span(read=start, core_start=edge, core_stop=end)
        for start, (edge, end) in zip(starts, pairwise(edges), strict=True)
        if edge < end
    )


@lru_cache(maxsize=1024)
def choose_window(padded: Shape, halo: int, most: int, multiple: int = ALIGNMENT) -> Shape:
    """Return the shape of the windows that compute the fewest pixels, halos included, each of at most `most` px.

    Each side is a multiple of `multiple`, as those of `padded` are, and the halo.

    Where so few hold no more than the halos, it is the least window that owns pixels.
    """
    height, width = padded
    least = 2 * halo + multiple
    best, fewest = (min(least, height), min(least, width)), float("inf")
    for rows in count(1):
        high = _shrunk(height, rows, halo, multiple)
        widest = most // high
        columns = 1 if widest >= width else _needed(width, widest, halo, multiple)
        while columns and rows * high * (width + 2 * halo * (columns - 1)) < fewest:  # more would not be fewer pixels
            wide = _shrunk(width, columns, halo, multiple)
            if rows * high * columns * wide < fewest:
                best, fewest = (high, wide), rows * high * columns * wide
            columns = 0 if wide <= least else columns + 1
        if high <= least:
            return best
    raise AssertionError  # there is a least height


def _needed(length: int, widest: int, halo: int, multiple: int) -> int:
    """Return how many windows of at most so many px an axis needs; 0 where none is wide enough."""
    owned = widest // multiple * multiple - 2 * halo
    return -(-(length - 2 * halo) // owned) if owned > 0 else 0


def _shrunk(length: int, windows: int, halo: int, multiple: int) -> int:
    """Return the least length of so many windows that cover an axis."""
    return length if windows == 1 else aligned(-(-(length - 2 * halo) // windows) + 2 * halo, multiple)


def aligned(length: int, multiple: int = ALIGNMENT) -> int:
    """Return the least multiple of `multiple` from a length on, px."""
    return -(-length // multiple) * multiple
