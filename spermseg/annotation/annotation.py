"""Annotations of a micrograph: its regions, checks against the picture, and masks for each part.

Coordinates are pixels, x to the right and y down, with (0, 0) at the top left corner of the top left pixel. `rasterise`
defines which pixels a shape covers.

A picture with an EXIF rotation is shown rotated. The coordinates of an annotation refer to this shown picture, as in
LabelMe and browsers. If the declared size fits only the stored picture, the coordinates refer to the stored picture,
and the masks are rotated with it. If both sizes fit (a square picture, or one rotated by 180 degrees), the coordinates
refer to the shown picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.fields import cut
from spermseg.annotation.rasterise import Bitmap, Ellipse, Points, Polygon, RunLength, Shape, draw_shape
from spermseg.errors import AnnotationError
from spermseg.micrograph.header import Header
from spermseg.micrograph.orientation import TRANSPOSING_ORIENTATIONS, upright
from spermseg.texts import composed

Flags = NDArray[np.unsignedinteger[Any]]
"""(Y, X), one bit for each part."""
WHOLE_CELL = "cell"
"""The union of all parts; also the part of a region without a label."""
HEAD = "head"
IGNORED = ("", "ignore")
"""Regions whose label is mapped to one of these are ignored."""
OUTSIDE_TOLERANCE = 2.0
"""How far a vertex may lie outside the picture, px. Annotators overshoot the border by a fraction of a pixel."""
MAX_PARTS = 16
"""Limit on the parts: one bit for each in a 16-bit PNG."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One labelled region."""

    label: str
    """As the annotator wrote it; empty if there is none."""
    shapes: tuple[Shape, ...]
    """The region is their union."""
    group_id: int | str | None = None
    """The cell that the region belongs to, if the annotation says so."""
    place: str
    """Place in the file, such as `shapes[3]`."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """All annotated regions of one micrograph."""

    image_name: str
    """Name of the picture in the annotation, often with a path; may be empty."""
    width: int | None
    """Declared width of the picture, px; None if the format has none."""
    height: int | None
    """Declared height of the picture, px; None if the format has none."""
    regions: tuple[Region, ...]
    """Empty for a field of view without cells."""
    source: str
    """Name of the annotation file."""

    def fault(self, region: Region, problem: str) -> AnnotationError:
        """Return an error that names the file, the place, the label and the picture."""
        label = f" ({cut(region.label)})" if region.label else ""
        return AnnotationError(f"{self.source}: {cut(region.place)}{label} of {cut(self.image_name)!r}: {problem}")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The picture that the coordinates of an annotation refer to."""

    width: int
    """px."""
    height: int
    """px."""
    orientation: int = 1
    """EXIF orientation to apply to the masks of the shapes; 1 for none."""


def annotated_frame(annotation: Annotation, header: Header) -> Frame:
    """Return the frame that the coordinates of an annotation refer to.

    Raises:
        AnnotationError: the declared size, or that of a run-length mask, fits neither the shown nor the stored picture.
    """
    shown, stored = (header.width, header.height), (header.width, header.height)
    if header.orientation in TRANSPOSING_ORIENTATIONS:
        stored = (header.height, header.width)
    declared = _declared_sizes(annotation)
    if declared <= {shown}:
        return Frame(width=shown[0], height=shown[1])
    if declared == {stored}:
        return Frame(width=stored[0], height=stored[1], orientation=header.orientation)
    width, height = min(declared - {shown})
    raise AnnotationError(
        f"{annotation.source}: annotated on {width} x {height} px, but {cut(annotation.image_name)!r} "
        f"has {shown[0]} x {shown[1]} px"
    )


def _declared_sizes(annotation: Annotation) -> set[tuple[int, int]]:
    shapes = (shape for region in annotation.regions for shape in region.shapes)
    sizes = {(shape.width, shape.height) for shape in shapes if isinstance(shape, RunLength)}
    if annotation.width is not None and annotation.height is not None:
        sizes.add((annotation.width, annotation.height))
    return sizes


