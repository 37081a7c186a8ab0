"""The index of a dataset: the examples, the files that were left out, and the settings of the preparation.

DATASET/
  images/<name>        the unchanged bytes of the micrograph
  masks/<name>.png     bit flags: bit i is part i of `parts`; > 0 is the whole cell; upright, as the image is shown
  index.csv            one line for each example
  left_out.csv         one line for each file that could not be used: file, reason, detail
  dataset.json         written last, so that a dataset with this file is complete

In both CSV files, a name that a spreadsheet would take for a formula has an apostrophe before it (`texts.csv_cell`).
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
    """Path of the image below `images/`."""
    mask: str
    """Path of the mask below `masks/`."""
    group: str
    """The patient, slide or session. All examples of a group are in the same split."""
    split: str
    """train, val or test."""
    width: int
    """Width of the upright image, px."""
    height: int
    """Height of the upright image, px."""
    n_regions: int
    """Number of annotated regions; 0 for a field of view without cells."""
    foreground_fraction: float
    """Share of the pixels that are in the whole-cell mask, 0-1."""
    image_sha256: str
    """SHA-256 of the image file."""
    mask_sha256: str
    """SHA-256 of the mask file."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One file that could not be used: a line of `left_out.csv`."""

    file: str
    """The image or annotation file."""
    reason: str
    """The kind of problem, in fixed words."""
    detail: str
    """The exact problem, in one line."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of `dataset.json`."""

    schema_version: int
    """Version of this layout."""
    parts: tuple[str, ...]
    """Bit i of a mask is part i."""
    labels: dict[str, str] | None
    """Label -> part; None if each label, in lower case, is its own part."""
    split_settings: dict[str, Any]
    """How the split was made: from fractions and seed, or from a CSV file."""
    counts: dict[str, int]
    """Number of examples in each split."""
    left_out: int
    """Number of files that could not be used."""
    sha256: str
    """The training data digest. See `digest_examples`."""


def read_index(location: Location) -> tuple[Description, tuple[Example, ...]]:
    """Return (the description of a dataset, its examples, sorted by image name).

    Raises:
        DatasetError: the location holds no dataset, a damaged one, or one with another schema version.
        StorageError: a file could not be read.
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
    """Return the training data digest: SHA-256 of the sorted (image SHA-256, mask SHA-256, split) of all examples."""
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
    """Write the index files of a dataset, `dataset.json` last. The images and masks must be written before.

    Args:
        location: the dataset.
        examples: its examples.
        left_out: the files that could not be used.
        parts: bit i of a mask is part i.
        labels: label -> part.
        split_settings: how the split was made.
        splits: the names of all splits, including empty ones.

    Raises:
        StorageError: a file could not be written.
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
    """Write the list of files that could not be used, and return its location.

    Raises:
        StorageError: the list could not be written.
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
