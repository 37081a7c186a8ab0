"""What a picture's header says, read in time and memory that its bytes bound: before any pixel, whatever they hold.

JPEG, PNG and TIFF are read for the little that counts: their modules say why Pillow's readers are not used for it. A
BMP has a header of a fixed size, which Pillow reads.
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

Image.MAX_IMAGE_PIXELS = None  # the limit is the caller's, and is checked before pixels are read
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # what is wrong is said in the reason, once


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
    """Full pictures in the file; TIFF may hold several. Thumbnails, previews and masks are not counted."""

    @property
    def megapixels(self) -> float:
        """Width times height, in millions."""
        return self.width * self.height / 1e6


def read_header(data: bytes) -> Header:
    """Read the size and format of a picture without decoding it.

    Raises:
        MicrographError: the bytes are not a JPEG, PNG, TIFF or BMP, or one that would take hours.
        MemoryError: the process has too little left, which says nothing of the picture.
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
    except Exception as error:  # Pillow raises whatever its parsers of untrusted bytes run into
        raise MicrographError(broken("BMP")) from error
    return height, width
