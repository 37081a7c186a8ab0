"""Preparation of a dataset from annotated micrographs: pairing, checks, rasterisation and split.

A file that cannot be used is left out and counted. If `strict`, it stops the preparation instead. The image files are
copied unchanged. The masks are upright, as the images are shown.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from spermseg.annotation.annotation import annotated_frame, check_inside, list_parts, part_flags, part_of
from spermseg.dataset.dataset import Dataset, encode_flags, open_dataset
from spermseg.dataset.index import DESCRIPTION, Example, LeftOut, write_index, write_left_out
from spermseg.dataset.pairing import MALFORMED, Pair, Problems, pair_images
from spermseg.dataset.split import SPLITS, Placement, SplitConfig, place_images, split_groups
from spermseg.errors import (
    AnnotationError,
    ConfigError,
    DatasetError,
    MicrographError,
    SpermsegError,
    StorageError,
)
from spermseg.micrograph.decode import DEFAULT_MAX_MEGAPIXELS, decode_micrograph
from spermseg.micrograph.header import Header, read_header
from spermseg.storage.filesystem import Location

UNREADABLE = "unreadable image"
SIZE_MISMATCH = "size mismatch"
OUTSIDE = "outside the image"
UNKNOWN_LABEL = "unknown label"
NOT_IN_SPLIT_CSV = "not in the split CSV"
IN_TWO_GROUPS = "same picture in two groups"

Futures = Iterable[Future[Example]]
Progress = Callable[[Sequence[Future[Example]]], Futures]
"""Takes the futures of all images, and yields them as they are waited for, as `tqdm` does."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Settings of the preparation."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """How the examples are split into train, val and test."""
    labels: Mapping[str, str] | None = None
    """Label -> part, or "ignore". Any other label is then an error. None takes each label, in lower case, as a part."""
    label_attribute: str | None = None
    """The attribute of a VIA region that is its label. None searches for label, name, class, type or part."""
    strict: bool = False
    """Whether to stop at the first file that cannot be used, instead of leaving it out."""
    overwrite: bool = False
    """Whether to replace an existing dataset."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Limit on the size of an image; a larger one is left out."""
    threads: int = 4
    """Number of images that are decoded concurrently."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"got {self.threads} threads; at least 1 is needed")
        if self.labels is not None and not self.labels:
            raise ConfigError("got a mapping of labels to parts without a label; give Label=part, or no mapping")


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """The result of a preparation."""

    dataset: Dataset
    """The dataset, open for reading. Its description has the images in each split, the parts and the digest."""
    left_out: tuple[LeftOut, ...]
    """The files that could not be used."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each split."""
        return self.dataset.description.counts

    @property
    def groups(self) -> dict[str, int]:
        """Number of groups in each split."""
        pairs = {(item.split, item.group) for item in self.dataset.all_examples}
        return {split: sum(split == its for its, _ in pairs) for split in self.counts}

    @property
    def n_empty(self) -> int:
        """Number of images without annotated regions: fields of view without cells, or forgotten annotations."""
        return sum(not item.n_regions for item in self.dataset.all_examples)

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> number of files left out, the most frequent reason first."""
        return dict(Counter(item.reason for item in self.left_out).most_common())


def prepare_dataset(
    images: Path,
    annotations: Path,
    out: Location,
    config: PrepareConfig,
    progress: Progress = iter,
) -> PrepareSummary:
    """Build a dataset from images and their annotations. Return the dataset and the files that were left out.

    Args:
        images: a folder of micrographs, searched with all folders below it.
        annotations: a LabelMe, VIA or COCO file, or a folder of them.
        out: the location to write to, outside both folders.
        config: the settings.
        progress: shows how far the work is.

    Raises:
        ConfigError: the settings do not fit the folders.
        DatasetError: no image can be used, or there is a dataset at `out` already.
        AnnotationError, MicrographError: a file cannot be used, if `strict`.
        StorageError: the dataset could not be written.
    """
    _check_places(images, annotations, out, config)
    problems = Problems(strict=config.strict)
    pairs = pair_images(images, annotations, problems, label_attribute=config.label_attribute)
    parts, examples = _prepare_pairs(pairs, out, config, problems, progress)
    if not examples:
        raise _nothing_usable(images, out, problems)
    write_index(
        out,
        _assign_splits(examples, config.split),
        problems.left_out,
        parts=parts,
        labels=config.labels,
        split_settings=config.split.describe(),
        splits=SPLITS,
    )
    return PrepareSummary(dataset=open_dataset(out), left_out=tuple(problems.left_out))


def _prepare_pairs(
    pairs: Sequence[Pair],
    out: Location,
    config: PrepareConfig,
    problems: Problems,
    progress: Progress,
) -> tuple[tuple[str, ...], list[Example]]:
    """Write the image and the mask of each usable pair. Return (the parts of a cell, the examples)."""
    placements = place_images([pair.image for pair in pairs], config.split)
    placed = list(_keep_placed(pairs, placements, problems))
    parts = list_parts((pair.annotation for pair in placed), config.labels)
    task = partial(_prepare_one, out=out, parts=parts, config=config, placements=placements)
    examples = _run_tasks(task, placed, problems, config.threads, progress)
    return parts, _one_group_each(examples, problems)


def _nothing_usable(images: Path, out: Location, problems: Problems) -> DatasetError:
    """Write the reasons for all files, unless there is a dataset at `out`. Return an error that names the list."""
    told = ""
    if not out.child(DESCRIPTION).exists():
        told = f", for the reasons in {write_left_out(out, problems.left_out).uri}"
    first = problems.left_out[0].detail
    return DatasetError(f"none of the images in {images} can be used{told}; the first problem: {first}")


def _check_places(images: Path, annotations: Path, out: Location, config: PrepareConfig) -> None:
    for folder in (images, annotations):
        place = Location(str(folder.absolute()))
        if next(place.list(), None) is None:
            raise ConfigError(
                f"{folder} does not exist, or holds no file; give the folders of the images and of their annotations"
            )
        if place.contains(out):
            raise ConfigError(f"the dataset {out.uri} would lie in {folder}, which it is made from; write it elsewhere")
    if not config.overwrite and out.child(DESCRIPTION).exists():
        raise DatasetError(f"{out.uri} holds a dataset already; give another folder, or ask to overwrite it")


def _keep_placed(pairs: Iterable[Pair], placements: Mapping[str, Placement], problems: Problems) -> Iterator[Pair]:
    for pair in pairs:
        if pair.image in placements:
            yield pair
        else:
            problems.add(pair.image, NOT_IN_SPLIT_CSV, DatasetError(f"{pair.image}: the split CSV has no line for it"))


class _LeftOutError(Exception):
    """Carries the error of an image from its thread to the caller."""

    def __init__(self, image: str, reason: str, error: SpermsegError) -> None:
        super().__init__(image, reason, error)
        self.image, self.reason, self.error = image, reason, error


@contextmanager
def _leaving_out(image: str, reason: str) -> Iterator[None]:
    try:
        yield
    except AnnotationError as error:  # the message names the file already
        raise _LeftOutError(image, reason, error) from error
    except MicrographError as error:
        raise _LeftOutError(image, reason, MicrographError(f"{image}: {error.message}")) from error


def _run_tasks(
    task: Callable[[Pair], Example],
    pairs: Sequence[Pair],
    problems: Problems,
    threads: int,
    progress: Progress,
) -> list[Example]:
    examples = []
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        futures = [pool.submit(task, pair) for pair in pairs]
        try:
            for future in progress(futures):
                try:
                    examples.append(future.result())
                except _LeftOutError as problem:
                    problems.add(problem.image, problem.reason, problem.error)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, the other tasks are not started
    return examples


def _prepare_one(
    pair: Pair,
    *,
    out: Location,
    parts: Sequence[str],
    config: PrepareConfig,
    placements: Mapping[str, Placement],
) -> Example:
    """Check one image, rasterise its mask, and write both."""
    image, annotation, placement = pair.image, pair.annotation, placements[pair.image]
    data, header = _read_image(pair, config.max_megapixels)
    with _leaving_out(image, SIZE_MISMATCH):
        frame = annotated_frame(annotation, header)
    with _leaving_out(image, UNKNOWN_LABEL):
        kept = [region for region in annotation.regions if part_of(annotation, region, config.labels) is not None]
    with _leaving_out(image, OUTSIDE):
        check_inside(replace(annotation, regions=tuple(kept)), frame)
    with _leaving_out(image, MALFORMED):
        flags = part_flags(annotation, frame, parts, config.labels)
    mask = encode_flags(flags)
    out.child("images", image).write_bytes(data)
    out.child("masks", f"{image}.png").write_bytes(mask)  # a.jpg and a.tif need different masks
    return Example(
        image=image,
        mask=f"{image}.png",
        group=placement.group,
        split=placement.split or "",
        width=header.width,
        height=header.height,
        n_regions=len(kept),
        foreground_fraction=round(float(np.mean(flags > 0)), 6),
        image_sha256=sha256(data).hexdigest(),
        mask_sha256=sha256(mask).hexdigest(),
    )


def _read_image(pair: Pair, max_megapixels: float) -> tuple[bytes, Header]:
    """Return (the bytes of an image, its header). The whole image is decoded as a check."""
    with _leaving_out(pair.image, UNREADABLE):
        try:
            data = Location(str(pair.path)).read_bytes()
        except StorageError as error:
            raise MicrographError(error.message) from error
        decode_micrograph(data, max_megapixels=max_megapixels)
        return data, read_header(data)


def _one_group_each(examples: Iterable[Example], problems: Problems) -> list[Example]:
    """Leave out examples whose picture also belongs to another group, since it could be in two splits."""
    first: dict[str, Example] = {}
    kept = []
    for example in sorted(examples, key=lambda one: one.image):
        other = first.setdefault(example.image_sha256, example)
        if other.group == example.group:
            kept.append(example)
        else:
            text = f"{example.image} of group {example.group!r} is the same picture as {other.image} of {other.group!r}"
            problems.add(example.image, IN_TWO_GROUPS, DatasetError(f"{text}: a sample mix-up? keep the right one"))
    return kept


def _assign_splits(examples: Sequence[Example], config: SplitConfig) -> list[Example]:
    if config.split_csv is not None:
        return list(examples)
    split_of = split_groups((example.group for example in examples), config)
    return [replace(example, split=split_of[example.group]) for example in examples]
