"""Rasterisation: annotated shapes -> masks, by one rule.

Pixel (x, y) covers [x, x+1) x [y, y+1), so its centre is (x + 0.5, y + 0.5). **A pixel belongs to a shape if its centre
lies inside.** Vertices are not rounded. Polygons are filled by the even-odd rule, so a keyhole or a self-touching
outline keeps its holes. A centre exactly on a left or top edge of a polygon belongs to the polygon; one on a right or
bottom edge does not. So of two polygons that share an edge, exactly one gets each pixel along the edge.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, cos, floor, hypot, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spermseg.errors import AnnotationError

Points = tuple[tuple[float, float], ...]

CROSSINGS_AT_ONCE = 1 << 18
"""Limit on the crossings of edges with rows in one batch, about 80 bytes each. A zigzag has vertices x rows of them."""


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """A closed outline."""

    points: Points
    """Vertices (x, y), px. The last one is joined to the first."""


@dataclass(frozen=True, kw_only=True)
class Ellipse:
    """A circle or an ellipse."""

    x: float
    """Centre, px."""
    y: float
    """Centre, px."""
    radius_x: float
    """Half axis along x before the rotation, px."""
    radius_y: float
    """Half axis along y before the rotation, px."""
    angle: float = 0.0
    """Rotation from the x axis towards the y axis (clockwise as shown), radians."""


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """A mask of the whole picture as COCO run lengths: column by column, starting with background."""

    width: int
    """Width of the picture, px."""
    height: int
    """Height of the picture, px."""
    counts: tuple[int, ...]
    """Lengths of the runs, background and foreground in turn. Their sum is width x height."""


@dataclass(frozen=True, kw_only=True)
class Bitmap:
    """A mask as a small PNG with its position in the picture. Non-zero is foreground."""

    x: int
    """Left edge, px."""
    y: int
    """Top edge, px."""
    width: int
    """Width of the PNG, px."""
    height: int
    """Height of the PNG, px."""
    png: bytes
    """The PNG file."""


Shape = Polygon | Ellipse | RunLength | Bitmap


def rasterise(shapes: Iterable[Shape], height: int, width: int) -> NDArray[np.bool_]:
    """Return the union of shapes, cropped to the picture.

    Args:
        shapes: the annotated shapes, in pixels of this picture.
        height: height of the picture, px.
        width: width of the picture, px.

    Returns:
        (Y, X) bool.

    Raises:
        AnnotationError: a run-length mask or a PNG does not fit its declared size.

    >>> square = Polygon(points=((0.5, 0.5), (2.5, 0.5), (2.5, 2.5), (0.5, 2.5)))
    >>> rasterise([square], 3, 4).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 0, 0]])
    """
    canvas = np.zeros((height, width), np.bool_)
    for shape in shapes:
        draw_shape(canvas, shape)
    return canvas


def draw_shape(canvas: NDArray[np.bool_], shape: Shape) -> None:
    """Set the pixels of one shape in a (Y, X) bool canvas, in place. See `rasterise`."""
    match shape:
        case Polygon():
            _draw_polygon(canvas, np.array(shape.points, np.float64))
        case Ellipse():
            _draw_ellipse(canvas, shape)
        case RunLength():
            canvas |= _decode_run_length(shape, canvas.shape)
        case Bitmap():
            _draw_bitmap(canvas, shape)


def _window(canvas: NDArray[np.bool_], x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the pixels that a box touches, cropped to the canvas."""
    height, width = canvas.shape
    left, top = min(max(floor(x0), 0), width), min(max(floor(y0), 0), height)
    return left, top, max(left, min(ceil(x1), width)), max(top, min(ceil(y1), height))


