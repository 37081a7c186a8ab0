"""The orientation of a picture, from its EXIF or XMP metadata, and the rotation itself.

Bad metadata are no reason to reject a picture. If they are damaged or too large to read, the picture counts as upright.
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
"""Limit on the bytes of EXIF or XMP data that are read. A JPEG segment holds 64 KiB."""
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def read_orientation(exif: bytes = b"", xmp: bytes = b"") -> int:
    """Return the EXIF orientation, 1 to 8, from EXIF or else from XMP data; 1 (upright) if neither has it.

    Args:
        exif: a TIFF structure, with or without `Exif` before it (CIPA DC-008, section 4.5).
        xmp: an XMP packet.

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
    except Exception:  # noqa: BLE001 (Pillow's parser raises exceptions of any kind for untrusted bytes)
        return None


def upright(pixels: NDArray[Pixel], orientation: int) -> NDArray[Pixel]:
    """Apply an EXIF orientation (TIFF 6.0, tag 274) to a stored picture or mask, (Y, X) or (Y, X, C).

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
