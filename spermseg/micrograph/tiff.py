"""The header of a TIFF (TIFF 6.0 and BigTIFF): its directories, and the one that holds the full picture.

A TIFF is a chain of directories (IFDs). Pillow counts them all and loads the values of each, which takes minutes for a
small file with twenty thousand directories. This module reads only a few tags of each directory, and limits their
number. A directory that is flagged as a reduced picture or a mask is no field of view. So the full picture is found,
even if a thumbnail comes first.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from spermseg.errors import MicrographError
from spermseg.micrograph.diagnose import broken
from spermseg.micrograph.orientation import TRANSPOSING_ORIENTATIONS, read_orientation

MOST_DIRECTORIES = 100
"""Limit on the directories in the chain, and on the sub-directories that are read."""
MOST_ENTRIES = 1000
"""Limit on the entries of a directory. Raw files of cameras have about 100."""
MOST_NUMBERS = 64
"""Limit on the numbers that are read of an entry."""
MOST_TEXT = 1 << 20
"""Limit on the bytes that are read of a text."""
SMALLEST_TILE = 16
NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Entry types of whole numbers -> their `struct` format."""
TEXTS = (2, 1, 7)
"""Entry types that hold text: ASCII and bytes."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS, DESCRIPTION = 254, 255, 256, 257, 258, 259, 262, 270
STRIPS, ORIENTATION, SAMPLES, MAX_VALUE, PLANES, TILES, SUB_DIRECTORIES = 273, 274, 277, 281, 284, 324, 330
SAMPLE_FORMAT, XMP, IMAGE_DEPTH, METAMORPH_PLANES, DNG, HAMAMATSU = 339, 700, 32997, 33629, 50706, 65420
NUMBER_TAGS = (
    *(SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS, ORIENTATION, SAMPLES, MAX_VALUE, PLANES),
    *(SUB_DIRECTORIES, SAMPLE_FORMAT, IMAGE_DEPTH, DNG, HAMAMATSU),
)
REDUCED_OR_MASK = 0b101
"""Bits of `SUBFILE` that flag a reduced picture or a mask."""
OLD_REDUCED = 2
"""Value of `OLD_SUBFILE` for a reduced picture."""


@dataclass(frozen=True, kw_only=True)
class TiffPage:
    """The directory of the full picture of a TIFF, or of the first of several."""

    offset: int
    """First byte of the directory in the file."""
    numbers: Mapping[int, tuple[int, ...]]
    """Tag -> whole numbers."""
    texts: Mapping[int, bytes]
    """Tag -> text."""
    counts: Mapping[int, int]
    """Tag -> number of values."""
    pages: int = 1
    """Number of full pictures in the file."""

    def number(self, tag: int, default: int) -> int:
        """Return the first number of a tag, or the default."""
        return self.numbers.get(tag, (default,))[0]

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) after the rotation, px."""
        height, width = self.number(HEIGHT, 0), self.number(WIDTH, 0)
        return (width, height) if self.orientation in TRANSPOSING_ORIENTATIONS else (height, width)

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8, from the tag or else from XMP."""
        told = self.number(ORIENTATION, 0)
        return told if told in range(1, 9) else read_orientation(xmp=self.texts.get(XMP, b""))

    @property
    def bits(self) -> int:
        """Bits per sample; 0 if the samples of a pixel differ."""
        told = set(self.numbers.get(BITS, (1,)))
        return told.pop() if len(told) == 1 else 0

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return self.number(SAMPLES, 1)

    @property
    def colours(self) -> int:
        """The tag PhotometricInterpretation."""
        return self.number(COLOURS, 0)

    @property
    def is_reduced(self) -> bool:
        """Whether the directory is flagged as a reduced picture or a mask."""
        return bool(self.number(SUBFILE, 0) & REDUCED_OR_MASK) or self.number(OLD_SUBFILE, 0) == OLD_REDUCED

    @property
    def told_bits(self) -> int | None:
        """Number of bits that the file states to be used; None if it states nothing, or states all bits.

        The sources are `SignificantBits` of OME-XML, the tag MaxSampleValue, and the display range of ImageJ. Users
        change the display range, so it counts only if its maximum is the largest number of some bits, such as 4095.
        """
        description = self.texts.get(DESCRIPTION, b"")
        told = self.number(MAX_VALUE, 0).bit_length()
        if found := re.search(rb'SignificantBits="(\d{1,2})"', description):
            told = int(found[1])
        elif description.startswith(b"ImageJ=") and (found := re.search(rb"\bmax=(\d{3,5})(?:\.0*)?\s", description)):
            shown = int(found[1])
            told = told or (shown.bit_length() if shown & (shown + 1) == 0 else 0)
        return told if 0 < told < self.bits else None


def read_page(data: bytes) -> TiffPage:
    """Find the full picture of a TIFF.

    Raises:
        MicrographError: the file is damaged, or has too many directories or entries.
    """
    file = _File(data)
    chain = list(file.chain(file.first))
    below = (file.directory(offset)[0] for page in chain for offset in page.numbers.get(SUB_DIRECTORIES, ()))
    full = [page for page in chain if not page.is_reduced]
    full = full or [page for page, _ in zip(below, range(MOST_DIRECTORIES), strict=False) if not page.is_reduced]
    full = full or chain
    if not full or not full[0].number(WIDTH, 0) or not full[0].number(HEIGHT, 0):
        raise MicrographError(broken("TIFF"))
    return replace(full[0], pages=max(len(full), _pictures_in(full[0])))


def _pictures_in(page: TiffPage) -> int:
    """Return the number of pictures in a stack of which only the first has a directory."""
    description = page.texts.get(DESCRIPTION, b"")
    counts = [page.counts.get(METAMORPH_PLANES, 1), page.number(IMAGE_DEPTH, 1)]
    if description.startswith(b"ImageJ=") and (found := re.search(rb"^images=(\d{1,9})\s", description, re.MULTILINE)):
        counts.append(int(found[1]))
    if found := re.match(rb'\{"shape": \[([\d, ]{1,99})\].*"truncated": true', description):  # by tifffile
        numbers = prod(int(side) for side in found[1].replace(b",", b" ").split())
        counts.append(numbers // max(1, page.number(WIDTH, 1) * page.number(HEIGHT, 1) * page.samples))
    return max(counts)


def alone(data: bytes, page: TiffPage) -> bytes:
    """Return a TIFF whose first directory is this page, so that decoders read this page."""
    file = _File(data)
    if file.first == page.offset:
        return data
    return data[: file.first_at] + struct.pack(file.endian + file.word, page.offset) + data[file.entries_at :]


class _File:
    """Access to the directories of a TIFF."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.endian = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.word = "Q" if self.big else "I"
        self.first_at, self.entries_at = (8, 16) if self.big else (4, 8)
        self.first: int = self._unpack(self.word, self.first_at)[0]

    def _unpack(self, kind: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.endian + kind, self._data, offset)
        except (struct.error, OverflowError) as error:
            raise MicrographError(broken("TIFF")) from error

    def chain(self, offset: int) -> Iterator[TiffPage]:
        """Yield the directories of a chain. A cyclic chain ends before it repeats."""
        seen: set[int] = set()
        while offset and offset not in seen:
            if len(seen) == MOST_DIRECTORIES:
                raise MicrographError(
                    f"TIFF with more than {MOST_DIRECTORIES} pictures; a file with one field of view is needed"
                )
            seen.add(offset)
            page, offset = self.directory(offset)
            yield page

    def directory(self, offset: int) -> tuple[TiffPage, int]:
        """Return (a directory, the offset of the next one)."""
        count_kind, entry = ("Q", "HHQ8s") if self.big else ("H", "HHI4s")
        (entries,) = self._unpack(count_kind, offset)
        if entries > MOST_ENTRIES:
            raise MicrographError(f"{broken('TIFF')}: a directory of {entries} entries")
        size, start = struct.calcsize("<" + entry), offset + struct.calcsize("<" + count_kind)
        end = start + entries * size
        (following,) = self._unpack(self.word, end)
        numbers: dict[int, tuple[int, ...]] = {}
        texts: dict[int, bytes] = {}
        counts: dict[int, int] = {}
        for at, (tag, kind, count, _) in enumerate(struct.iter_unpack(self.endian + entry, self._data[start:end])):
            counts.setdefault(tag, count)
            where = start + at * size + size - (8 if self.big else 4)
            if tag in NUMBER_TAGS and kind in NUMBERS:
                numbers.setdefault(tag, self._numbers(kind, count, where))
            elif tag in (DESCRIPTION, XMP) and kind in TEXTS:
                texts.setdefault(tag, self._text(count, where))
        return TiffPage(
            offset=offset,
            numbers={tag: value for tag, value in numbers.items() if value},
            texts=texts,
            counts=counts,
        ), following

    def _numbers(self, kind: int, count: int, where: int) -> tuple[int, ...]:
        count = min(count, MOST_NUMBERS)
        return self._unpack(f"{count}{NUMBERS[kind]}", self._place(count * SIZES[kind], where))

    def _text(self, count: int, where: int) -> bytes:
        start = self._place(count, where)
        return self._data[start : start + min(count, MOST_TEXT)]

    def _place(self, size: int, where: int) -> int:
        """Return the offset of the values of an entry. Small values are in the entry itself."""
        return where if size <= struct.calcsize(self.word) else self._unpack(self.word, where)[0]
