"""Annotation files -> `Annotation`: LabelMe, VIA (project and export) and COCO, recognised by their content.

The files are untrusted, so every value is validated. An error names the file and the place in the file.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from spermseg.annotation.annotation import Annotation
from spermseg.annotation.coco import parse_coco
from spermseg.annotation.fields import Fault, Source, cut
from spermseg.annotation.labelme import parse_labelme
from spermseg.annotation.via import parse_via
from spermseg.errors import AnnotationError, StorageError
from spermseg.storage.filesystem import Location

MAX_SHAPES = 10_000
"""Limit on the shapes of one picture, which has some hundred cells. A file of 4 MB could hold 50,000 shapes, and each
takes time to rasterise."""

FaultHandler = Callable[[str, AnnotationError], None]


def read_annotations(
    path: Path, *, label_attribute: str | None = None, on_fault: FaultHandler | None = None
) -> list[Annotation]:
    """Read an annotation file of any known format.

    Args:
        path: the JSON file.
        label_attribute: the attribute of a VIA region that is its label; None takes the only one, or else the first
            of `via.LABEL_ATTRIBUTES`.
        on_fault: called with (image name, error) for each picture whose annotation cannot be used. The other pictures
            of the file are returned. None raises the first error instead.

    Returns:
        One annotation for each picture, in the order of the file.

    Raises:
        AnnotationError: the file cannot be read, has another format, or (without `on_fault`) is malformed.
    """
    annotations = []
    source = Source(name=path.name, label_attribute=label_attribute)
    for item in (_bounded(source, item) for item in _parse(source, _read_json(path))):
        if isinstance(item, Annotation):
            annotations.append(item)
        elif on_fault is None:
            raise item.error
        else:
            on_fault(item.image_name, item.error)
    return annotations


def _bounded(source: Source, item: Annotation | Fault) -> Annotation | Fault:
    if isinstance(item, Fault):
        return item
    shapes = sum(len(region.shapes) for region in item.regions)
    if shapes <= MAX_SHAPES:
        return item
    problem = (
        f"{shapes} shapes on {cut(item.image_name)!r}; at most {MAX_SHAPES} are accepted: take out the repeated ones"
    )
    return Fault(image_name=item.image_name, error=source.error("", problem))


def _read_json(path: Path) -> Any:
    try:
        data = Location(str(path.absolute())).read_bytes()
        data = data.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that Windows tools write
        content = from_json(data)
        json.loads(data, object_pairs_hook=_check_keys)
    except StorageError as error:
        raise AnnotationError(f"{path.name}: could not be read: {error.message}") from error
    except ValueError as error:
        raise AnnotationError(f"{path.name}: not JSON: {error}") from error
    return content


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    """Raise ValueError if an object has a key twice. A JSON parser would silently keep the last value."""
    if len(dict(pairs)) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has {cut(twice)!r} twice; keep one")


def _parse(source: Source, content: Any) -> Iterator[Annotation | Fault]:
    if isinstance(content, dict):
        if "_via_img_metadata" in content:
            return parse_via(source, content["_via_img_metadata"])
        if "shapes" in content:
            return parse_labelme(source, content)
        if "images" in content and "annotations" in content:
            return parse_coco(source, content)
        if content and all(isinstance(item, dict) and "regions" in item for item in content.values()):
            return parse_via(source, content)
    keys = ", ".join(list(content)[:4]) if isinstance(content, dict) else ""
    found = f"an object with {cut(keys) or 'nothing'}" if isinstance(content, dict) else "no object"
    raise AnnotationError(f"{source.name}: got {found}; a LabelMe, VIA or COCO annotation file is needed")
