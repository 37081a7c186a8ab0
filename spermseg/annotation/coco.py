"""COCO JSON, for many pictures: polygons (several form a union), and run-length masks, plain or compressed."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic

from pydantic import BaseModel, NonNegativeInt, PositiveInt, TypeAdapter

from spermseg.annotation.annotation import Annotation, Region
from spermseg.annotation.fields import Coordinate, Fault, Identifier, Item, Several, Source, cut, polygon_of
from spermseg.annotation.rasterise import RunLength, Shape
from spermseg.errors import AnnotationError


class _Identified(BaseModel):
    id: Identifier


class _OfImage(BaseModel):
    image_id: Identifier


class _Image(_Identified):
    file_name: str
    width: PositiveInt | None = None
    height: PositiveInt | None = None


class _Category(_Identified):
    name: str


class _Annotation(_OfImage):
    id: Identifier | None = None
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
# Five bits per character from "0" on, the lowest first. Up to "O" ends a number. Seven characters hold any length.
_COUNTS = re.compile(r"(?:[P-o]{0,6}[0-O])*")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")
"""A whole number, also with a decimal point, as pandas writes it."""


def parse_coco(source: Source, content: Mapping[str, Any]) -> Iterator[Annotation | Fault]:
    """Yield the annotation of each picture, or its fault.

    A faulty entry makes its own picture unusable. If the entry has no valid image id, it makes all pictures unusable.

    Raises:
        AnnotationError: the lists of the file are malformed.
    """
    try:
        file = _File.model_validate(content)
    except ValueError as error:
        raise source.error("", error) from error
    pictures = _Pictures(source, file.images)
    categories = _Ids([(category.id, category.name) for category in file.categories])
    regions: dict[int, list[Region]] = defaultdict(list)
    for index, entry in enumerate(file.annotations):
        try:
            owner, region = _read_region(entry, f"annotations[{index}]", pictures, categories)
            regions[owner].append(region)
        except ValueError as error:
            pictures.blame(entry, source.error(f"annotations[{index}]", error))
    yield from pictures.faults
    for number, image in pictures.usable.items():
        yield Annotation(
            image_name=image.file_name,
            width=image.width,
            height=image.height,
            regions=tuple(regions[number]),
            source=source.name,
        )


class _Ids(Generic[Item]):
    """Items by id. Tools write the same id in different ways: 7, "7", "007" and 7.0."""

    def __init__(self, items: Iterable[tuple[Identifier, Item]]) -> None:
        self._by_text: dict[str, list[Item]] = defaultdict(list)
        self._by_number: dict[int, list[Item]] = defaultdict(list)
        for key, item in items:
            self._by_text[str(key).strip()].append(item)
            if (number := _number(key)) is not None:
                self._by_number[number].append(item)

    def find(self, key: Identifier) -> list[Item]:
        """Return the items of an id; several items mean that the id is ambiguous.

        A number matches all ids of the same value. A text matches the ids of the same text or, if there are none, those
        of the same value.
        """
        number = _number(key)
        same = [] if number is None else self._by_number.get(number, [])
        return same if isinstance(key, int) else self._by_text.get(key.strip()) or same


def _number(key: Identifier) -> int | None:
    written = _WHOLE_NUMBER.fullmatch(str(key).strip())
    return int(written[1]) if written else None


class _Pictures:
    """The pictures of a file, by their index in its list, and their faults."""

    def __init__(self, source: Source, entries: list[Any]) -> None:
        self._source = source
        self._names = [_name_of(entry) for entry in entries]
        self._faults: dict[int, Fault] = {}  # the first fault of each picture
        self._ownerless: AnnotationError | None = None  # of the first annotation without a known picture
        self._images: dict[int, _Image] = {}
        ids: list[tuple[Identifier, int]] = []
        for number, entry in enumerate(entries):
            try:
                ids.append((_Identified.model_validate(entry).id, number))
                self._images[number] = _Image.model_validate(entry)
            except ValueError as error:
                self._accuse([number], source.error(f"images[{number}]", error))
        self._ids = _Ids(ids)
        self._leave_out_duplicates(ids)

    def _leave_out_duplicates(self, ids: Iterable[tuple[Identifier, int]]) -> None:
        """Leave out all pictures that share an id, since their annotations cannot be assigned."""
        for key, number in ids:
            duplicates = self._ids.find(key)
            if len(duplicates) > 1:
                names = " and ".join(repr(cut(self._names[duplicate])) for duplicate in duplicates[:2])
                problem = f"id {cut(str(key))} is there {len(duplicates)} times, for {names}"
                self._accuse([number], self._source.error(f"images[{number}]", problem))

    def owner(self, key: Identifier) -> int:
        """Return the index of the picture with an id.

        Raises:
            ValueError: no picture or several pictures have the id.
        """
        found = self._ids.find(key)
        if len(found) != 1:
            how_many = "no image has" if not found else f"{len(found)} images have"
            raise ValueError(f"{how_many} the id {cut(str(key))}")
        return found[0]

    def blame(self, entry: Any, error: AnnotationError) -> None:
        """Leave out the picture of an unusable annotation. If its picture is unknown, leave out all pictures."""
        try:
            owners = self._ids.find(_OfImage.model_validate(entry).image_id)
        except ValueError:
            owners = []
        if owners:
            self._accuse(owners, error)
        elif self._ownerless is None:
            self._ownerless = error
            everywhere = f"{error.message}; it may be of any picture of the file, so all are left out: correct it"
            self._accuse(range(len(self._names)), AnnotationError(everywhere))

    def _accuse(self, numbers: Iterable[int], error: AnnotationError) -> None:
        for number in numbers:
            self._faults.setdefault(number, Fault(image_name=self._names[number], error=error))

    @property
    def faults(self) -> list[Fault]:
        """One fault for each picture that cannot be used."""
        if self._ownerless and not self._names:
            return [Fault(image_name="", error=self._ownerless)]
        return [self._faults[number] for number in sorted(self._faults)]

    @property
    def usable(self) -> dict[int, _Image]:
        """The pictures without a fault, by index."""
        return {number: image for number, image in self._images.items() if number not in self._faults}


def _name_of(entry: Any) -> str:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _read_region(entry: Any, place: str, pictures: _Pictures, categories: _Ids[str]) -> tuple[int, Region]:
    """Return (the index of the picture, the region)."""
    annotation = _Annotation.model_validate(entry)
    owner = pictures.owner(annotation.image_id)
    labels = set(categories.find(annotation.category_id))
    if len(labels) != 1:
        how_many = f"{len(labels)} categories have" if labels else "no category has"
        raise ValueError(f"{how_many} the id {cut(str(annotation.category_id))}")
    return owner, Region(
        label=labels.pop(), shapes=_shapes(annotation.segmentation), group_id=annotation.id, place=place
    )


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
    """Return the run lengths in COCO's compressed string, which `rleToString` of its `maskApi.c` writes.

    pycocotools decodes directly to a mask, and leaves memory uninitialised if the lengths are too short. The lengths
    that this function returns can be checked first.

    Raises:
        ValueError: the text is no such string.

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
        if len(counts) > 2:  # from the fourth run on, the number is the difference from the run two places before
            value += counts[-2]
        if value < 0:
            raise ValueError("a run-length string with a negative length")
        counts.append(value)
    return tuple(counts)
