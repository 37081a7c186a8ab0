"""COCO's JSON, for many pictures: polygons (several are a union) and run lengths, plain or as COCO's string."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, NonNegativeInt, PositiveInt, TypeAdapter

from spermseg.micrograph.annotation import Annotation, Region
from spermseg.micrograph.annotation_fields import Coordinate, Fault, Identifier, Several, Source, cut, polygon_of
from spermseg.micrograph.rasterise import RunLength, Shape


class _Image(BaseModel):
    id: Identifier
    file_name: str
    width: PositiveInt | None = None
    height: PositiveInt | None = None


class _Category(BaseModel):
    id: Identifier
    name: str


class _Annotation(BaseModel):
    id: Identifier | None = None
    image_id: Identifier
    category_id: Identifier
    segmentation: Any


class _RunLength(BaseModel):
    size: tuple[PositiveInt, PositiveInt]
    counts: str | Several[NonNegativeInt]


class _File(BaseModel):
    images: list[Any]
    annotations: list[Any]
    categories: Several[_Category] = []


_POLYGONS = TypeAdapter(Several[Several[Coordinate]])
# Five bits a character from "0" on, least first; "P" and above say that more follow. Seven hold any length.
_COUNTS = re.compile(r"(?:[P-o]{0,6}[0-O])*")


def parse_coco(source: Source, content: Mapping[str, Any]) -> Iterator[Annotation | Fault]:
    """Yield each picture's annotation; a faulty entry costs only its own picture.

    Raises:
        AnnotationError: the file's own lists are malformed.
    """
    try:
        file = _File.model_validate(content)
    except ValueError as error:
        raise source.error("", error) from error
    images, faults = _read_images(source, file.images)
    regions, more_faults = _read_regions(source, file, images)
    yield from (*faults, *more_faults)
    useless = {fault.image_name for fault in more_faults}
    for key, image in images.items():
        if image.file_name not in useless:
            yield Annotation(
                image_name=image.file_name,
                width=image.width,
                height=image.height,
                regions=tuple(regions[key]),
                source=source.name,
            )


def _read_images(source: Source, entries: list[Any]) -> tuple[dict[Identifier, _Image], list[Fault]]:
    images: dict[Identifier, _Image] = {}
    faults = []
    for index, entry in enumerate(entries):
        try:
            image = _Image.model_validate(entry)
            if image.id in images:
                raise ValueError(f"id {cut(str(image.id))} is there twice")
            images[image.id] = image
        except ValueError as error:
            name = entry.get("file_name") if isinstance(entry, dict) else None
            named = name if isinstance(name, str) else ""
            faults.append(Fault(image_name=named, error=source.error(f"images[{index}]", error)))
    return images, faults


def _read_regions(
    source: Source, file: _File, images: Mapping[Identifier, _Image]
) -> tuple[dict[Identifier, list[Region]], list[Fault]]:
    labels = {category.id: category.name for category in file.categories}
    regions: dict[Identifier, list[Region]] = {key: [] for key in images}
    faults: dict[str, Fault] = {}  # the first of each picture
    for index, entry in enumerate(file.annotations):
        place = f"annotations[{index}]"
        key = entry.get("image_id") if isinstance(entry, dict) else None
        try:
            annotation = _Annotation.model_validate(entry)
            if annotation.image_id not in images:
                raise ValueError(f"no image has the id {cut(str(annotation.image_id))}")
            if annotation.category_id not in labels:
                raise ValueError(f"no category has the id {cut(str(annotation.category_id))}")
            region = Region(
                label=labels[annotation.category_id],
                shapes=_shapes(annotation.segmentation),
                group_id=annotation.id,
                place=place,
            )
            regions[annotation.image_id].append(region)
        except ValueError as error:
            name = images[key].file_name if isinstance(key, int | str) and key in images else ""
            faults.setdefault(name, Fault(image_name=name, error=source.error(place, error)))
    return regions, list(faults.values())


def _shapes(segmentation: Any) -> tuple[Shape, ...]:
    if isinstance(segmentation, dict):
        run_length = _RunLength.model_validate(segmentation)
        height, width = run_length.size
        counts = run_length.counts
        plain = decode_counts(counts) if isinstance(counts, str) else tuple(counts)
        return (RunLength(width=width, height=height, counts=plain),)
    polygons = _POLYGONS.validate_python(segmentation)
    if not polygons:
        raise ValueError("a segmentation without a polygon")
    return tuple(_polygon(numbers) for numbers in polygons)


def _polygon(numbers: list[float]) -> Shape:
    if len(numbers) % 2:
        raise ValueError(f"a polygon of {len(numbers)} numbers; x and y in turn are needed")
    return polygon_of(list(zip(numbers[::2], numbers[1::2], strict=True)))


def decode_counts(text: str) -> tuple[int, ...]:
    """Return the run lengths in COCO's string, as written by `rleToString` of its `maskApi.c`.

    pycocotools decodes straight to a mask, and leaves uninitialised memory where the lengths fall short of it; the
    lengths themselves can be checked.

    Raises:
        ValueError: not such a string.

    >>> decode_counts("04")
    (0, 4)
    """
    if not _COUNTS.fullmatch(text):
        raise ValueError("a run-length string that is not COCO's")
    counts: list[int] = []
    for run in re.findall("[P-o]*[0-O]", text):
        digits = [ord(character) - 48 for character in run]
        value = sum((digit & 31) << 5 * place for place, digit in enumerate(digits))
        if digits[-1] & 16:
            value -= 1 << 5 * len(digits)
        if len(counts) > 2:  # from the fourth on: the difference from the run before the last
            value += counts[-2]
        if value < 0:
            raise ValueError("a run-length string with a negative length")
        counts.append(value)
    return tuple(counts)
