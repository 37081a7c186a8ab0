"""Shared by the parsers of annotation files: validated types, the source file and its errors."""

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
"""A list whose validation stops at the first error. A million errors would exhaust memory, and one is reported."""


LONGEST_TEXT = 120
"""Limit on the characters of text from a file in a message."""


def cut(text: str) -> str:
    """Return a text from a file, cut to `LONGEST_TEXT` characters for a message.

    >>> len(cut("a" * 5000))
    120
    """
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}..."


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A picture whose annotation cannot be used. Other annotations of the file may be usable."""

    image_name: str
    """Name of the picture in the file; empty if there is none."""
    error: AnnotationError
    """The error, in one line with the file and the place."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The file that is being read."""

    name: str
    """Its name, for errors."""
    label_attribute: str | None = None
    """The attribute of a VIA region that is its label; None searches the usual names."""

    def error(self, place: str, problem: object) -> AnnotationError:
        """Return an error in one line that names the file and the place. A pydantic error adds its own place."""
        if isinstance(problem, ValidationError):
            first = problem.errors(include_url=False, include_input=False)[0]
            place += "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
            problem = "an object is needed" if first["type"] == "model_type" else cut(first["msg"])
        where = f"{cut(place.lstrip('.'))}: " if place else ""
        return AnnotationError(f"{self.name}: {where}{' '.join(str(problem).split())}")


def polygon_of(points: list[tuple[float, float]]) -> Polygon:
    """Return a polygon of (x, y) vertices.

    Raises:
        ValueError: there are fewer than 3 vertices.
    """
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points; at least 3 are needed")
    return Polygon(points=tuple(points))


def rectangle_of(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Return an upright rectangle from two opposite corners."""
    return Polygon(points=((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
