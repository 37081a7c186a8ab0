"""Folders of images and annotations -> pairs of an image and its annotation.

An annotation names its image by a path relative to the annotation file. The path may come from another machine. The
image is the first of these that exists:

1. The image whose path below the folder of images is the longest suffix of that path.
2. The image of that name in the folder of the annotation file.
3. The only image of that name.
4. The only image with the stem of the annotation file, if the file annotates one picture.

The home folder of an annotation file is its own folder below the folder of images or, if that has no images, the
nearest parent that has some. An image outside the home folder matches only if the annotation names its folder. So the
annotation of one patient is never assigned to an image of another.

Names are compared in Unicode NFC, since some systems write an umlaut as one code point and others as two.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from posixpath import normpath

from spermseg.annotation.annotation import Annotation
from spermseg.annotation.formats import read_annotations
from spermseg.dataset.index import LeftOut
from spermseg.errors import AnnotationError, DatasetError, SpermsegError
from spermseg.storage.filesystem import Location
from spermseg.storage.local.backend import LocalBackend
from spermseg.storage.uris import storable
from spermseg.texts import composed, visible

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
TOP = PurePosixPath(".")
"""The folder of images itself, as a path below it."""

NO_ANNOTATION = "no annotation"
NO_IMAGE = "no image"
MALFORMED = "malformed annotation"
ANNOTATED_TWICE = "annotated twice"
AMBIGUOUS = "ambiguous image name"
NAME_NOT_TEXT = "name is not UTF-8"
NAME_UNSEEN = "name has characters that cannot be seen"
ONE_NAME = "two files of one name"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image with its annotation."""

    image: str
    """Path below the folder of images, with `/`, in Unicode NFC."""
    path: Path
    """Path of the image file."""
    annotation: Annotation
    """The annotation of the image."""


class Problems:
    """Collects the files that cannot be used or, if `strict`, raises the error of the first."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self.left_out: list[LeftOut] = []

    def add(self, file: str, reason: str, error: SpermsegError) -> None:
        """Leave a file out.

        Raises:
            SpermsegError: the given error, if `strict`.
        """
        if self._strict:
            raise error
        self.left_out.append(LeftOut(file=file, reason=reason, detail=error.message))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The entry of one picture in an annotation file."""

    json: PurePosixPath
    """Path of the file below the folder of annotations, in Unicode NFC."""
    image_name: str
    annotation: Annotation | None
    """None if the annotation cannot be used."""
    alone: bool
    """Whether this is the only entry of the file, so that the name of the file may name the picture."""


def pair_images(
    images: Path, annotations: Path, problems: Problems, *, label_attribute: str | None = None
) -> list[Pair]:
    """Find the annotation of every image, by the rules of this module.

    Args:
        images: a folder, searched with all folders below it.
        annotations: an annotation file, or a folder of them, searched with all folders below it.
        problems: collects the files that cannot be paired.
        label_attribute: the attribute of a VIA region that is its label.

    Returns:
        The pairs, sorted by image name.

    Raises:
        DatasetError: a folder has no images or no annotation files.
        AnnotationError: a file cannot be paired, if `problems` is strict.
    """
    files = _usable_names(_list_files(images, IMAGE_SUFFIXES, "images"), problems)
    entries = _read_entries(annotations, problems, label_attribute)
    index = _ImageIndex(files)
    found: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        candidates = index.find(entry)
        if len(candidates) == 1:
            found[candidates[0]].append(entry)
        elif entry.annotation is not None:
            _report_unpaired(entry, candidates, images, problems)
    return _choose(files, found, problems)