def _draw_polygon(canvas: NDArray[np.bool_], points: NDArray[np.float64]) -> None:
    """Fill a polygon by parity: each crossing of an edge with a row of centres toggles all pixels to its right.

    Every edge is computed from its upper end, in whichever direction it was drawn. So two polygons that share an edge
    compute bit-identical crossings. An edge crosses the rows with upper y <= centre < lower y, and toggles the pixels
    with centre >= x. These inequalities decide ties.
    """
    left, top, right, bottom = _window(canvas, *points.min(axis=0), *points.max(axis=0))
    following = np.roll(points, -1, axis=0)
    falls = (points[:, 1] <= following[:, 1])[:, None]
    upper, lower = np.where(falls, points, following), np.where(falls, following, points)
    first_row = np.clip(np.ceil(upper[:, 1] - 0.5), top, bottom).astype(np.intp)
    rows_met = np.clip(np.ceil(lower[:, 1] - 0.5), top, bottom).astype(np.intp) - first_row
    height, stride = bottom - top, right - left + 1  # one more column, for crossings right of the window
    toggles = np.zeros(height * stride, np.uint8)  # 8-bit sums wrap at 256, which keeps their parity
    for edges in _batches(rows_met, max(CROSSINGS_AT_ONCE, len(toggles))):
        edge = np.repeat(edges, rows_met[edges])  # (crossings,)
        step = np.arange(len(edge)) - np.repeat(np.cumsum(rows_met[edges]) - rows_met[edges], rows_met[edges])
        row = first_row[edge] + step
        (x0, y0), (x1, y1) = upper[edge].T, lower[edge].T
        x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)  # in this order, ties at binary fractions are exact
        column = np.clip(np.ceil(x - 0.5), left, right).astype(np.intp)
        toggles += np.bincount((row - top) * stride + column - left, minlength=len(toggles)).astype(np.uint8)
    inside = np.cumsum(toggles.reshape(height, stride), axis=1, dtype=np.uint8) & 1 > 0
    canvas[top:bottom, left:right] |= inside[:, :-1]


def _batches(rows_met: NDArray[np.intp], crossings: int) -> list[NDArray[np.intp]]:
    """Split the edges into batches of about `crossings` crossings; one edge may exceed the limit."""
    batch = (np.cumsum(rows_met) - rows_met) // crossings
    return np.split(np.arange(len(rows_met)), np.flatnonzero(np.diff(batch)) + 1)


def _draw_ellipse(canvas: NDArray[np.bool_], shape: Ellipse) -> None:
    """Fill an ellipse: test every centre in its bounding box against its equation."""
    along, across = cos(shape.angle), sin(shape.angle)
    reach_x = hypot(shape.radius_x * along, shape.radius_y * across)
    reach_y = hypot(shape.radius_x * across, shape.radius_y * along)
    box = (shape.x - reach_x, shape.y - reach_y, shape.x + reach_x, shape.y + reach_y)
    left, top, right, bottom = _window(canvas, *box)
    dx = np.arange(left, right) + 0.5 - shape.x  # (X,)
    dy = (np.arange(top, bottom) + 0.5 - shape.y)[:, None]  # (Y, 1)
    u = (dx * along + dy * across) / shape.radius_x
    v = (dy * along - dx * across) / shape.radius_y
    canvas[top:bottom, left:right] |= u * u + v * v < 1


def _decode_run_length(shape: RunLength, size: tuple[int, ...]) -> NDArray[np.bool_]:
    if (shape.height, shape.width) != size:
        raise AnnotationError(
            f"a run-length mask of {shape.width} x {shape.height} px on a picture of {size[1]} x {size[0]} px"
        )
    foreground = np.arange(len(shape.counts)) % 2 == 1
    # the total is checked before anything of its size is allocated
    if sum(shape.counts) != shape.height * shape.width:
        raise AnnotationError(
            f"run lengths that add up to {sum(shape.counts)} px; "
            f"{shape.width} x {shape.height} = {shape.width * shape.height} are needed"
        )
    return np.repeat(foreground, shape.counts).reshape((shape.width, shape.height)).T


def _draw_bitmap(canvas: NDArray[np.bool_], shape: Bitmap) -> None:
    try:
        image = Image.open(io.BytesIO(shape.png), formats=("PNG",))
        if image.size != (shape.width, shape.height):  # from the header, before any pixel is decoded
            raise AnnotationError(
                f"a mask of {image.width} x {image.height} px in a box of {shape.width} x {shape.height} px"
            )
        if shape.width * shape.height > canvas.size:
            raise AnnotationError(f"a mask of {shape.width} x {shape.height} px, larger than its picture")
        pixels = np.asarray(image.convert("L")) > 0
    except AnnotationError:
        raise
    except (OSError, SyntaxError, EOFError, ValueError) as error:  # ValueError: a text chunk unpacks to too much
        raise AnnotationError("a mask that is not a readable PNG") from error
    box = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
    left, top, right, bottom = _window(canvas, *box)
    crop = pixels[top - shape.y : bottom - shape.y, left - shape.x : right - shape.x]
    canvas[top:bottom, left:right] |= crop
