"""Bytes -> RGB pixels. The header is read first, so that a huge size is refused before its memory is allocated.

OpenCV decodes JPEG, PNG and BMP, and pixels of 16 bits. Pillow decodes TIFF of 8 bits, because OpenCV silently fills
TIFF data that it cannot decompress with noise. A damaged file is rejected if its format can show the damage. JPEG,
uncompressed TIFF and BMP have no checksums, so a changed byte in their pixels is a changed pixel.

Transparency is dropped. Colour profiles are ignored. 16 bits become 8 by the rule of `spermseg.micrograph.depth`.
"""

import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spermseg.errors import MicrographError, first_line
from spermseg.micrograph import tiff, tiff_kinds
from spermseg.micrograph.depth import Depth, find_depth, highest_8_bits
from spermseg.micrograph.diagnose import broken
from spermseg.micrograph.header import Header, read_header
from spermseg.micrograph.jpeg import SAVE_AS, read_frame
from spermseg.micrograph.orientation import upright
from spermseg.micrograph.png import png_damage, without_metadata
from spermseg.micrograph.reduction import exact_reduction
from spermseg.micrograph.tiff import TiffPage
from spermseg.micrograph.tiling import View, resize

DEFAULT_MAX_MEGAPIXELS = 200.0
TIFF_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Modes of Pillow that convert to RGB without loss."""
JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,  # the `REDUCED_COLOR` flags return BGR
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""Reduction -> flags with which OpenCV decodes a JPEG at this reduction, as RGB."""
END_OF_JPEG = b"\xff\xd9"
OUT_OF_MEMORY = -4  # OpenCV's `Error::StsNoMem`
MISSING_GREY = 128
"""The grey level with which libjpeg fills missing data."""

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a rejection has its own reason


@dataclass(frozen=True, kw_only=True, eq=False)
class Micrograph:
    """One decoded image of one field of view."""

    pixels: NDArray[np.uint8]
    """(Y, X, 3) RGB, upright, at 1 / `reduction` of the native resolution."""
    reduction: int = 1
    """1, 2, 4 or 8: native pixels per pixel of `pixels`, in each direction."""
    um_per_px: float | None = None
    """Size of a native pixel in the sample, um; None if unknown. Never from a DPI tag, which is for printing."""
    depth: Depth | None = None
    """Which bits of a 16-bit picture became `pixels`; None for an 8-bit picture."""

    @property
    def native_shape(self) -> tuple[int, int]:
        """(height, width) of the picture as uploaded, px."""
        return self.pixels.shape[0] * self.reduction, self.pixels.shape[1] * self.reduction

    def seen_by(self, view: View) -> NDArray[np.uint8]:
        """Return the picture (Y, X, 3) at the working resolution of a network."""
        return resize(self.pixels, view.working_shape(self.native_shape))


def decode_micrograph(
    data: bytes,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    um_per_px: float | None = None,
    view: View | None = None,
) -> Micrograph:
    """Decode a JPEG, PNG, TIFF or BMP to upright 8-bit RGB. 16 bits and grey are converted.

    A JPEG is decoded at a half, a quarter or an eighth of its size if the network needs no more. Both sides must be
    divisible without a remainder. Each decoded pixel then stands for a square of native pixels, and coordinates map
    back exactly.

    Args:
        data: the bytes of the file.
        max_megapixels: a larger picture is refused from its header, without allocating its pixels.
        um_per_px: the pixel size, if the caller knows it.
        view: how a network will see the picture; None decodes at full resolution.

    Raises:
        MicrographError: not a usable picture: empty, not an image, too large, several pages, truncated, corrupt.
        MemoryError: this process has too little memory, which is no fault of the picture.
    """
    header = read_header(data)
    _check_header(header, max_megapixels)
    by, shape = 1, (header.height, header.width)
    if view and header.format == "JPEG":
        by = exact_reduction(shape, view.working_shape(shape))
    pixels, depth = _decode_pixels(data, header, by)
    found = Micrograph(pixels=pixels, reduction=by, um_per_px=um_per_px, depth=depth)
    if found.native_shape != shape:
        height, width = found.native_shape
        raise MicrographError(
            f"{broken(header.format)}: its header says {header.width} x {header.height} px, it holds {width} x {height}"
        )
    return found


def _check_header(header: Header, max_megapixels: float) -> None:
    """Refuse a picture that is too large, or a file with several pictures, before memory is allocated.

    Raises:
        MicrographError: the header says so.
    """
    if header.megapixels > max_megapixels:
        raise MicrographError(
            f"{header.width} x {header.height} px is {header.megapixels:.0f} megapixels; "
            f"at most {max_megapixels:g} are allowed"
        )
    if header.pages != 1:
        raise MicrographError(f"{header.format} with {header.pages} pictures; a file with one field of view is needed")


def _decode_pixels(data: bytes, header: Header, by: int) -> tuple[NDArray[np.uint8], Depth | None]:
    """Return (pixels (Y, X, 3) RGB, upright, depth). `by` is the reduction: 1 or, for a JPEG, 2, 4 or 8."""
    if header.format == "TIFF":
        return _decode_tiff(data)
    if header.format == "JPEG":
        pixels, depth = _decode_jpeg(data, by), None
    else:
        pixels, depth = _8_bits(_opencv_rgb(without_metadata(data) if header.format == "PNG" else data, header.format))
    return upright(pixels, header.orientation), depth


