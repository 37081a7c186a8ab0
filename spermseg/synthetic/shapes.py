"""The geometry of synthetic sperm cells: outlines of their parts as exact polygons with sub-pixel vertices.

Lengths are px at scale 1, where a head is about 80 px long, as with a 100x objective on a 1280 x 1024 camera. Points
are (x, y). The pixel (x, y) covers [x, x + 1) x [y, y + 1), so the square from (10, 10) to (20, 20) covers exactly the
pixels 10 to 19.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from matplotlib.path import Path as OutlinePath
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from spermseg.annotation.rasterise import Polygon

Points = NDArray[np.float64]
"""(N, 2) float64, one (x, y) a vertex, px."""

HEAD, ACROSOME, NUCLEUS, VACUOLE, MIDPIECE, TAIL = (
    "Head",
    "Acrosome",
    "Nucleus",
    "Vacuole",
    "Midpiece",
    "Tail",
)
STEP = 4.0  # px between the points of a centreline
LEAST_RADIUS = 18.0  # px; a ribbon of 13 px cannot fold over itself in a bend of this radius
PIECE_TURN = 2.5  # rad; a curve that turns by less than pi in total cannot cross itself
HEAD_INSET = 4.0  # px that the midpiece reaches into the head, so that there is no gap between the two
LEAST_AREA = 4.0  # px2; a part that is clipped to less than this gets no label


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One part of one synthetic cell."""

    label: str
    """Head, Acrosome, Nucleus, Vacuole, Midpiece or Tail."""
    group_id: int
    """The number of the cell."""
    points: Points = field(repr=False)
    """(N, 2) float64, the (x, y) vertices of a simple polygon, px. The last vertex connects to the first one."""

    @property
    def area(self) -> float:
        """The exact area, px2."""
        return abs(signed_area(self.points))

    def outline(self, finer: int = 1) -> Polygon:
        """Return the polygon in px of a grid that has `finer` pixels along each axis of a pixel of the micrograph."""
        return Polygon(points=tuple((x, y) for x, y in (self.points * finer).tolist()))


@dataclass(frozen=True, kw_only=True)
class CellForm:
    """What the cells of a picture look like. Each cell varies around these values."""

    heads: tuple[float, float, float, float] = (0.62, 0.18, 0.08, 0.12)
    """Shares of oval, tapered, round and amorphous heads; their sum is 1."""
    tail_length: float = 1.0
    """Factor; 1 makes tails of about 720 px."""
    tail_width: float = 1.0
    """Factor, also of the midpiece; 1 makes tails of about 10 px where they are widest."""
    curled: float = 0.2
    """Share of the tails that curl up."""
    waviness: float = 1.0
    """How far tails deviate from a straight line; 0 makes straight tails."""
    tailless: float = 0.03
    """Share of the cells without a tail."""


def signed_area(points: Points) -> float:
    """Return the area of a polygon, px2; it is positive where the vertices run clockwise on the screen.

    >>> float(signed_area(np.array([[10.0, 10], [20, 10], [20, 20], [10, 20]])))
    100.0
    """
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def draw_cell(
    rng: np.random.Generator,
    centre: tuple[float, float],
    scale: float,
    group_id: int,
    form: CellForm = CellForm(),
) -> list[Shape]:
    """Return the parts of one cell, not yet clipped to a picture.

    Args:
        rng: random numbers for the cell's form.
        centre: the middle of its head, px.
        scale: size of the cell; 1 makes a head of about 80 px.
        group_id: the number of the cell.
        form: what the cells of the picture look like.
    """
    local = list(_parts_of_head(rng, form))
    half_neck = rng.uniform(7.0, 11.0) * form.tail_width
    local += _draw_flagellum(rng, np.array([HEAD_INSET, 0.0]), half_neck, form)
    angle = rng.uniform(0, 2 * np.pi)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array([np.ptp(local[0][1][:, 0]) / 2, 0.0])
    return [Shape(label=label, group_id=group_id, points=(points - middle) @ turn + centre) for label, points in local]


def _parts_of_head(rng: np.random.Generator, form: CellForm) -> Iterator[tuple[str, Points]]:
    """Yield (label, outline) of the head and its inner parts. Its base is at (0, 0), its tip on the positive x axis."""
    outline = draw_head(rng, form)
    yield HEAD, outline
    half_cap = round(len(outline) * rng.uniform(0.16, 0.27))  # vertices from the tip to the acrosome's edge
    yield ACROSOME, np.concatenate([outline[-half_cap:], outline[: half_cap + 1]])
    yield NUCLEUS, outline[half_cap : len(outline) - half_cap + 1]
    width = np.ptp(outline[:, 1])
    for _ in range(rng.choice(4, p=[0.45, 0.3, 0.15, 0.1])):
        middle = outline.mean(axis=0) + rng.uniform(-0.22, 0.22, 2) * width
        yield VACUOLE, blob(rng, middle, rng.uniform(0.05, 0.11) * width, points=16)


def draw_head(rng: np.random.Generator, form: CellForm) -> Points:
    """Return the outline of one head: oval, tapered, round or amorphous. The first vertex is the tip.

    The forms and their names follow the WHO laboratory manual (6th edition, 2021), section 2.4.8.
    """
    kind = rng.choice(["oval", "tapered", "round", "amorphous"], p=form.heads)
    length = rng.normal(82.0, 6.0)
    ratio = {"oval": 0.66, "tapered": 0.56, "round": 0.9, "amorphous": 0.72}[kind] + rng.normal(0, 0.03)
    taper = {"oval": 0.14, "tapered": 0.42, "round": 0.05, "amorphous": 0.2}[kind] + rng.normal(0, 0.05)
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = length / 2 * (1 + np.cos(t))
    y = length * ratio / 2 * np.sin(t) * (1 + taper * np.cos(t))
    bump = 0.09 if kind == "amorphous" else 0.012
    middle = np.array([length / 2, 0.0])
    outline: Points = (np.column_stack([x, y]) - middle) * _wave(rng, t, bump)[:, None] + middle
    return outline


