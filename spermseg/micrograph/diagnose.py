"""What to say of bytes that no decoder takes. Nothing here is on the way of a picture that is well."""

import struct
import zlib

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    b"BM": "BMP",
}
OTHERS = (
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (4, b"ftypavif", "an AVIF"),
    (0, b"%PDF", "a PDF"),
    (128, b"DICM", "a DICOM file"),
    (0, b"PK\3\4", "a zip archive"),
)
"""(where, which bytes, what they tell) of what clinics do send."""
BEGINNING = 512
"""Bytes looked at to tell a text from the rest."""
PNG_SIGNATURE = 8
PNG_CHUNK = struct.Struct(">I4s")


def picture_format(data: bytes) -> str | None:
    """Return which of the formats that are read a file begins like."""
    return next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)


def not_a_picture(data: bytes) -> str:
    """Return why bytes that begin like none of our formats are refused, and what they are where that shows.

    >>> not_a_picture(b"patient,count")
    'not a JPEG, PNG, TIFF or BMP picture, but a text'
    >>> not_a_picture(bytes(range(256)))
    'not a JPEG, PNG, TIFF or BMP picture'
    """
    found = next((what for place, magic, what in OTHERS if data.startswith(magic, place)), None) or _text(data)
    refused = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    return f"{refused}, but {found}" if found else refused


def _text(data: bytes) -> str | None:
    start = data[:BEGINNING]
    if any(byte < 32 and byte not in b"\t\n\f\r" for byte in start):
        return None
    try:
        text = start.decode("utf-8", "strict" if len(data) <= BEGINNING else "ignore")
    except UnicodeDecodeError:
        return None
    return "a web page" if text.lstrip("\ufeff \t\r\n").lower().startswith(("<!doctype html", "<html")) else "a text"


def png_damage(data: bytes) -> str | None:
    r"""Return what its chunks tell of a damaged PNG (PNG 1.2, section 3.2); None where they are whole.

    >>> png_damage(b"\x89PNG\r\n\x1a\n")
    'its end is missing'
    """
    position = PNG_SIGNATURE
    while position + PNG_CHUNK.size <= len(data):
        size, kind = PNG_CHUNK.unpack_from(data, position)
        end = position + PNG_CHUNK.size + size
        if end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return "a checksum is wrong"
        if kind == b"IEND":
            return None
        position = end + 4
    return "its end is missing"
