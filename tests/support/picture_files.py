"""Picture files of every format, for the tests of decoding."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from spermseg.errors import MicrographError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.tiling import Tiles


def smooth(height: int = 60, width: int = 84) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(cv2.normalize(blurred, np.empty_like(blurred), 0, 255, cv2.NORM_MINMAX))


RGB = smooth()
PICTURE = Image.fromarray(RGB)


def encode(kind: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def encode_tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def as_pillow_shows(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def rejection(data: bytes, **options: Any) -> str:
    """Return the reason, which is one line."""
    with pytest.raises(MicrographError) as raised:
        decode_micrograph(data, **options)
    assert "\n" not in raised.value.message
    return raised.value.message


WHOLE_AND_REDUCED = {
    "whole": None,
    "half": Tiles(scale=0.5, tile=16, halo=0),
    "quarter": Tiles(scale=0.25, tile=16, halo=0),
    "eighth": Tiles(scale=0.125, tile=16, halo=0),
}
"""Views, by how a JPEG is decoded for them where its sides allow it."""
views = pytest.mark.parametrize("view", WHOLE_AND_REDUCED.values(), ids=WHOLE_AND_REDUCED.keys())
FILES = {
    "JPEG": encode("JPEG"),
    "JPEG progressive": encode("JPEG", progressive=True),
    "JPEG restart markers": encode("JPEG", restart_marker_rows=1),
    "JPEG full colour": encode("JPEG", subsampling=0),
    "JPEG grey": encode("JPEG", PICTURE.convert("L")),
    "PNG": encode("PNG"),
    "PNG grey": encode("PNG", PICTURE.convert("L")),
    "PNG grey alpha": encode("PNG", PICTURE.convert("LA")),
    "PNG alpha": encode("PNG", PICTURE.convert("RGBA")),
    "PNG palette": encode("PNG", PICTURE.convert("P")),
    "PNG 1 bit": encode("PNG", PICTURE.convert("1")),
    "TIFF": encode("TIFF"),
    "TIFF grey": encode("TIFF", PICTURE.convert("L")),
    "TIFF alpha": encode("TIFF", PICTURE.convert("RGBA")),
    "TIFF palette": encode("TIFF", PICTURE.convert("P")),
    "TIFF 1 bit": encode("TIFF", PICTURE.convert("1")),
    "TIFF CMYK": encode("TIFF", PICTURE.convert("CMYK")),
    "TIFF white is 0": encode("TIFF", PICTURE.convert("L"), tiffinfo={262: 0}),
    "TIFF LZW": encode("TIFF", compression="tiff_lzw"),
    "TIFF deflate": encode("TIFF", compression="tiff_adobe_deflate"),
    "TIFF PackBits": encode("TIFF", compression="packbits"),
    "TIFF JPEG": encode("TIFF", compression="jpeg"),
    "TIFF big": encode("TIFF", big_tiff=True),
    "TIFF big endian": encode_tiff(RGB, byteorder=">", photometric="rgb"),
    "TIFF tiled": encode_tiff(RGB, tile=(16, 16), photometric="rgb"),
    "TIFF planar": encode_tiff(np.moveaxis(RGB, 2, 0), planarconfig="separate", photometric="rgb"),
    "BMP": encode("BMP"),
    "BMP grey": encode("BMP", PICTURE.convert("L")),
    "BMP palette": encode("BMP", PICTURE.convert("P")),
    "BMP 1 bit": encode("BMP", PICTURE.convert("1")),
}
files = pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
BIG = Image.fromarray(smooth(296, 392))