def blob(rng: np.random.Generator, centre: Points, radius: float, points: int = 24, rough: float = 0.08) -> Points:
    """Return a roundish outline, (points, 2), of this radius, px; `rough` is its deviation from a circle."""
    t = np.linspace(0, 2 * np.pi, points, endpoint=False)
    outline: Points = centre + radius * _wave(rng, t, rough)[:, None] * np.column_stack([np.cos(t), np.sin(t)])
    return outline


def _wave(rng: np.random.Generator, t: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Return a smooth random factor near 1 for each angle, rad; `size` is its deviation from 1."""
    orders = np.array([2, 3, 4])
    heights = rng.normal(0, size, 3) / orders
    return np.asarray(1 + heights @ np.cos(orders[:, None] * t + rng.uniform(0, 2 * np.pi, (3, 1))))


def _draw_flagellum(
    rng: np.random.Generator, base: Points, half_neck: float, form: CellForm
) -> list[tuple[str, Points]]:
    """Return (label, outline) of the midpiece and of the pieces of the tail."""
    midpiece_steps = max(6, round(rng.normal(84.0, 10.0) / STEP))
    lengths = [rng.normal(720.0, 120.0), rng.uniform(60.0, 250.0), 0.0]
    tail_length = form.tail_length * rng.choice(lengths, p=[0.93 - form.tailless, 0.07, form.tailless])
    steps = midpiece_steps + max(0, round(tail_length / STEP))
    line, turned = draw_centreline(rng, base, steps, still_steps=midpiece_steps, form=form)
    along = np.arange(steps + 1)
    half_tail = rng.uniform(4.2, 6.2) * form.tail_width
    narrowing = np.clip((along - midpiece_steps) / max(1, steps - midpiece_steps), 0, 1)
    half_width = half_tail * (1 - 0.7 * narrowing**1.3)
    half_width = half_width + (half_neck - half_tail) * np.exp(-along / 4.0)
    left, right = offset_curves(line, half_width)
    parts = [(MIDPIECE, _ribbon(left, right, 0, midpiece_steps))]
    start = midpiece_steps
    while start < steps:
        end = int(np.searchsorted(turned, turned[start] + PIECE_TURN, side="right")) - 1
        parts.append((TAIL, _ribbon(left, right, start, end)))
        start = end
    return parts


def draw_centreline(
    rng: np.random.Generator, start: Points, steps: int, still_steps: int, form: CellForm = CellForm()
) -> tuple[Points, NDArray[np.float64]]:
    """Return a smooth random curve that leaves `start` to the left, and how far it has turned.

    Args:
        rng: random numbers for the curve.
        start: the first point.
        steps: the number of steps, of STEP px each.
        still_steps: the number of first steps in which the curve hardly bends.
        form: waviness, and the share of curled tails.

    Returns:
        The points, (steps + 1, 2), and for each point the sum of the absolute turns so far, rad.
    """
    knots = np.arange(0, steps + 40, 20)
    bends = form.waviness * rng.normal(0, 0.0035, len(knots))  # 1/px
    at = np.arange(steps)
    curvature = np.interp(at, knots, bends)
    if rng.random() < form.curled:
        curvature += rng.choice([-1, 1]) * rng.uniform(0.006, 0.022) * (at / max(1, steps))
    kernel = np.hanning(19)[1:-1]
    curvature = np.convolve(np.pad(curvature, 8, mode="edge"), kernel / kernel.sum(), mode="valid")
    curvature *= np.clip(at / max(1, still_steps), 0.1, 1)
    turns = np.clip(curvature, -1 / LEAST_RADIUS, 1 / LEAST_RADIUS) * STEP
    heading = np.pi + rng.normal(0, 0.2) + np.cumsum(turns)
    moves = STEP * np.column_stack([np.cos(heading), np.sin(heading)])
    line = np.concatenate([[start], start + np.cumsum(moves, axis=0)])
    return line, np.concatenate([[0.0], np.cumsum(np.abs(turns))])


def offset_curves(line: Points, half_width: NDArray[np.float64]) -> tuple[Points, Points]:
    """Return the two parallel curves of a line (N, 2), each (N, 2), at this distance on either side, px."""
    along = np.gradient(line, axis=0)
    normal = np.column_stack([-along[:, 1], along[:, 0]]) / np.linalg.norm(along, axis=1, keepdims=True)
    return line + normal * half_width[:, None], line - normal * half_width[:, None]


def _ribbon(left: Points, right: Points, start: int, end: int) -> Points:
    """Return the ribbon from one step to another. Neighbouring ribbons share an exact edge: no gap and no overlap."""
    return np.concatenate([left[start : end + 1], right[start : end + 1][::-1]])


def clip_to_frame(shapes: list[Shape], height: int, width: int) -> list[Shape]:
    """Return the shapes clipped to a picture of this size, without those of less than `LEAST_AREA`."""
    frame = Bbox([[0, 0], [width, height]])
    kept = []
    for shape in shapes:
        if (shape.points < 0).any() or (shape.points > [width, height]).any():
            ring = OutlinePath(np.vstack([shape.points, shape.points[:1]]), closed=True).clip_to_bbox(frame)
            points = np.asarray(ring.vertices, dtype=np.float64)[:-1]
        else:
            points = shape.points
        if len(points) >= 3 and abs(signed_area(points)) >= LEAST_AREA:
            kept.append(Shape(label=shape.label, group_id=shape.group_id, points=points))
    return kept
