"""The header of a picture, read before any pixel, in bounded time and memory for any bytes.

The modules for JPEG, PNG and TIFF parse only the few fields that are needed. Each says why it does not use Pillow's
reader. The header of a BMP has a fixed size, and Pillow reads it.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from spermseg.errors import MicrographError
from spermseg.micrograph.diagnose import broken, not_a_picture, picture_format
from spermseg.micrograph.jpeg import read_frame
from spermseg.micrograph.orientation import TRANSPOSING_ORIENTATIONS, UPRIGHT
from spermseg.micrograph.png import read_png
from spermseg.micrograph.tiff import read_page

Image.MAX_IMAGE_PIXELS = None  # callers check their own limit before pixels are read
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a rejection has its own reason


@dataclass(frozen=True, kw_only=True)
class Header:
    """The fields of a picture's header."""

    width: int
    """Px, after the EXIF rotation."""
    height: int
    """Px, after the EXIF rotation."""
    format: str
    """JPEG, PNG, TIFF or BMP."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    pages: int
    """Number of full pictures in the file, without thumbnails, previews and masks. TIFF can hold several."""

    @property
    def megapixels(self) -> float:
        """Width times height, in millions."""
        return self.width * self.height / 1e6


def read_header(data: bytes) -> Header:
    """Read the size and format of a picture without decoding it.

    Raises:
        MicrographError: the bytes are not a JPEG, PNG, TIFF or BMP, are damaged, or would take hours to decode.
        MemoryError: this process has too little memory, which is no fault of the picture.
    """
    if not data:
        raise MicrographError("the file is empty")
    kind = picture_format(data)
    if kind is None:
        raise MicrographError(not_a_picture(data))
    if kind == "TIFF":
        page = read_page(data)
        return _shown(kind, page.shown_size, page.orientation, page.pages)
    if kind == "JPEG":
        frame = read_frame(data)
        return _shown(kind, _turned((frame.height, frame.width), frame.orientation), frame.orientation)
    if kind == "PNG":
        png = read_png(data)
        return _shown(kind, _turned((png.height, png.width), png.orientation), png.orientation, png.pages)
    return _shown(kind, _bmp_size(data), UPRIGHT)


def _shown(kind: str, size: tuple[int, int], orientation: int, pages: int = 1) -> Header:
    return Header(height=size[0], width=size[1], format=kind, orientation=orientation, pages=pages)


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in TRANSPOSING_ORIENTATIONS else size


def _bmp_size(data: bytes) -> tuple[int, int]:
    try:
        width, height = Image.open(io.BytesIO(data), formats=("BMP",)).size
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of any kind for untrusted bytes
        raise MicrographError(broken("BMP")) from error
    return height, width
