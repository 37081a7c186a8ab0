"""Which way up a picture is shown: the orientation that a camera notes, where it can be read, and the turn itself.

Metadata never decide whether a picture is read: what cannot be read in them, or not in bounded time, counts as upright.
"""

import re
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixel = TypeVar("Pixel", bound=np.generic)

UPRIGHT = 1
TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
EXIF_ORIENTATION = 0x0112
EXIF_BYTES = 1 << 20
"""The most of EXIF or XMP data that is looked at; a JPEG segment holds 64 KiB."""
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def read_orientation(exif: bytes = b"", xmp: bytes = b"") -> int:
    """Return the orientation, 1 to 8, that EXIF or else XMP data tell; 1, upright, where neither does.

    Args:
        exif: a TIFF structure, with or without `Exif` before it (CIPA DC-008, section 4.5).
        xmp: the packet.

    >>> read_orientation(xmp=b'<rdf:Description tiff:Orientation="6"/>')
    6
    >>> read_orientation(exif=b"no EXIF at all")
    1
    """
    told = _in_exif(exif[:EXIF_BYTES]) if exif else None
    if told is None and (found := XMP_ORIENTATION.search(xmp[:EXIF_BYTES])):
        told = int(found[1])
    return next((orientation for orientation in range(1, 9) if orientation == told), UPRIGHT)


def _in_exif(data: bytes) -> object:
    exif = Image.Exif()
    try:
        exif.load(data)
        return exif.get(EXIF_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (Pillow raises whatever its parser of untrusted bytes runs into)
        return None


def upright(pixels: NDArray[Pixel], orientation: int) -> NDArray[Pixel]:
    """Turn a stored picture or mask, (Y, X) or (Y, X, C), as an EXIF orientation (TIFF 6.0, tag 274) shows it.

    >>> upright(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    if orientation in TRANSPOSING_ORIENTATIONS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
