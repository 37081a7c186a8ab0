"""A prepared dataset on disk or S3, open for reading: unchanged micrographs, and masks as PNG with bit flags."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import HEAD, WHOLE_CELL, Flags
from spermseg.dataset.index import Description, Example, read_index
from spermseg.errors import DatasetError, MicrographError, ObjectMissingError
from spermseg.micrograph.decode import Micrograph, decode_micrograph
from spermseg.micrograph.tiling import View
from spermseg.storage.filesystem import Location

UNIONS = {HEAD: ("nucleus", "acrosome", "vacuole")}
"""Class -> the parts whose union it is. The class can be read if the first part, the largest, is annotated."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that is open for reading. It pickles, so that each worker can read its own examples."""

    location: Location
    """Folder or S3 prefix of the dataset."""
    description: Description
    """Content of `dataset.json`."""
    all_examples: tuple[Example, ...]
    """The examples of all splits, sorted by image name."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the masks, sorted."""
        return self.description.parts

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that `read_mask` accepts: `cell` (the union of all parts), the parts, and the `UNIONS`."""
        unions = (name for name, members in UNIONS.items() if members[0] in self.parts)
        return tuple(dict.fromkeys((WHOLE_CELL, *self.parts, *unions)))

    @property
    def sha256(self) -> str:
        """The training data digest: equal for equal images, masks and splits."""
        return self.description.sha256

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have examples."""
        return tuple(split for split, count in self.description.counts.items() if count)

    def examples(self, split: str) -> tuple[Example, ...]:
        """Return the examples of one split, sorted by image name.

        Raises:
            DatasetError: the split does not exist, or is empty.
        """
        found = tuple(example for example in self.all_examples if example.split == split)
        if not found:
            problem = "is empty" if split in self.description.counts else "does not exist"
            have = ", ".join(f"{name} ({self.description.counts[name]})" for name in self.splits)
            raise DatasetError(f"split {split!r} of {self.location.uri} {problem}; it has {have}")
        return found

    def example(self, image: str) -> Example:
        """Return the example of an image by its name. Raise KeyError if the dataset has no such image."""
        return self._by_image[image]

    @cached_property
    def _by_image(self) -> dict[str, Example]:
        return {example.image: example for example in self.all_examples}

    def read_image(self, example: Example) -> NDArray[np.uint8]:
        """Return the pixels of an example's micrograph.

        Returns:
            (Y, X, 3) uint8 RGB, upright.

        Raises:
            DatasetError: the file is missing, or has changed since the preparation.
            StorageError: the file could not be read.
        """
        return self._decode(example).pixels

    def read_working(self, example: Example, view: View) -> NDArray[np.uint8]:
        """Return the pixels (Y, X, 3) of a micrograph at the working resolution. Raises what `read_image` raises."""
        return self._decode(example, view).seen_by(view)

    def _decode(self, example: Example, view: View | None = None) -> Micrograph:
        data = self._read("images", example.image, example.image_sha256)
        try:
            # the preparation has checked the size
            return decode_micrograph(data, max_megapixels=float("inf"), view=view)
        except MicrographError as error:
            raise DatasetError(f"image {example.image!r} of {self.location.uri}: {error.message}") from error

    def read_mask(self, example: Example, part: str = WHOLE_CELL) -> NDArray[np.bool_]:
        """Return the mask of one of the `classes`.

        Returns:
            (Y, X) bool, of the size of the image.

        Raises:
            DatasetError: the class is unknown, or the file is missing or has changed since the preparation.
            StorageError: the file could not be read.
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
        DatasetError: the location holds no dataset, a damaged one, or one with another schema version.
        StorageError: a file could not be read.
    """
    description, examples = read_index(location)
    return Dataset(location=location, description=description, all_examples=examples)


def encode_flags(flags: Flags) -> bytes:
    """Return bit flags (Y, X) uint8 or uint16 as the bytes of a grey PNG."""
    written, data = cv2.imencode(".png", flags)
    if not written:
        raise DatasetError(f"a mask of {flags.shape[1]} x {flags.shape[0]} px could not be written as PNG")
    return data.tobytes()