def _list_files(folder: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    top = folder.absolute()
    paths = [Path(path) for path, _, _ in LocalBackend().list_objects(str(top))]
    found = {
        path.relative_to(top).as_posix(): path for path in paths if path.suffix.lower() in suffixes and path != top
    }
    if not found:
        raise DatasetError(f"found no {what} in {folder}; give a folder with {', '.join(suffixes)} files")
    return dict(sorted(found.items()))


def _read_entries(annotations: Path, problems: Problems, label_attribute: str | None) -> list[_Entry]:
    if Location(str(annotations.absolute())).exists():
        files = {annotations.name: annotations}
    else:
        files = _list_files(annotations, (".json",), "annotations")
    return [
        entry
        for name, path in files.items()
        for entry in _read_file(PurePosixPath(composed(storable(name))), path, problems, label_attribute)
    ]


def _usable_names(files: dict[str, Path], problems: Problems) -> dict[str, Path]:
    """Return name in Unicode NFC -> file, for names that are valid, visible text and that no two files share."""
    named: dict[str, list[Path]] = defaultdict(list)
    for name, path in files.items():
        shown = storable(name)
        if shown != name:
            problems.add(shown, NAME_NOT_TEXT, DatasetError(f"{shown}: its name is not UTF-8; rename it"))
        elif visible(name) != name:
            said = f"{visible(name)}: its name has characters that cannot be seen; rename it"
            problems.add(visible(name), NAME_UNSEEN, DatasetError(said))
        else:
            named[composed(name)].append(path)
    for name in [name for name, paths in named.items() if len(paths) > 1]:
        said = f"{name}: another file has this name, its letters composed in another way; rename one"
        for _ in named.pop(name):
            problems.add(name, ONE_NAME, DatasetError(said))
    return {name: paths[0] for name, paths in sorted(named.items())}


def _read_file(json: PurePosixPath, path: Path, problems: Problems, label_attribute: str | None) -> list[_Entry]:
    faulty: list[str] = []

    def leave_out(image_name: str, error: AnnotationError) -> None:
        faulty.append(image_name)
        problems.add(image_name or str(json), MALFORMED, error)

    read: list[Annotation] = []
    try:
        read = read_annotations(path, label_attribute=label_attribute, on_fault=leave_out)
    except AnnotationError as error:
        leave_out("", error)
    alone = len(read) + len(faulty) == 1
    usable = [_Entry(json=json, image_name=item.image_name, annotation=item, alone=alone) for item in read]
    return usable + [_Entry(json=json, image_name=name, annotation=None, alone=alone) for name in faulty]


class _ImageIndex:
    """Finds the image that an annotation names."""

    def __init__(self, images: Iterable[str]) -> None:
        self._paths = set(images)
        self._folders = {folder for image in self._paths for folder in PurePosixPath(image).parents}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for image in sorted(self._paths):
            self._by_name[PurePosixPath(image).name].append(image)
            self._by_stem[PurePosixPath(image).stem].append(image)

    def find(self, entry: _Entry) -> list[str]:
        """Return the images that an entry may mean: one, none, or several if the name is ambiguous."""
        own = entry.json.parent
        home = next((folder for folder in (own, *own.parents) if folder in self._folders), TOP)
        named = PureWindowsPath(composed(entry.image_name))  # a Windows path accepts both kinds of slashes
        for path in _possible_paths(own, home, named):
            if path in self._paths:
                return [path]
        found = self._by_name.get(named.name, [])
        if not found and entry.alone:
            found = self._by_stem.get(entry.json.stem, [])
        return _near(found, own, home)


def _possible_paths(own: PurePosixPath, home: PurePosixPath, named: PureWindowsPath) -> Iterator[str]:
    """Yield the paths that an annotation in the folder `own` may mean by a name, the most specific first."""
    steps = PurePosixPath(f"{own}/{named.as_posix()}").parts
    yield normpath("/".join(steps))
    shortest = 1 if home == TOP else 2  # a bare name must not match an image outside the home folder
    for start in range(len(steps) - shortest + 1):
        yield "/".join(steps[start:])
    yield str(own / named.name)


def _near(images: Sequence[str], own: PurePosixPath, home: PurePosixPath) -> list[str]:
    """Return the images in the home folder. If there are any, those in a parent folder make the name ambiguous."""
    inside = [image for image in images if PurePosixPath(image).is_relative_to(home)]
    above = [image for image in images if image not in inside and PurePosixPath(image).parent in own.parents]
    return inside + above if inside else []


def _report_unpaired(entry: _Entry, candidates: Sequence[str], images: Path, problems: Problems) -> None:
    name = entry.image_name or entry.json.stem
    if candidates:
        problem, reason = f"{name!r} may be {' or '.join(candidates)}; name the folder too", AMBIGUOUS
    else:
        problem, reason = f"no image {name!r} in {images}", NO_IMAGE
    problems.add(str(entry.json), reason, AnnotationError(f"{entry.json}: {problem}"))


def _choose(files: dict[str, Path], found: dict[str, list[_Entry]], problems: Problems) -> list[Pair]:
    pairs = []
    for image, path in files.items():
        entries = found.get(image, [])
        usable = [entry.annotation for entry in entries if entry.annotation is not None]
        if not entries:
            error = AnnotationError(f"{image}: no annotation names it; annotate it, or take the image out")
            problems.add(image, NO_ANNOTATION, error)
        elif len(entries) > 1:
            sources = " and ".join(str(entry.json) for entry in entries)
            error = AnnotationError(f"{image}: annotated {len(entries)} times, in {sources}; keep one")
            problems.add(image, ANNOTATED_TWICE, error)
        elif usable:
            pairs.append(Pair(image=image, path=path, annotation=usable[0]))
    return pairs
