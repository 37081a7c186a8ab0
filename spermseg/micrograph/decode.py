"""Bytes -> RGB pixels. Headers are read before pixels, so an absurd size is refused before memory is taken."""

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spermseg.errors import MicrographError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
DEFAULT_MAX_MEGAPIXELS = 200.0
EXIF_ORIENTATION = 0x0112
TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
MAGIC = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP"}

Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only here, and the limit is the caller's
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said in the reason, once


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture's header says, without its pixels."""

    width: int
    """As shown, that is after the EXIF rotation."""
    height: int
    """As shown, that is after the EXIF rotation."""
    format: str
    """JPEG, PNG, TIFF or BMP."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    pages: int
    """Pictures in the file; TIFF may hold several."""

    @property
    def megapixels(self) -> float:
        """Width times height, in millions."""
        return self.width * self.height / 1e6


@dataclass(frozen=True, kw_only=True, eq=False)
class Micrograph:
    """One decoded image of one field of view."""

    pixels: NDArray[np.uint8]
    """(Y, X, 3) RGB, upright."""
    um_per_px: float | None = None
    """Size of a pixel in the sample; None where unknown. Never taken from a DPI tag, which says how to print."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_header(data: bytes) -> Header:
    """Read the size and format of a picture without decoding it.

    Raises:
        MicrographError: the bytes are not a JPEG, PNG, TIFF or BMP.
    """
    if not data:
        raise MicrographError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # the base class's: PNG's own decodes all pixels to look for a chunk behind them
        orientation = int(Image.Image.getexif(image).get(EXIF_ORIENTATION, 1))
        pages = int(getattr(image, "n_frames", 1))
    except UnidentifiedImageError as error:
        looks = next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
        raise MicrographError(
            f"truncated or corrupt {looks}" if looks else "not a JPEG, PNG, TIFF or BMP picture"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error, EOFError) as error:
        raise MicrographError(f"unreadable picture header: {error}") from error
    if orientation not in range(1, 9):
        orientation = 1
    width, height = image.size
    if orientation in TRANSPOSING_ORIENTATIONS and image.format != "TIFF":  # a TIFF's size is given as shown
        width, height = height, width
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return Header(width=width, height=height, format=kind, orientation=orientation, pages=pages)


def decode_micrograph(
    data: bytes, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS, um_per_px: float | None = None
) -> Micrograph:
    """Decode a JPEG, PNG, TIFF or BMP to upright 8-bit RGB; 16 bits and grey are brought to it.

    Args:
        data: the file's bytes.
        max_megapixels: a larger picture is refused from its header, without allocating its pixels.
        um_per_px: the pixel size, where the caller knows it.

    Raises:
        MicrographError: not a usable picture: empty, not an image, too large, several pages, truncated, corrupt.
    """
    header = read_header(data)
    if header.megapixels > max_megapixels:
        raise MicrographError(
            f"{header.width} x {header.height} px is {header.megapixels:.0f} megapixels; "
            f"at most {max_megapixels:g} are allowed"
        )
    if header.pages != 1:
        raise MicrographError(f"{header.format} with {header.pages} pictures; one field of view a file is needed")
    return Micrograph(pixels=_decode_pixels(data, header), um_per_px=um_per_px)


def _decode_pixels(data: bytes, header: Header) -> NDArray[np.uint8]:
    broken = f"truncated or corrupt {header.format}"
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise MicrographError(f"{broken}: {error.err}") from error
    if bgr is None:
        raise MicrographError(broken)
    if bgr.shape[:2] != (header.height, header.width):
        raise MicrographError(
            f"{broken}: its header says {header.width} x {header.height} px, it holds {bgr.shape[1]} x {bgr.shape[0]}"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
