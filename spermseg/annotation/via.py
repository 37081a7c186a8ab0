"""JSON of the VGG Image Annotator (VIA), for many pictures: polygon, rectangle, circle and ellipse regions."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from spermseg.annotation.annotation import Annotation, Region
from spermseg.annotation.fields import (
    Coordinate,
    Fault,
    Length,
    Several,
    Source,
    cut,
    polygon_of,
    rectangle_of,
)
from spermseg.annotation.rasterise import Ellipse, Shape

LABEL_ATTRIBUTES = ("label", "name", "class", "type", "part")
"""Names of the label attribute. If a region has several attributes, the first of these names counts."""


class _ViaPolygon(BaseModel):
    name: Literal["polygon"]
    all_points_x: Several[Coordinate]
    all_points_y: Several[Coordinate]

    def shape(self) -> Shape:
        if len(self.all_points_x) != len(self.all_points_y):
            raise ValueError(f"a polygon of {len(self.all_points_x)} x and {len(self.all_points_y)} y")
        return polygon_of(list(zip(self.all_points_x, self.all_points_y, strict=True)))


class _ViaRectangle(BaseModel):
    name: Literal["rect"]
    x: Coordinate
    y: Coordinate
    width: Length
    height: Length

    def shape(self) -> Shape:
        x0, y0, x1, y1 = self.x, self.y, self.x + self.width, self.y + self.height
        return rectangle_of(x0, y0, x1, y1)


class _ViaCircle(BaseModel):
    name: Literal["circle"]
    cx: Coordinate
    cy: Coordinate
    r: Length

    def shape(self) -> Shape:
        return Ellipse(x=self.cx, y=self.cy, radius_x=self.r, radius_y=self.r)


class _ViaEllipse(BaseModel):
    name: Literal["ellipse"]
    cx: Coordinate
    cy: Coordinate
    rx: Length
    ry: Length
    theta: Coordinate = 0.0

    def shape(self) -> Shape:
        return Ellipse(x=self.cx, y=self.cy, radius_x=self.rx, radius_y=self.ry, angle=self.theta)


class _ViaRegion(BaseModel):
    shape_attributes: Annotated[_ViaPolygon | _ViaRectangle | _ViaCircle | _ViaEllipse, Field(discriminator="name")]
    region_attributes: dict[str, Any] = {}


class _ViaImage(BaseModel):
    filename: str
    regions: Several[_ViaRegion]


def parse_via(source: Source, images: Any) -> Iterator[Annotation | Fault]:
    """Yield the annotation of each picture, or its fault. A faulty entry affects only its own picture.

    Raises:
        AnnotationError: `images` is not a JSON object.
    """
    if not isinstance(images, dict):
        raise source.error("_via_img_metadata", f"got {type(images).__name__}; an object is needed")
    for key, content in images.items():
        yield _via_image(source, key, content)


def _via_image(source: Source, key: str, content: Any) -> Annotation | Fault:
    place = key
    regions = []
    try:
        image = _ViaImage.model_validate(_with_list(content))
        for index, region in enumerate(image.regions):
            place = f"{key}.regions[{index}]"
            label = _via_label(region.region_attributes, source.label_attribute)
            regions.append(Region(label=label, shapes=(region.shape_attributes.shape(),), place=place))
    except ValueError as error:
        name = content.get("filename") if isinstance(content, dict) else None
        return Fault(image_name=name if isinstance(name, str) else "", error=source.error(place, error))
    return Annotation(image_name=image.filename, width=None, height=None, regions=tuple(regions), source=source.name)


def _with_list(content: Any) -> Any:
    """Return the content of a picture with its regions as a list. VIA 1 has an object with numbers as keys."""
    if isinstance(content, dict) and isinstance(content.get("regions"), dict):
        return {**content, "regions": list(content["regions"].values())}
    return content


def _via_label(attributes: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        return _via_choice(attributes.get(wanted, ""))
    if len(attributes) <= 1:
        return _via_choice(next(iter(attributes.values()), ""))
    for known in LABEL_ATTRIBUTES:
        if known in attributes:
            return _via_choice(attributes[known])
    raise ValueError(f"region attributes {cut(', '.join(attributes))}; say which one is the label")


def _via_choice(value: Any) -> str:
    """Return the label from a text, dropdown or radio attribute (a string), or from checkboxes (name -> ticked)."""
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on is True]
        if len(ticked) > 1:
            raise ValueError(f"{len(ticked)} boxes are ticked ({cut(', '.join(ticked))}); one is needed")
        return ticked[0] if ticked else ""
    if not isinstance(value, str):
        raise ValueError(f"a label of type {type(value).__name__}; a string is needed")
    return value
