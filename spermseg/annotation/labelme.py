"""LabelMe JSON, one file for each picture: polygon, rectangle, circle and mask shapes."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from math import hypot
from typing import Any

from pydantic import BaseModel, Field, PositiveInt

from spermseg.annotation.annotation import Annotation, Region
from spermseg.annotation.fields import (
    Coordinate,
    Fault,
    Identifier,
    Several,
    Source,
    cut,
    polygon_of,
    rectangle_of,
)
from spermseg.annotation.rasterise import Bitmap, Ellipse, Shape


class _LabelMeShape(BaseModel):
    label: str = ""
    points: Several[tuple[Coordinate, Coordinate]]
    group_id: Identifier | None = None
    shape_type: str = "polygon"  # the first versions had only polygons
    mask: str | None = None


class _LabelMeFile(BaseModel):
    shapes: Several[_LabelMeShape]
    image_path: str = Field("", alias="imagePath")
    image_width: PositiveInt | None = Field(None, alias="imageWidth")
    image_height: PositiveInt | None = Field(None, alias="imageHeight")


def parse_labelme(source: Source, content: Mapping[str, Any]) -> Iterator[Annotation | Fault]:
    """Yield the annotation of the picture, or its fault."""
    place = ""
    try:
        file = _LabelMeFile.model_validate(content)
        regions = []
        for index, shape in enumerate(file.shapes):
            place = f"shapes[{index}]"
            shapes = (_labelme_shape(shape),)
            regions.append(Region(label=shape.label, shapes=shapes, group_id=shape.group_id, place=place))
    except ValueError as error:
        name = content.get("imagePath")
        yield Fault(image_name=name if isinstance(name, str) else "", error=source.error(place, error))
        return
    yield Annotation(
        image_name=file.image_path,
        width=file.image_width,
        height=file.image_height,
        regions=tuple(regions),
        source=source.name,
    )


def _labelme_shape(shape: _LabelMeShape) -> Shape:
    match shape.shape_type, shape.points:
        case "rectangle", [(x0, y0), (x1, y1)]:
            return rectangle_of(x0, y0, x1, y1)
        case "polygon" | "rectangle", points:  # a rectangle with four corners may be rotated
            return polygon_of(points)
        case "circle", [(x, y), (on_x, on_y)]:
            radius = hypot(on_x - x, on_y - y)
            if radius == 0:
                raise ValueError("a circle without a radius")
            return Ellipse(x=x, y=y, radius_x=radius, radius_y=radius)
        case "mask", [(x0, y0), (x1, y1)]:
            left, top, right, bottom = round(x0), round(y0), round(x1), round(y1)  # both corners are inside the mask
            png = _decode_base64(shape.mask)
            return Bitmap(x=left, y=top, width=right - left + 1, height=bottom - top + 1, png=png)
        case kind, points:
            raise ValueError(
                f"shape type {cut(kind)!r} with {len(points)} points; "
                "a polygon, rectangle, circle or mask is needed, since it has an area"
            )


def _decode_base64(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a mask that is not base64") from error
