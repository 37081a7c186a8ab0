"""Decoding: every format, depth and orientation against Pillow."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.picture_files import FILES, PICTURE, RGB, as_pillow_shows, encode, encode_tiff, files, rejection

from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.header import read_header

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "sperm-parsing" / "images"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as decode.py does outside pytest


@files
def test_pixels_are_those_that_pillow_shows(data):
    found = decode_micrograph(data).pixels
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, as_pillow_shows(data))


def test_a_cmyk_jpeg_has_its_colours():
    found = decode_micrograph(encode("JPEG", PICTURE.convert("CMYK"), quality=95, subsampling=0)).pixels
    assert np.abs(found.astype(int) - RGB).mean() < 3


@files
def test_the_header_says_the_size_and_format(data, request):
    header = read_header(data)
    assert (header.width, header.height, header.pages, header.orientation) == (84, 60, 1, 1)
    assert header.format == request.node.callspec.id.split()[0]
    assert header.megapixels == 84 * 60 / 1e6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "TIFF 16 bit"])
def test_a_picture_is_turned_as_its_orientation_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF 16 bit":
        tag = (274, "H", 1, orientation, True)
        data = encode_tiff(RGB.astype(np.uint16) * 257, photometric="rgb", extratags=[tag])
    else:
        data = encode(kind, exif=exif)
    found, header = decode_micrograph(data), read_header(data)
    assert np.array_equal(found.pixels, as_pillow_shows(data))
    assert found.native_shape == (header.height, header.width) == ((60, 84) if orientation < 5 else (84, 60))
    assert header.orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_header(encode("JPEG", exif=exif)).orientation == 1
    assert decode_micrograph(encode("JPEG", exif=exif)).native_shape == (60, 84)


def test_an_orientation_in_xmp_alone_counts_for_header_and_pixels_alike():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode("JPEG", xmp=xmp)
    header = read_header(data)
    assert decode_micrograph(data).native_shape == (header.height, header.width)
    assert np.array_equal(decode_micrograph(data).pixels, as_pillow_shows(data))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff grey", "tiff LZW"])
def test_pixels_of_a_camera_come_out_as_bright_as_it_saw_them(kind, bits):
    stored = RGB.astype(np.uint16) << (bits - 8)
    if kind == "png":
        data, expected = cv2.imencode(".png", stored[..., ::-1])[1].tobytes(), RGB
    elif kind == "tiff grey":
        data, expected = encode_tiff(stored[..., 1]), np.repeat(RGB[..., 1:2], 3, axis=2)
        assert expected.max() >= 128, "or it would count as a camera of fewer bits"
    elif kind == "tiff LZW":
        data, expected = cv2.imencode(".tiff", stored[..., ::-1])[1].tobytes(), RGB
    else:
        data, expected = encode_tiff(stored, photometric="rgb"), RGB
    assert np.array_equal(decode_micrograph(data).pixels, expected)


def test_a_black_picture_of_16_bits_stays_black():
    assert not decode_micrograph(encode_tiff(np.zeros((20, 30), np.uint16))).pixels.any()


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint32, np.int16, np.float64])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_pixels_of_another_type_are_rejected(kind, shape):
    photometric = "minisblack" if len(shape) == 2 else "rgb"
    assert "TIFF" in rejection(encode_tiff(np.ones(shape, kind), photometric=photometric))


def test_planes_of_16_bits_are_rejected_rather_than_scrambled():
    planes = np.moveaxis(RGB.astype(np.uint16) * 257, 2, 0)
    assert "one plane for each colour" in rejection(encode_tiff(planes, planarconfig="separate", photometric="rgb"))


@pytest.mark.parametrize(
    "options", [{"tile": (16, 16)}, {"rowsperstrip": 7}, {"byteorder": ">"}, {"compression": "zlib"}], ids=str
)
@pytest.mark.parametrize("grey", [False, True])
def test_a_tiff_of_16_bits_is_read_however_it_is_laid_out(options, grey):
    pixels = RGB[..., 0] if grey else RGB
    data = encode_tiff(pixels.astype(np.uint16) * 257, photometric="minisblack" if grey else "rgb", **options)
    assert np.array_equal(
        decode_micrograph(data).pixels, pixels[..., np.newaxis] * np.ones(3, np.uint8) if grey else RGB
    )


def test_several_pictures_in_a_file_are_rejected_but_the_preview_of_a_phone_is_not():
    assert rejection(encode("TIFF", save_all=True, append_images=[PICTURE])) == (
        "TIFF with 2 pictures; a file with one field of view is needed"
    )
    assert "PNG with 2 pictures" in rejection(encode("PNG", save_all=True, append_images=[Image.new("RGB", (84, 60))]))
    phone = encode("MPO", save_all=True, append_images=[Image.new("RGB", (20, 10))])
    assert read_header(phone).format == "JPEG"
    assert np.array_equal(decode_micrograph(phone).pixels, decode_micrograph(FILES["JPEG"]).pixels)


def test_the_pixel_size_is_the_callers():
    assert decode_micrograph(FILES["PNG"]).um_per_px is None
    assert decode_micrograph(FILES["PNG"], um_per_px=0.1).um_per_px == 0.1


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real micrographs of sperm-parsing are not beside the project")
def test_real_micrographs_decode_as_pillow_shows_them():
    for path in sorted(REAL.iterdir())[:8]:
        assert np.array_equal(decode_micrograph(path.read_bytes()).pixels, as_pillow_shows(path.read_bytes()))
