"""What a night under chaos segments, and how its table is compared with that of a calm one."""

import gzip
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spermseg.micrograph.decode import Micrograph
from spermseg.micrograph.tiling import View
from support.broken_files import BROKEN_FILES, Trouble, encoded, entry, tarred, zipped
from support.dark_cells import draw
from support.hostile_decoder import decode, marked

OF_ITS_RUN = {"run_id", "decode_ms", "predict_ms", "measure_ms"}
"""Columns that differ from one run to the next."""
SUFFIXES = (".png", ".bmp", ".tif", ".jpg")
IN_AN_ARCHIVE = 20
"""Pictures of each archive."""


def uploads(pictures: int, hostile: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of a night's uploads: one in ten is broken, half of the others are in archives.

    Args:
        pictures: how many.
        hostile: how many more, each of which ends the process that decodes it.
    """
    broken = pictures // 10
    yield from _broken(broken)
    yield from ((f"hostile/{n}.png", marked(encoded(draw(n)[0], ".png"), b"abort")) for n in range(hostile))
    whole = [_whole(number) for number in range(pictures - broken)]
    half = len(whole) // 2
    yield from whole[:half]
    for number, start in enumerate(range(half, len(whole), IN_AN_ARCHIVE)):
        yield _archive(number, whole[start : start + IN_AN_ARCHIVE])


def _whole(number: int) -> tuple[str, bytes]:
    """Return a picture like no other: each has a grain of its own."""
    pixels, _ = draw(number % 11)
    grain = np.random.default_rng(number).integers(0, 16, pixels.shape, np.uint8)
    suffix = SUFFIXES[number % len(SUFFIXES)]
    return f"patient-{number % 7}/{number:04}{suffix}", encoded(pixels + grain, suffix)


def _broken(count: int) -> Iterator[tuple[str, bytes]]:
    kinds = [kind for kind in BROKEN_FILES if kind.trouble is Trouble.IN_THE_FILE]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield f"broken/{number:03}-{kind.name}", kind.make(draw(number % 11)[0])


def _archive(number: int, members: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    name = f"courier/{number:03}"
    if number % 3 == 0:
        return f"{name}.zip", zipped(*members)
    archive = tarred(*(entry(*member) for member in members))
    return (f"{name}.tar", archive) if number % 3 == 1 else (f"{name}.tgz", gzip.compress(archive, mtime=0))


def noting_decode(data: bytes, *, max_megapixels: float, view: View, notes: Path) -> Micrograph:
    """Decode a picture, and note that it is, in one write that no other process can come between."""
    file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{hashlib.sha256(data).hexdigest()}\n".encode())
    os.close(file)
    return decode(data, max_megapixels=max_megapixels, view=view)


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What is wrong with a table, in rows."""

    lost: int = 0
    """Of the calm table, not in this one."""
    duplicated: int = 0
    """In this one more than once."""
    differing: int = 0
    """With another content, or of an upload that the calm table does not know."""

    def __bool__(self) -> bool:
        return any(astuple(self))


Row = dict[str, Any]


def compare(calm: Iterable[Row], rows: Iterable[Row]) -> Differences:
    """Hold a table against that of a calm night, each value to the last bit, run ids and times left out."""
    wanted = {row["image_id"]: _content(row) for row in calm}
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["image_id"], []).append(_content(row))
    return Differences(
        lost=len(wanted.keys() - found.keys()),
        duplicated=sum(len(several) - 1 for several in found.values()),
        differing=sum(any(one != wanted.get(image_id) for one in several) for image_id, several in found.items()),
    )


def _content(row: Row) -> str:
    return repr(sorted((name, value) for name, value in row.items() if name not in OF_ITS_RUN))
