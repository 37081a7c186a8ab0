"""What the parsers of annotation files share: the file being read, its errors, and values that pass a check."""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from spermseg.annotation.rasterise import Polygon
from spermseg.errors import AnnotationError

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Identifier = int | str
Item = TypeVar("Item")
Several = Annotated[list[Item], Field(fail_fast=True)]
"""A list of which only the first error is kept: only that is told, and a million of them take all memory."""


LONGEST_TEXT = 120
"""Characters of a file's own words in a message."""


def cut(text: str) -> str:
    """Return a text of the file's as a message shows it, which has no end where the file's text has none.

    >>> len(cut("a" * 5000))
    120
    """
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}..."


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A picture whose annotation cannot be used, while the rest of the file may."""

    image_name: str
    """As the file names it; empty where it does not."""
    error: AnnotationError
    """What is wrong, in one line with the file and the place."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The file that is being read."""

    name: str
    """Its name, for errors."""
    label_attribute: str | None = None
    """The attribute of a VIA region that is its label; None looks for it."""

    def error(self, place: str, problem: object) -> AnnotationError:
        """Return an error in one line that names the file and the place; pydantic's gives its own place too."""
        if isinstance(problem, ValidationError):
            first = problem.errors(include_url=False, include_input=False)[0]
            place += "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
            problem = "an object is needed" if first["type"] == "model_type" else cut(first["msg"])
        where = f"{cut(place.lstrip('.'))}: " if place else ""
        return AnnotationError(f"{self.name}: {where}{' '.join(str(problem).split())}")


def polygon_of(points: list[tuple[float, float]]) -> Polygon:
    """Return a polygon of (x, y) vertices.

    Raises:
        ValueError: fewer than 3 of them.
    """
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points; at least 3 are needed")
    return Polygon(points=tuple(points))


def rectangle_of(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Return an upright rectangle from two opposite corners."""
    return Polygon(points=((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
