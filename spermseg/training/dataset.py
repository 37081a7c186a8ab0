"""A prepared dataset on disk or S3: images as they came, masks as PNG, an index, and what makes it reproducible.

DATASET/
  images/<name>        the bytes of the micrograph, untouched
  masks/<name>.png     bit flags: bit i is part i of `parts`; > 0 is the whole cell; upright, as the image is shown
  index.csv            one line an example
  left_out.csv         one line a file that could not be used: file, reason, detail
  dataset.json         written last: its presence says that the dataset is whole
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from spermseg.errors import DatasetError, MicrographError, ObjectMissingError
from spermseg.micrograph.annotation import HEAD, WHOLE_CELL, Flags
from spermseg.micrograph.decode import decode_micrograph
from spermseg.storage.filesystem import Location

UNIONS = {HEAD: ("acrosome", "nucleus", "vacuole")}
"""Parts that can be read where only their own parts are annotated."""
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
    """Regions drawn; 0 is a field without cells."""
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


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that is open for reading. It pickles, so that every worker reads its own examples."""

    location: Location
    """Where it is."""
    description: Description
    """What its `dataset.json` says."""
    all_examples: tuple[Example, ...]
    """Of every split, in the order of their names."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that a mask holds, sorted."""
        return self.description.parts

    @property
    def classes(self) -> tuple[str, ...]:
        """What can be read of a mask: its parts, `cell`, the union of all, and others that are unions of some."""
        unions = (name for name, members in UNIONS.items() if set(members) & set(self.parts))
        return tuple(dict.fromkeys((WHOLE_CELL, *self.parts, *unions)))

    @property
    def sha256(self) -> str:
        """The training data digest: the same images, masks and split give the same."""
        return self.description.sha256

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have examples."""
        return tuple(split for split, count in self.description.counts.items() if count)

    def examples(self, split: str) -> tuple[Example, ...]:
        """Return the examples of one split, in the order of their names.

        Raises:
            DatasetError: there is no such split, or it is empty.
        """
        found = tuple(example for example in self.all_examples if example.split == split)
        if not found:
            problem = "is empty" if split in self.description.counts else "does not exist"
            have = ", ".join(f"{name} ({self.description.counts[name]})" for name in self.splits)
            raise DatasetError(f"split {split!r} of {self.location.uri} {problem}; it has {have}")
        return found

    def example(self, image: str) -> Example:
        """Return the example of an image by its name, which is in the dataset."""
        return self._by_image[image]

    @cached_property
    def _by_image(self) -> dict[str, Example]:
        return {example.image: example for example in self.all_examples}

    def read_image(self, example: Example) -> NDArray[np.uint8]:
        """Return the pixels of an example's micrograph.

        Returns:
            (Y, X, 3) uint8 RGB, upright.

        Raises:
            DatasetError: the file is missing, or is not the one that was prepared.
            StorageError: it could not be read.
        """
        data = self._read("images", example.image, example.image_sha256)
        try:
            # its size was accepted when the dataset was prepared
            pixels = decode_micrograph(data, max_megapixels=float("inf")).pixels
        except MicrographError as error:
            raise DatasetError(f"image {example.image!r} of {self.location.uri}: {error.message}") from error
        return pixels

    def read_mask(self, example: Example, part: str = WHOLE_CELL) -> NDArray[np.bool_]:
        """Return the mask of one of the `classes`.

        Returns:
            (Y, X) bool, of the size of the image.

        Raises:
            DatasetError: there is no such part, or the file is missing or is not the one that was prepared.
            StorageError: it could not be read.
        """
        if part not in self.classes:
            raise DatasetError(f"got part {part!r}; {self.location.uri} has {', '.join(self.classes)}")
        data = self._read("masks", example.mask, example.mask_sha256)
        flags = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if flags is None or flags.shape != (example.height, example.width):
            raise DatasetError(
                f"mask {example.mask!r} of {self.location.uri} is not a grey PNG of "
                f"{example.width} x {example.height} px; prepare the dataset again"
            )
        if part == WHOLE_CELL:
            return np.asarray(flags > 0)
        members = (part,) if part in self.parts else UNIONS[part]
        bits = sum(1 << self.parts.index(member) for member in members if member in self.parts)
        return (flags.astype(np.uint16) & bits) > 0

    def _read(self, folder: str, name: str, sha256: str) -> bytes:
        try:
            data = self.location.child(folder, name).read_bytes()
        except ObjectMissingError as error:
            raise DatasetError(f"{folder}/{name} of {self.location.uri} is missing; prepare it again") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DatasetError(f"{folder}/{name} of {self.location.uri} has changed since it was prepared")
        return data


def open_dataset(location: Location) -> Dataset:
    """Open a dataset that `prepare_dataset` wrote.

    Raises:
        DatasetError: it is not a dataset, is damaged, or was written by a version with another layout.
        StorageError: it could not be read.
    """
    description = _read_description(location)
    try:
        index = location.child(INDEX).read_bytes().decode()
        examples = tuple(TypeAdapter(list[Example]).validate_python(list(csv.DictReader(io.StringIO(index)))))
    except (ObjectMissingError, ValidationError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{location.uri}: {INDEX} is missing or damaged; prepare the dataset again") from error
    if digest_examples(examples) != description.sha256:
        raise DatasetError(
            f"{location.uri}: {INDEX} does not fit {DESCRIPTION}: it was edited; prepare the dataset again"
        )
    return Dataset(location=location, description=description, all_examples=examples)


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


def encode_mask(flags: Flags) -> bytes:
    """Return bit flags, (Y, X) uint8 or uint16, as the bytes of a grey PNG."""
    written, data = cv2.imencode(".png", flags)
    if not written:
        raise DatasetError(f"a mask of {flags.shape[1]} x {flags.shape[0]} px could not be written as PNG")
    return data.tobytes()


def write_index(
    location: Location,
    examples: Sequence[Example],
    left_out: Sequence[LeftOut],
    *,
    parts: Sequence[str],
    labels: Mapping[str, str] | None,
    split_settings: Mapping[str, Any],
    splits: Sequence[str],
) -> Dataset:
    """Write the index files of a dataset whose images and masks are in place, `dataset.json` last.

    Args:
        location: the dataset.
        examples: its examples.
        left_out: the files that could not be used.
        parts: bit i of a mask is part i.
        labels: the mapping of labels to parts.
        split_settings: how the split was made.
        splits: the names of all splits, also of empty ones.

    Returns:
        The dataset, open.

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
    location.child(LEFT_OUT).write_bytes(_encode_csv(LeftOut, left_out))
    location.child(DESCRIPTION).write_bytes((json.dumps(asdict(description), indent=2) + "\n").encode())
    return Dataset(location=location, description=description, all_examples=ordered)


def _encode_csv(kind: type[Example] | type[LeftOut], rows: Sequence[Example | LeftOut]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue().encode()
