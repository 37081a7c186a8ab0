"""The index of a dataset: a line for each example, one for each file left out, and what makes it reproducible.

DATASET/
  images/<name>        the bytes of the micrograph, untouched
  masks/<name>.png     bit flags: bit i is part i of `parts`; > 0 is the whole cell; upright, as the image is shown
  index.csv            one line an example
  left_out.csv         one line a file that could not be used: file, reason, detail
  dataset.json         written last: its presence says that the dataset is whole

A name that a spreadsheet would calculate has an apostrophe before it in either CSV (`texts.csv_cell`).
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spermseg.errors import DatasetError, ObjectMissingError
from spermseg.storage.filesystem import Location
from spermseg.texts import csv_cell, read_csv_cell

SCHEMA_VERSION = 1
DESCRIPTION = "dataset.json"
INDEX = "index.csv"
LEFT_OUT = "left_out.csv"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One micrograph with its mask: a line of `index.csv`."""

    image: str
    """Its path below `images/`."""
    mask: str
    """Its path below `masks/`."""
    group: str
    """The patient, slide or session that the split does not cut."""
    split: str
    """train, val or test."""
    width: int
    """As shown, px."""
    height: int
    """As shown, px."""
    n_regions: int
    """Annotated regions; 0 is a field without cells."""
    foreground_fraction: float
    """Share of the pixels in the whole-cell mask, 0-1."""
    image_sha256: str
    """Digest of the image file."""
    mask_sha256: str
    """Digest of the mask file."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One file that could not be used: a line of `left_out.csv`."""

    file: str
    """The image or annotation file."""
    reason: str
    """The kind of problem, the same words for all of a kind."""
    detail: str
    """What exactly, in one line."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `dataset.json` says."""

    schema_version: int
    """Of this layout."""
    parts: tuple[str, ...]
    """Bit i of a mask is part i."""
    labels: dict[str, str] | None
    """The mapping of labels to parts; None took each label in lower case."""
    split_settings: dict[str, Any]
    """How the split was made: fractions and seed, or the file that gave it."""
    counts: dict[str, int]
    """Examples in each split."""
    left_out: int
    """Files that could not be used."""
    sha256: str
    """The training data digest; see `digest_examples`."""


def read_index(location: Location) -> tuple[Description, tuple[Example, ...]]:
    """Return what a dataset says of itself and its examples, in the order of their names.

    Raises:
        DatasetError: it is not a dataset, is damaged, or was written by a version with another layout.
        StorageError: it could not be read.
    """
    description = _read_description(location)
    try:
        index = location.child(INDEX).read_bytes().decode()
        rows = [
            {name: read_csv_cell(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
            for row in csv.DictReader(io.StringIO(index))
        ]
        examples = tuple(TypeAdapter(list[Example]).validate_python(rows))
    except (ObjectMissingError, ValidationError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{location.uri}: {INDEX} is missing or damaged; prepare the dataset again") from error
    if digest_examples(examples) != description.sha256:
        raise DatasetError(
            f"{location.uri}: {INDEX} does not fit {DESCRIPTION}: it was edited; prepare the dataset again"
        )
    return description, examples


def _read_description(location: Location) -> Description:
    try:
        content = json.loads(location.child(DESCRIPTION).read_bytes())
    except ObjectMissingError as error:
        raise DatasetError(f"{location.uri} is not a dataset: no {DESCRIPTION}; run `spermseg prepare`") from error
    except ValueError as error:
        raise DatasetError(f"{location.uri}: {DESCRIPTION} is damaged; prepare the dataset again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{location.uri} has layout version {version}; version {SCHEMA_VERSION} is needed: prepare it again"
        )
    try:
        return TypeAdapter(Description).validate_python(content)
    except ValidationError as error:
        raise DatasetError(f"{location.uri}: {DESCRIPTION} is damaged; prepare the dataset again") from error


def digest_examples(examples: Iterable[Example]) -> str:
    """Return the training data digest: SHA-256 over the sorted (image digest, mask digest, split) of all examples."""
    lines = sorted(f"{item.image_sha256} {item.mask_sha256} {item.split}\n" for item in examples)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_index(
    location: Location,
    examples: Sequence[Example],
    left_out: Sequence[LeftOut],
    *,
    parts: Sequence[str],
    labels: Mapping[str, str] | None,
    split_settings: Mapping[str, Any],
    splits: Sequence[str],
) -> None:
    """Write the index files of a dataset whose images and masks are in place, `dataset.json` last.

    Args:
        location: the dataset.
        examples: its examples.
        left_out: the files that could not be used.
        parts: bit i of a mask is part i.
        labels: the mapping of labels to parts.
        split_settings: how the split was made.
        splits: the names of all splits, also of empty ones.

    Raises:
        StorageError: it could not be written.
    """
    ordered = tuple(sorted(examples, key=lambda example: example.image))
    description = Description(
        schema_version=SCHEMA_VERSION,
        parts=tuple(parts),
        labels=None if labels is None else dict(labels),
        split_settings=dict(split_settings),
        counts={split: sum(example.split == split for example in ordered) for split in splits},
        left_out=len(left_out),
        sha256=digest_examples(ordered),
    )
    location.child(INDEX).write_bytes(_encode_csv(Example, ordered))
    write_left_out(location, left_out)
    location.child(DESCRIPTION).write_bytes((json.dumps(asdict(description), indent=2) + "\n").encode())


def write_left_out(location: Location, left_out: Sequence[LeftOut]) -> Location:
    """Write which files could not be used, and return where that is said.

    Raises:
        StorageError: it could not be written.
    """
    place = location.child(LEFT_OUT)
    place.write_bytes(_encode_csv(LeftOut, left_out))
    return place


def _encode_csv(kind: type[Example] | type[LeftOut], rows: Sequence[Example | LeftOut]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row)
        writer.writerow({name: csv_cell(cell) if isinstance(cell, str) else cell for name, cell in cells.items()})
    return text.getvalue().encode()
