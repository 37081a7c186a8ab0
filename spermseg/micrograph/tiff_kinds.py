"""Which kinds of TIFF are supported, by their tags, and the reasons for refusing the others.

A kind is either decoded correctly or refused. Decoders do not refuse all unknown kinds: they may take signed numbers
for unsigned ones, or a separate colour plane for grey. The numbers of tags and values are from TIFF 6.0 and libtiff.
"""

import functools
import io

from PIL import Image

from spermseg.errors import MicrographError
from spermseg.micrograph import tiff
from spermseg.micrograph.diagnose import broken
from spermseg.micrograph.tiff import TiffPage

NARROW_BITS = (1, 2, 4, 8)
WIDE_BITS = (10, 12, 14, 16)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
GREY = (WHITE_IS_ZERO, BLACK_IS_ZERO)
RAW_COLOURS = (32803, 34892)
OTHER_COLOURS = {4: "a mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
SIGNED, FLOATING_POINT = 2, 3
NO_NUMBERS = (5, 6)
SEPARATE_PLANES = 2  # OpenCV takes them for interleaved if they have 16 bits
JPEG = 7
PILLOWS_PACKINGS = {34925: "lzma", 50000: "zstd", 50001: "webp"}
"""Compression -> Pillow's name. OpenCV's libtiff lacks these. Some builds of Pillow have them."""
PACKINGS = {
    **dict.fromkeys((34712, 33003, 33004, 33005), "JPEG 2000"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    34661: "JBIG",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
}
"""Compression -> name, of those that are not, or not always, supported."""
SAVE_AS = "export one field of view as TIFF, PNG or JPEG"
UNPACKED = "save it without compression, or with LZW"
WHOLE_NUMBERS = "save it with whole numbers of 8 or 16 bits"


def check_kind(page: TiffPage) -> None:
    """Refuse a TIFF of a kind that is not supported.

    Raises:
        MicrographError: the kind is not supported; the message names the kind and what is needed.
    """
    reason = _whose(page) or _numbers(page) or _colours(page) or _packing(page)
    if reason:
        raise MicrographError(f"TIFF {reason}")
    height, width = page.shown_size
    tiles = -(-height // tiff.SMALLEST_TILE) * -(-width // tiff.SMALLEST_TILE)
    pieces = max(page.counts.get(tag, 0) for tag in (tiff.STRIPS, tiff.TILES))
    if pieces > max(height, width, tiles) * page.samples:
        raise MicrographError(f"{broken('TIFF')}: {pieces} pieces are more than it has pixels for")


def is_wide(page: TiffPage) -> bool:
    """Return whether a page has more than 8 bits per sample."""
    return page.bits in WIDE_BITS


def is_white_zero(page: TiffPage) -> bool:
    """Return whether 0 stands for white."""
    return page.colours == WHITE_IS_ZERO


def is_for_pillow(page: TiffPage) -> bool:
    """Return whether a page has a compression that only Pillow may support."""
    return page.number(tiff.COMPRESSION, 1) in PILLOWS_PACKINGS


def _whose(page: TiffPage) -> str | None:
    if page.texts.get(tiff.DESCRIPTION, b"").startswith(b"Aperio"):
        return f"of a whole slide (Aperio SVS); {SAVE_AS}"
    if tiff.HAMAMATSU in page.counts:
        return f"of a whole slide (Hamamatsu NDPI); {SAVE_AS}"
    if tiff.DNG in page.counts or page.colours in RAW_COLOURS:
        return f"of a camera's raw data; {SAVE_AS}"
    return None


def _numbers(page: TiffPage) -> str | None:
    formats = page.numbers.get(tiff.SAMPLE_FORMAT, ())
    if FLOATING_POINT in formats:
        return f"with fractions for pixels; {WHOLE_NUMBERS}"
    if SIGNED in formats:
        return f"with signed numbers for pixels; {WHOLE_NUMBERS} without a sign"
    if any(kind in NO_NUMBERS for kind in formats):
        return f"with complex numbers for pixels; {WHOLE_NUMBERS}"
    if not page.bits:
        return f"with numbers of different bits in a pixel; {WHOLE_NUMBERS}"
    if page.bits not in (*NARROW_BITS, *WIDE_BITS):
        return f"with numbers of {page.bits} bits for pixels; {WHOLE_NUMBERS}"
    return None


def _colours(page: TiffPage) -> str | None:
    apart = page.samples > 1 and page.number(tiff.PLANES, 1) == SEPARATE_PLANES
    wide = is_wide(page)
    if wide and apart:
        return "of 16 bits with one plane for each colour; save it with interleaved colours"
    if page.colours not in (*GREY, RGB, PALETTE, CMYK, YCBCR):
        return f"with colours of the kind {OTHER_COLOURS.get(page.colours, page.colours)}; save it as grey or RGB"
    if page.colours in GREY and page.samples > 1 and (apart or wide or page.samples > 2 or is_white_zero(page)):
        return f"with {page.samples} numbers a pixel that are no colours; save it as grey or RGB"
    if wide and page.colours not in (*GREY, RGB):
        return "of 16 bits with colours that are neither grey nor RGB; save it as grey or RGB"
    if page.colours == RGB and not 3 <= page.samples <= (4 if wide else page.samples):
        return f"with {page.samples} numbers for a colour; save it as grey or RGB"
    return None


def _packing(page: TiffPage) -> str | None:
    packing = page.number(tiff.COMPRESSION, 1)
    if is_wide(page) and packing == JPEG:
        return f"packed as JPEG of 12 bits, which is not read; {UNPACKED}"
    if packing not in PACKINGS:
        return None
    if packing not in PILLOWS_PACKINGS or not pillow_unpacks(PILLOWS_PACKINGS[packing]):
        return f"packed with {PACKINGS[packing]}, which is not read; {UNPACKED}"
    if is_wide(page) and page.colours != BLACK_IS_ZERO:
        only = "in this packing, only grey with 0 as black is read"
        return f"of 16 bits packed with {PACKINGS[packing]}; {only}; {UNPACKED}"
    return None


@functools.cache
def pillow_unpacks(packing: str) -> bool:
    """Return whether Pillow's libtiff supports a compression, by a trial: compress a small picture and decode it."""
    file = io.BytesIO()
    try:
        Image.new("RGB", (16, 16)).save(file, "TIFF", compression=packing)
        Image.open(file, formats=("TIFF",)).load()
    except Exception:  # noqa: BLE001 (after any error, the compression counts as unsupported)
        return False
    return True
