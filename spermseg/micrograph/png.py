r"""What a PNG says of itself before its pixels (PNG 1.2), read chunk by chunk, and what its chunks tell of damage.

Pillow's reader unpacks each text and colour profile, and gives the picture up where one is large or damaged. Here they
are skipped as they are: OpenCV decides on pixels, and the orientation is all that counts of the rest.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from spermseg.errors import MicrographError
from spermseg.micrograph.diagnose import broken
from spermseg.micrograph.orientation import EXIF_BYTES, read_orientation

SIGNATURE = 8
CHUNK = struct.Struct(">I4s")
CHECKSUM = 4
MOST_CHUNKS = 10_000
"""Before the pixels; a picture has about 10."""
EXIF_TEXT = b"Raw profile type exif\0"
"""Keyword under which ImageMagick keeps EXIF data, as hexadecimal digits below three lines."""
METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
XMP_TEXT = b"XML:com.adobe.xmp\0"


@dataclass(frozen=True, kw_only=True)
class PngHeader:
    """What the chunks before the pixels tell."""

    width: int
    """px, as stored."""
    height: int
    """px, as stored."""
    orientation: int
    pages: int
    """Pictures; more than 1 where it is animated."""


def read_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each whole chunk, and where its content begins and ends."""
    position = SIGNATURE
    while position + CHUNK.size <= len(data):
        size, kind = CHUNK.unpack_from(data, position)
        start = position + CHUNK.size
        position = start + size + CHECKSUM
        if position > len(data):
            return
        yield kind, start, start + size


def read_png(data: bytes) -> PngHeader:
    """Read what stands before the pixels.

    Raises:
        MicrographError: it is damaged, or hides its pixels behind more chunks than any picture has.
    """
    first: dict[bytes, bytes] = {}
    for number, (kind, start, end) in enumerate(_before_pixels(data)):
        if number == MOST_CHUNKS:
            raise MicrographError(f"PNG with more than {MOST_CHUNKS} chunks before its pixels; save it again")
        if kind in (b"IHDR", b"acTL", b"fcTL", b"eXIf"):
            first.setdefault(kind, data[start : min(end, start + EXIF_BYTES)])
        elif kind in (b"tEXt", b"zTXt") and data.startswith(EXIF_TEXT, start) and EXIF_TEXT not in first:
            first[EXIF_TEXT] = _exif_of_text(data[start + len(EXIF_TEXT) : end], packed=kind == b"zTXt")
        elif kind == b"iTXt" and data.startswith(XMP_TEXT + b"\0", start):  # not packed, as XMP, part 3, asks for
            first.setdefault(XMP_TEXT, data[start : min(end, start + EXIF_BYTES)])
    width, height = (int.from_bytes(first.get(b"IHDR", b"")[at : at + 4], "big") for at in (0, 4))
    if not width or not height:
        raise MicrographError(broken("PNG"))
    orientation = read_orientation(first.get(b"eXIf") or first.get(EXIF_TEXT, b""), first.get(XMP_TEXT, b""))
    return PngHeader(width=width, height=height, orientation=orientation, pages=_pages(first))


def without_metadata(data: bytes) -> bytes:
    """Return a PNG without what OpenCV would unpack, or complain of, and then not use."""
    dropped = [(start - CHUNK.size, end + CHECKSUM) for kind, start, end in read_chunks(data) if kind in METADATA]
    if not dropped:
        return data
    kept = zip([0, *(end for _, end in dropped)], [*(start for start, _ in dropped), len(data)], strict=True)
    return b"".join(data[start:end] for start, end in kept)


def _before_pixels(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    for chunk in read_chunks(data):
        if chunk[0] == b"IDAT":
            return
        yield chunk


def _pages(first: dict[bytes, bytes]) -> int:
    """Return the frames of an animation, and a picture before it that is not one of them (APNG 1.0)."""
    frames = int.from_bytes(first.get(b"acTL", b"")[:4], "big")
    return frames + (b"fcTL" not in first) if frames else 1


def _exif_of_text(text: bytes, *, packed: bool) -> bytes:
    try:
        lines = zlib.decompressobj().decompress(text[1:], EXIF_BYTES) if packed else text[:EXIF_BYTES]  # 1: the method
        return bytes.fromhex(b"".join(lines.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def png_damage(data: bytes) -> str | None:
    r"""Return what its chunks tell of a damaged PNG (PNG 1.2, section 3.2); None where they are whole.

    >>> png_damage(b"\x89PNG\r\n\x1a\n")
    'its end is missing'
    """
    for kind, start, end in read_chunks(data):
        if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + CHECKSUM], "big"):
            return "a checksum is wrong"
        if kind == b"IEND":
            return None
    return "its end is missing"
