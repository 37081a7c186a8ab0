r"""The header of a PNG (PNG 1.2), read chunk by chunk, and a check of its chunks for damage.

Pillow's reader decompresses every text and colour profile, and refuses a picture with a large or damaged one. This
module skips them and reads only the orientation. OpenCV decodes the pixels.
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
"""Limit on the chunks before the pixels. A usual picture has about 10."""
EXIF_TEXT = b"Raw profile type exif\0"
"""Keyword of ImageMagick's EXIF data, which are hexadecimal digits behind three lines."""
METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
XMP_TEXT = b"XML:com.adobe.xmp\0"


@dataclass(frozen=True, kw_only=True)
class PngHeader:
    """The fields of the chunks before the pixels."""

    width: int
    """px, as stored."""
    height: int
    """px, as stored."""
    orientation: int
    pages: int
    """Number of pictures; more than 1 in an animated PNG."""


def read_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start of the content, end of the content) of each complete chunk."""
    position = SIGNATURE
    while position + CHUNK.size <= len(data):
        size, kind = CHUNK.unpack_from(data, position)
        start = position + CHUNK.size
        position = start + size + CHECKSUM
        if position > len(data):
            return
        yield kind, start, start + size


def read_png(data: bytes) -> PngHeader:
    """Read the chunks before the pixels.

    Raises:
        MicrographError: the file is damaged, or has more than `MOST_CHUNKS` chunks before its pixels.
    """
    first: dict[bytes, bytes] = {}
    for number, (kind, start, end) in enumerate(_before_pixels(data)):
        if number == MOST_CHUNKS:
            raise MicrographError(f"PNG with more than {MOST_CHUNKS} chunks before its pixels; save it again")
        if kind in (b"IHDR", b"acTL", b"fcTL", b"eXIf"):
            first.setdefault(kind, data[start : min(end, start + EXIF_BYTES)])
        elif kind in (b"tEXt", b"zTXt") and data.startswith(EXIF_TEXT, start) and EXIF_TEXT not in first:
            first[EXIF_TEXT] = _exif_of_text(data[start + len(EXIF_TEXT) : end], packed=kind == b"zTXt")
        elif kind == b"iTXt" and data.startswith(XMP_TEXT + b"\0", start):  # uncompressed, as required by XMP, part 3
            first.setdefault(XMP_TEXT, data[start : min(end, start + EXIF_BYTES)])
    width, height = (int.from_bytes(first.get(b"IHDR", b"")[at : at + 4], "big") for at in (0, 4))
    if not width or not height:
        raise MicrographError(broken("PNG"))
    orientation = read_orientation(first.get(b"eXIf") or first.get(EXIF_TEXT, b""), first.get(XMP_TEXT, b""))
    return PngHeader(width=width, height=height, orientation=orientation, pages=_pages(first))


def without_metadata(data: bytes) -> bytes:
    """Return a PNG without its metadata chunks, which OpenCV would decompress or refuse, and does not use."""
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
    """Return the number of pictures: the frames of an animation, and a default image outside them (APNG 1.0)."""
    frames = int.from_bytes(first.get(b"acTL", b"")[:4], "big")
    return frames + (b"fcTL" not in first) if frames else 1


def _exif_of_text(text: bytes, *, packed: bool) -> bytes:
    try:
        # The first byte of compressed text is the compression method.
        lines = zlib.decompressobj().decompress(text[1:], EXIF_BYTES) if packed else text[:EXIF_BYTES]
        return bytes.fromhex(b"".join(lines.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def png_damage(data: bytes) -> str | None:
    r"""Return the damage that the chunks of a PNG show (PNG 1.2, section 3.2); None if they are complete.

    >>> png_damage(b"\x89PNG\r\n\x1a\n")
    'its end is missing'
    """
    for kind, start, end in read_chunks(data):
        if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + CHECKSUM], "big"):
            return "a checksum is wrong"
        if kind == b"IEND":
            return None
    return "its end is missing"