def check_inside(annotation: Annotation, frame: Frame) -> None:
    """Check that the annotated shapes lie on the picture.

    A vertex, or the centre of an ellipse, may lie outside by `OUTSIDE_TOLERANCE`. Masks are cropped to the picture.

    Raises:
        AnnotationError: a vertex lies further outside, or a whole region lies outside.
    """
    for region in annotation.regions:
        corners = [corner for shape in region.shapes for corner in _vertices(shape)]
        if not corners:
            continue
        worst = max(max(-x, -y, x - frame.width, y - frame.height) for x, y in corners)
        if worst > OUTSIDE_TOLERANCE:
            raise annotation.fault(
                region,
                f"{worst:.1f} px outside the {frame.width} x {frame.height} picture; "
                f"at most {OUTSIDE_TOLERANCE:g} px are accepted",
            )
        x, y = np.array(corners).T
        if x.max() < 0 or y.max() < 0 or x.min() > frame.width or y.min() > frame.height:
            raise annotation.fault(region, f"lies outside the {frame.width} x {frame.height} picture")


def _vertices(shape: Shape) -> Points:
    match shape:
        case Polygon():
            return shape.points
        case Ellipse():
            return ((shape.x, shape.y),)
        case Bitmap():
            return ((shape.x, shape.y), (shape.x + shape.width, shape.y + shape.height))
        case RunLength():  # of the size of the picture, as `annotated_frame` checks
            return ()


def part_of(annotation: Annotation, region: Region, labels: Mapping[str, str] | None) -> str | None:
    """Return the part that a region shows, or None for a region to ignore.

    Args:
        annotation: the annotation of the region, for the error.
        region: the region.
        labels: label -> part, or "" or "ignore" for no part; None takes each label, in lower case, as the part.

    Raises:
        AnnotationError: the label is not in `labels`.
    """
    if labels is None:
        return composed(region.label.strip().lower()) or WHOLE_CELL
    labels, label = {composed(name): part for name, part in labels.items()}, composed(region.label)
    if label not in labels:
        known = ", ".join(sorted(labels))
        raise annotation.fault(
            region, f"unknown label {cut(region.label)!r}; the mapping of labels to parts has {known}"
        )
    part = labels[label]
    return None if part in IGNORED else part


def list_parts(annotations: Iterable[Annotation], labels: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the sorted parts of a set of annotations. Bit i of a mask is part i.

    Raises:
        AnnotationError: a label is unknown, or there are more than `MAX_PARTS` parts.
    """
    if labels is None:
        found = {part_of(item, region, None) for item in annotations for region in item.regions}
    else:
        found = {None if part in IGNORED else part for part in labels.values()}
    parts = tuple(sorted(part for part in found if part is not None))
    if len(parts) > MAX_PARTS:
        raise AnnotationError(
            f"{len(parts)} different parts ({cut(', '.join(parts[:4]))}, ...); a mask holds {MAX_PARTS}: "
            "map several labels to one part"
        )
    return parts


def part_flags(annotation: Annotation, frame: Frame, parts: Sequence[str], labels: Mapping[str, str] | None) -> Flags:
    """Return the mask of all parts as bit flags. Bit i is part i, parts may overlap, and > 0 is the whole cell.

    Args:
        annotation: the annotated regions.
        frame: from `annotated_frame`.
        parts: from `list_parts`.
        labels: label -> part; see `part_of`.

    Returns:
        (Y, X) uint8, or uint16 for more than 8 parts, upright.

    Raises:
        AnnotationError: a label is unknown, or an embedded mask cannot be read.
    """
    kind: type[np.unsignedinteger[Any]] = np.uint8 if len(parts) <= 8 else np.uint16
    flags: Flags = np.zeros((frame.height, frame.width), kind)
    for bit, part in enumerate(parts):
        regions = [region for region in annotation.regions if part_of(annotation, region, labels) == part]
        if regions:
            flags[_draw_regions(annotation, regions, frame)] |= kind(1 << bit)
    return upright(flags, frame.orientation)


def _draw_regions(annotation: Annotation, regions: Iterable[Region], frame: Frame) -> NDArray[np.bool_]:
    canvas = np.zeros((frame.height, frame.width), np.bool_)
    for region in regions:
        try:
            for shape in region.shapes:
                draw_shape(canvas, shape)
        except AnnotationError as error:
            raise annotation.fault(region, error.message) from error
    return canvas
