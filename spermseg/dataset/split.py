"""Split of examples into train, val and test. All examples of a group (patient, slide or session) stay together.

A patient in both train and test would leak, and make the score look better than it is.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spermseg.errors import ConfigError, StorageError
from spermseg.storage.filesystem import Location
from spermseg.texts import composed, read_csv_cell

SPLITS = ("train", "val", "test")
ATTEMPTS = 64
"""Number of random orders of the groups that are tried to approach the fractions."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Settings of the split."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Target fractions of the images in train, val and test. A fraction of 0 leaves a split empty."""
    seed: int = 0
    """Random seed. The same seed gives the same split on every machine."""
    group_pattern: str | None = None
    """Regular expression, searched in the path of an image below the folder of images. Its only capture group is the
    group of the image, as in `(patient-[0-9]+)`. None makes each image its own group."""
    split_csv: Path | None = None
    """A CSV file with the columns image, group and split (train, val or test), to use instead."""

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6 or not self.fractions[0]:
            raise ConfigError(
                f"got split fractions {self.fractions}; shares that add up to 1 are needed, some for train"
            )
        if self.group_pattern is not None and self.split_csv is not None:
            raise ConfigError("got a group pattern and a split CSV; give one, since the CSV names the groups too")
        if self.group_pattern is not None:
            self._check_pattern(self.group_pattern)

    @staticmethod
    def _check_pattern(pattern: str) -> None:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ConfigError(f"group pattern {pattern!r} is not a regular expression: {error}") from error
        if groups != 1:
            raise ConfigError(
                f"group pattern {pattern!r} has {groups} capture groups; one is needed, such as (patient-[0-9]+)"
            )

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values, for `dataset.json`."""
        if self.split_csv is not None:
            return {
                "csv": self.split_csv.name,
                "csv_sha256": hashlib.sha256(_read(self.split_csv)).hexdigest(),
            }
        fractions = dict(zip(SPLITS, self.fractions, strict=True))
        return {"fractions": fractions, "seed": self.seed, "group_pattern": self.group_pattern}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The group of an image, and its split if known."""

    group: str
    """The patient, slide or session."""
    split: str | None
    """The split from the CSV file; None without one."""


def place_images(images: Iterable[str], config: SplitConfig) -> dict[str, Placement]:
    """Return the placement of each image. With a split CSV, images that it does not list are missing in the result.

    Args:
        images: paths below the folder of images, in Unicode NFC.
        config: the settings of the split.

    Raises:
        ConfigError: the pattern does not match an image, or the CSV file cannot be used.
    """
    if config.split_csv is not None:
        table = read_split_csv(config.split_csv)
        return _placed_by(table, images, config.split_csv.name)
    return {image: Placement(group=_group_of(image, config.group_pattern), split=None) for image in images}


def _placed_by(table: Mapping[str, Placement], images: Iterable[str], csv_name: str) -> dict[str, Placement]:
    """Return the placement of each listed image, by its path or else by its name, which must be unique."""
    by_name: dict[str, str] = {}
    placed, all_images = {}, set(images)
    for image in sorted(all_images):
        name = PurePosixPath(image).name
        if image in table:
            placed[image] = table[image]
        elif name in table and name not in all_images:
            other = by_name.setdefault(name, image)
            if other != image:
                raise ConfigError(f"{csv_name}: {name!r} may be {other!r} or {image!r}; write their paths")
            placed[image] = table[name]
    return placed


def _group_of(image: str, pattern: str | None) -> str:
    if pattern is None:
        return image
    match = re.search(composed(pattern), image)
    if match is None or not match.group(1):
        raise ConfigError(f"group pattern {pattern!r} finds no group in {image!r}; widen it, or rename the image")
    return match.group(1)


def read_split_csv(path: Path) -> dict[str, Placement]:
    """Read a CSV file with the columns image, group and split.

    Raises:
        ConfigError: the file cannot be read, lacks a column, names an unknown split, or puts an image or a group in
            two places.
    """
    rows = csv.DictReader(io.StringIO(_decode(path), newline=""))
    if not {"image", "group", "split"} <= set(rows.fieldnames or ()):
        raise ConfigError(f"{path.name} has columns {rows.fieldnames}; image, group and split are needed")
    placed: dict[str, Placement] = {}
    split_of: dict[str, str] = {}
    for row in rows:
        image, group = (composed(read_csv_cell(row[name] or "")) for name in ("image", "group"))
        split = row["split"]
        if split not in SPLITS or not group:
            raise ConfigError(
                f"{path.name}: line {rows.line_num} has group {group!r} and split {split!r}; "
                "a group, and train, val or test, are needed"
            )
        if split_of.setdefault(group, split) != split:
            raise ConfigError(f"{path.name}: group {group!r} is in {split_of[group]} and in {split}; put it in one")
        placement = Placement(group=group, split=split)
        if placed.setdefault(image, placement) != placement:
            raise ConfigError(f"{path.name}: line {rows.line_num} gives {image!r} a second, different place")
    return placed


def _decode(path: Path) -> str:
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text; a CSV file with image, group and split is needed") from error


def _read(path: Path) -> bytes:
    try:
        return Location(str(path.absolute())).read_bytes()
    except StorageError as error:
        raise ConfigError(f"{path} could not be read: {error.message}") from error


def split_groups(groups: Iterable[str], config: SplitConfig) -> dict[str, str]:
    """Assign groups to splits, so that the numbers of images approach the target fractions.

    Each group in turn goes to the split that lacks the most images. Several orders of the groups are tried, and the
    best result is kept. The orders depend only on the seed and the names of the groups. If there are at least as many
    groups as splits with a fraction above 0, none of these splits is empty.

    Args:
        groups: the group of each image, in any order. A group of 7 images comes 7 times.
        config: fractions and seed.

    Returns:
        Group -> split.
    """
    sizes = Counter(groups)
    total = sum(sizes.values())
    targets = {name: share * total for name, share in zip(SPLITS, config.fractions, strict=True) if share}
    best: dict[str, str] = {}
    least = float("inf")
    for attempt in range(ATTEMPTS):
        split_of, missed = _fill(_shuffle(sizes, f"{config.seed}/{attempt}"), sizes, targets)
        if missed < least:
            best, least = split_of, missed
        if least <= 1:  # within one image of every target
            break
    return best


def _shuffle(names: Iterable[str], salt: str) -> list[str]:
    """Order names by SHA-256. Unlike a random generator, this is independent of versions and of the given order."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())


def _fill(order: Sequence[str], sizes: Mapping[str, int], targets: Mapping[str, float]) -> tuple[dict[str, str], float]:
    """Return (group -> split, the largest difference from a target, in images)."""
    lacking = dict(targets)
    empty = set(targets)
    split_of = {}
    for place, group in enumerate(order):
        # the last groups are reserved for splits that are still empty
        open_splits = [name for name in targets if name in empty] if len(order) - place <= len(empty) else [*targets]
        split = max(open_splits, key=lambda name: lacking[name])
        split_of[group] = split
        lacking[split] -= sizes[group]
        empty.discard(split)
    return split_of, max(map(abs, lacking.values()))
