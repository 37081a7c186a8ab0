"""Bytes -> RGB pixels. Headers are read before pixels, so an absurd size is refused before memory is taken.

Who decodes what: OpenCV reads JPEG, PNG and BMP, and pixels of 16 bits; Pillow reads TIFF of 8 bits, because OpenCV
fills what it cannot decompress there with noise and says nothing. A damaged file is rejected wherever its format can
show the damage. JPEG, uncompressed TIFF and BMP have no checksums: a changed byte in their pixels is a changed pixel.

What becomes of the rest: transparency is dropped, colour profiles are ignored, and 16 bits become 8 by the rule of
`_to_8_bits`.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spermseg.errors import MicrographError, first_line
from spermseg.micrograph.diagnose import FORMATS, not_a_picture, picture_format, png_damage
from spermseg.micrograph.reduction import exact_reduction
from spermseg.micrograph.tiling import View

Pixel = TypeVar("Pixel", bound=np.generic)

DEFAULT_MAX_MEGAPIXELS = 200.0
EXIF_ORIENTATION = 0x0112
TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
SENSOR_BITS = (8, 10, 12, 14, 16)
"""Bits of cameras whose pixels are stored as 16 bits; of 8, where a program has widened them."""
TIFF_BITS_PER_SAMPLE = 258
TIFF_PLANES = 284
SEPARATE_PLANES = 2  # OpenCV takes them for interleaved where they have 16 bits
TIFF_SAMPLE_FORMAT = 339
FLOATING_POINT = 3
TIFF_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names of what it turns into RGB without a loss."""
JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,  # those named `COLOR` ask for BGR
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""How OpenCV is told to divide a JPEG while it decodes it, and to leave the pixels as we need them."""
END_OF_JPEG = b"\xff\xd9"
OUT_OF_MEMORY = -4  # OpenCV's `Error::StsNoMem`
MISSING_GREY = 128
"""The grey that libjpeg paints where a JPEG has no data."""

Image.MAX_IMAGE_PIXELS = None  # the limit is the caller's, and is checked before pixels are read
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said in the reason, once
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture's header says, without its pixels."""

    width: int
    """Px, as shown, that is after the EXIF rotation."""
    height: int
    """Px, as shown, that is after the EXIF rotation."""
    format: str
    """JPEG, PNG, TIFF or BMP."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    pages: int
    """Pictures in the file; TIFF may hold several. The previews that a phone hides in its JPEG are not counted."""

    @property
    def megapixels(self) -> float:
        """Width times height, in millions."""
        return self.width * self.height / 1e6


@dataclass(frozen=True, kw_only=True, eq=False)
class Micrograph:
    """One decoded image of one field of view."""

    pixels: NDArray[np.uint8]
    """(Y, X, 3) RGB, upright; the picture divided by `reduction`."""
    reduction: int = 1
    """1, 2, 4 or 8: pixels of the picture, in each direction, that one of `pixels` stands for."""
    um_per_px: float | None = None
    """Size of a native pixel in the sample; None where unknown. Never taken from a DPI tag, which says how to print."""

    @property
    def native_shape(self) -> tuple[int, int]:
        """(height, width) of the picture as uploaded, px."""
        return self.pixels.shape[0] * self.reduction, self.pixels.shape[1] * self.reduction


def read_header(data: bytes) -> Header:
    """Read the size and format of a picture without decoding it.

    Raises:
        MicrographError: the bytes are not a JPEG, PNG, TIFF or BMP.
        MemoryError: the process has too little left, which says nothing of the picture.
    """
    if not data:
        raise MicrographError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        orientation = _orientation(image)
        frames = int(getattr(image, "n_frames", 1))
    except (MicrographError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever its parsers of untrusted bytes run into
        raise MicrographError(_header_reason(data, error)) from error
    width, height = image.size
    if orientation in TRANSPOSING_ORIENTATIONS and image.format != "TIFF":  # a TIFF's size is given as shown
        width, height = height, width
    kind, pages = ("JPEG", 1) if image.format == "MPO" else (str(image.format), frames)
    return Header(width=width, height=height, format=kind, orientation=orientation, pages=pages)


def _orientation(image: Image.Image) -> int:
    try:
        # the base class's: PNG's own decodes all pixels to look for a chunk behind them
        orientation = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception as error:  # as in `read_header`
        raise MicrographError(f"{_broken(str(image.format))}: its EXIF data cannot be read") from error
    return orientation if orientation in range(1, 9) else 1


def _header_reason(data: bytes, error: Exception) -> str:
    looks = picture_format(data)
    if looks is None:
        return not_a_picture(data)
    return _broken(looks) if isinstance(error, UnidentifiedImageError) else f"{_broken(looks)}: {first_line(error)}"


def decode_micrograph(
    data: bytes,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    um_per_px: float | None = None,
    view: View | None = None,
) -> Micrograph:
    """Decode a JPEG, PNG, TIFF or BMP to upright 8-bit RGB; 16 bits and grey are brought to it.

    A JPEG is decoded at a half, a quarter or an eighth where a network sees no more of it. Only where its sides can be
    divided without a rest: so each pixel stands for a square of pixels, and places map back exactly.

    Args:
        data: the file's bytes.
        max_megapixels: a larger picture is refused from its header, without allocating its pixels.
        um_per_px: the pixel size, where the caller knows it.
        view: how a network will see the picture; None decodes all of it.

    Raises:
        MicrographError: not a usable picture: empty, not an image, too large, several pages, truncated, corrupt.
        MemoryError: the process has too little left, which says nothing of the picture.
    """
    header = read_header(data)
    if header.megapixels > max_megapixels:
        raise MicrographError(
            f"{header.width} x {header.height} px is {header.megapixels:.0f} megapixels; "
            f"at most {max_megapixels:g} are allowed"
        )
    if header.pages != 1:
        raise MicrographError(f"{header.format} with {header.pages} pictures; one field of view a file is needed")
    by, shape = 1, (header.height, header.width)
    if view and header.format == "JPEG":
        by = exact_reduction(shape, view.working_shape(shape))
    found = Micrograph(pixels=_decode_pixels(data, header, by), reduction=by, um_per_px=um_per_px)
    if found.native_shape != shape:
        height, width = found.native_shape
        raise MicrographError(
            f"{_broken(header.format)}: its header says {header.width} x {header.height} px, "
            f"it holds {width} x {height}"
        )
    return found


def _decode_pixels(data: bytes, header: Header, by: int) -> NDArray[np.uint8]:
    """Return the picture (Y, X, 3) RGB as shown, divided by 1 or, where it is a JPEG, 2, 4 or 8."""
    if header.format == "TIFF":  # both readers turn a TIFF as it is shown
        small = _decode_8_bit_tiff(data)
        return _decode_with_opencv(data, "TIFF") if small is None else small
    if header.format == "JPEG":
        return upright(_decode_jpeg(data, by), header.orientation)
    return upright(_decode_with_opencv(data, header.format), header.orientation)


def _decode_jpeg(data: bytes, by: int) -> NDArray[np.uint8]:
    pixels = np.asarray(_opencv_pixels(data, "JPEG", JPEG_FLAGS[by]), np.uint8)
    if (pixels[-1, -1] == MISSING_GREY).all() and _lacks_data(data):
        raise MicrographError(f"{_broken('JPEG')}: its lower part is missing")
    return pixels


def _decode_8_bit_tiff(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of a TIFF as shown, or None where it has more than 8 bits or unusual colours."""
    try:
        image: Any = Image.open(io.BytesIO(data), formats=("TIFF",))
        bits = image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (1,))
        if len(bits) > 1 and max(bits) > 8 and image.tag_v2.get(TIFF_PLANES) == SEPARATE_PLANES:
            raise MicrographError("TIFF of 16 bits with a plane a colour; save it with the colours of a pixel together")
        if FLOATING_POINT in image.tag_v2.get(TIFF_SAMPLE_FORMAT, ()):
            raise MicrographError("TIFF with fractions for pixels; save it with whole numbers of 8 or 16 bits")
        if image.mode not in TIFF_MODES or max(bits) > 8:
            return None
        return np.array(image.convert("RGB"))
    except (MicrographError, MemoryError):
        raise
    except Exception as error:  # as in `read_header`
        raise MicrographError(f"{_broken('TIFF')}: {first_line(error)}") from error