def _decode_jpeg(data: bytes, by: int) -> NDArray[np.uint8]:
    pixels = np.asarray(_opencv_pixels(data, "JPEG", JPEG_FLAGS[by]), np.uint8)
    if (pixels[-1, -1] == MISSING_GREY).all() and _lacks_data(data):
        raise MicrographError(f"{broken('JPEG')}: its lower part is missing")
    return pixels


def _decode_tiff(data: bytes) -> tuple[NDArray[np.uint8], Depth | None]:
    """Return (pixels of the one full picture, depth). Both decoders apply the orientation tag."""
    page = tiff.read_page(data)
    tiff_kinds.check_kind(page)
    data = tiff.alone(data, page)
    if not tiff_kinds.is_wide(page):
        return _pillow_pixels(data, page), None
    wide = _pillow_pixels(data, page) if tiff_kinds.is_for_pillow(page) else _opencv_rgb(data, "TIFF")
    if tiff.ORIENTATION not in page.numbers:
        wide = upright(wide, page.orientation)  # the orientation is in XMP, which OpenCV does not read
    pixels, depth = _8_bits(wide, page)
    return (~pixels if tiff_kinds.is_white_zero(page) else pixels), depth


def _pillow_pixels(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Return pixels (Y, X, 3) of 8 or 16 bits. In 16 bits, 0 may still stand for white."""
    try:
        image: Any = Image.open(io.BytesIO(data), formats=("TIFF",))
        if tiff_kinds.is_wide(page) and image.mode.startswith("I;16"):
            return np.repeat(np.array(image).astype(np.uint16)[..., np.newaxis], 3, axis=2)
        if tiff_kinds.is_wide(page) or image.mode not in TIFF_MODES:
            raise MicrographError(broken("TIFF"))
        return np.array(image.convert("RGB"))
    except (MicrographError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of any kind for untrusted bytes
        raise MicrographError(f"{broken('TIFF')}: {first_line(error)}") from error


def _opencv_rgb(data: bytes, kind: str) -> NDArray[Any]:
    # not IMREAD_COLOR_RGB: OpenCV 5.0.0 scrambles 16-bit TIFF with it
    bgr = _opencv_pixels(data, kind, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if bgr.dtype not in (np.uint8, np.uint16):
        raise MicrographError(f"{kind} with pixels of type {bgr.dtype}; unsigned integers of 8 or 16 bits are needed")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _8_bits(pixels: NDArray[Any], page: TiffPage | None = None) -> tuple[NDArray[np.uint8], Depth | None]:
    """Return (pixels as 8 bits, depth), from 8 or 16 bits. OpenCV scales TIFF of 10, 12 and 14 bits to 16 bits."""
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8), None
    if page and page.bits < 16:
        return (pixels >> 8).astype(np.uint8), Depth(bits=page.bits, clipped_fraction=0.0)
    grey = page is not None and page.samples == 1
    wide: NDArray[Any] = np.asarray(cv2.extractChannel(pixels, 0)) if grey else pixels
    depth = find_depth(wide, page.told_bits if page else None)
    eight = highest_8_bits(wide, depth)
    return np.asarray(cv2.cvtColor(eight, cv2.COLOR_GRAY2RGB) if grey else eight, np.uint8), depth


def _opencv_pixels(data: bytes, kind: str, flags: int) -> NDArray[Any]:
    """Return the pixels as stored. The caller applies the orientation of the header, as for annotations."""
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == OUT_OF_MEMORY:
            raise MemoryError from error
        raise MicrographError(f"{broken(kind)}: {first_line(error)}") from error
    if pixels is None:
        raise MicrographError(_undecoded(data, kind))
    return np.asarray(pixels)


def _undecoded(data: bytes, kind: str) -> str:
    """Return the reason for a file whose pixels OpenCV does not decode."""
    if kind == "JPEG" and read_frame(data).coding == "arithmetic":
        return f"JPEG of the arithmetic kind, which is not read; {SAVE_AS}"
    damage = None
    if kind == "PNG":
        damage = png_damage(data)
    elif kind == "JPEG" and END_OF_JPEG not in data:
        damage = "its end is missing"
    return broken(kind) + (f": {damage}" if damage else "")


def _lacks_data(data: bytes) -> bool:
    """Return whether a JPEG was cut off and closed with an end marker. libjpeg fills the missing part with grey.

    The test inserts bytes before the end marker. If data is missing, libjpeg decodes these bytes as pixels; in a
    complete picture, it skips them. They may change only the finest detail, so the comparison is at full resolution.
    """
    end = data.rfind(END_OF_JPEG)
    probe = data[:end] + bytes(range(1, 128)) + data[end:]
    as_is, probed = (_opencv_pixels(one, "JPEG", JPEG_FLAGS[1]) for one in (data, probe))
    return not np.array_equal(as_is, probed)