def _decode_with_opencv(data: bytes, kind: str) -> NDArray[np.uint8]:
    # not IMREAD_COLOR_RGB: OpenCV 5.0.0 scrambles 16-bit TIFF with it
    bgr = _opencv_pixels(data, kind, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if bgr.dtype not in (np.uint8, np.uint16):
        raise MicrographError(f"{kind} with pixels of type {bgr.dtype}; unsigned integers of 8 or 16 bits are needed")
    return np.asarray(cv2.cvtColor(_to_8_bits(bgr), cv2.COLOR_BGR2RGB), np.uint8)


def _opencv_pixels(data: bytes, kind: str, flags: int) -> NDArray[Any]:
    """Return the pixels as stored: the header's orientation is the one that counts, here and for annotations."""
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == OUT_OF_MEMORY:
            raise MemoryError from error
        raise MicrographError(f"{_broken(kind)}: {first_line(error)}") from error
    if pixels is None:
        damage = png_damage(data) if kind == "PNG" else None
        raise MicrographError(_broken(kind) + (f": {damage}" if damage else ""))
    return np.asarray(pixels)


def _to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the 8 highest bits that the camera used.

    A camera of 12 bits writes 16-bit files that would come out black. Which camera it was is seen from the brightest
    pixel: the fewest bits of `SENSOR_BITS` that hold it. Bright field leaves no doubt, its background is bright.
    """
    if pixels.dtype == np.uint8:
        return pixels
    brightest = int(pixels.max())
    bits = next(bits for bits in SENSOR_BITS if brightest < 2**bits)
    return (pixels >> (bits - 8)).astype(np.uint8)


def _lacks_data(data: bytes) -> bool:
    """Say whether a JPEG was cut and closed with an end marker, which libjpeg accepts and fills with grey.

    Where data is missing, bytes put before the end marker show up as pixels; in a whole picture they are skipped. They
    may show in the finest detail only, so the whole picture is looked at, however far it is to be reduced.
    """
    end = data.rfind(END_OF_JPEG)
    probe = data[:end] + bytes(range(1, 128)) + data[end:]
    as_is, probed = (_opencv_pixels(one, "JPEG", JPEG_FLAGS[1]) for one in (data, probe))
    return not np.array_equal(as_is, probed)


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


def _broken(kind: str) -> str:
    return f"truncated or corrupt {kind}" + (", or of a kind that is not read" if kind == "TIFF" else "")
