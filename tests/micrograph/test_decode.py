"""Decoding: every format, depth and orientation against Pillow; damage is rejected or harmless; lies take no memory."""

import io
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from spermseg.errors import MicrographError
from spermseg.micrograph.decode import decode_micrograph, read_header

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "sperm-parsing" / "images"


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as decode.py does outside pytest


def smooth(height: int = 60, width: int = 84) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


RGB = smooth()
PICTURE = Image.fromarray(RGB)


def encode(kind: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def encode_tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def as_pillow_shows(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def rejection(data: bytes, **options: float) -> str:
    """Return the reason, which is one line."""
    with pytest.raises(MicrographError) as raised:
        decode_micrograph(data, **options)
    assert "\n" not in raised.value.message
    return raised.value.message


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
    assert found.shape == (header.height, header.width) == ((60, 84) if orientation < 5 else (84, 60))
    assert header.orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_header(encode("JPEG", exif=exif)).orientation == 1
    assert decode_micrograph(encode("JPEG", exif=exif)).shape == (60, 84)


def test_an_orientation_in_xmp_alone_counts_for_header_and_pixels_alike():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode("JPEG", xmp=xmp)
    header = read_header(data)
    assert decode_micrograph(data).shape == (header.height, header.width)
    assert np.array_equal(decode_micrograph(data).pixels, as_pillow_shows(data))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
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
    assert "a plane a colour" in rejection(encode_tiff(planes, planarconfig="separate", photometric="rgb"))


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


def cuts(data: bytes) -> Iterator[bytes]:
    """Cut at every tenth, at each of the last bytes, and at each of the first."""
    lengths = {len(data) * tenth // 10 for tenth in range(10)} | set(range(64)) | set(range(len(data) - 24, len(data)))
    return (data[:length] for length in sorted(lengths) if 0 <= length < len(data))


@files
def test_a_cut_file_is_rejected_or_decodes_to_the_same_pixels(data):
    whole = decode_micrograph(data).pixels
    accepted = 0
    for cut in cuts(data):
        try:
            found = decode_micrograph(cut).pixels
        except MicrographError:
            continue
        accepted += 1
        assert np.array_equal(found, whole)
    assert accepted <= 24


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("JPEG", "PNG", "TIFF deflate"))])
@pytest.mark.parametrize("filler", [b"\0", b"\xff"], ids=["zeros", "ones"])
@pytest.mark.parametrize("tenth", [3, 6, 9])
def test_a_file_whose_end_was_never_written_is_rejected_where_its_format_can_tell(name, filler, tenth):
    """A copy that was broken off often has its full length, and zeros where the rest should be."""
    length = len(FILES[name]) * tenth // 10
    rejection(FILES[name][:length] + filler * (len(FILES[name]) - length))


BIG = Image.fromarray(smooth(300, 400))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"restart_marker_rows": 1},
        {"optimize": True},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    ],
    ids=["plain", "full colour", "restart markers", "optimised", "turned"],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("tenth", [3, 5, 7, 9])
def test_a_jpeg_that_was_cut_and_closed_is_rejected_for_its_grey_rest(options, mode, tenth):
    data = encode("JPEG", BIG.convert(mode), **options)
    closed = data[: len(data) * tenth // 10] + b"\xff\xd9"
    assert "its lower part is missing" in rejection(closed)


def test_a_progressive_jpeg_that_was_cut_in_its_first_scan_is_rejected():
    data = encode("JPEG", BIG, progressive=True)
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert "its lower part is missing" in rejection(data[: (scans[0] + scans[1]) // 2] + b"\xff\xd9")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_whole_jpeg_of_the_grey_that_stands_for_missing_data_is_accepted(progressive):
    grey = Image.new("RGB", (200, 100), (128, 128, 128))
    assert (decode_micrograph(encode("JPEG", grey, progressive=progressive)).pixels == 128).all()
    half = RGB.copy()
    half[30:] = 128
    assert (decode_micrograph(encode("JPEG", Image.fromarray(half), quality=95)).pixels[-1, -1] == 128).all()


@pytest.mark.parametrize(("name", "share"), [("PNG", 0.0), ("TIFF deflate", 0.5)])
def test_flipped_bytes_are_noticed_where_the_format_has_checksums(name, share):
    """Always in PNG; in TIFF where the stream breaks, for libtiff stops before the checksum."""
    data = encode("TIFF", BIG, compression="tiff_adobe_deflate") if name.startswith("TIFF") else encode("PNG", BIG)
    whole, changed = decode_micrograph(data).pixels, 0
    for place in np.random.default_rng(0).integers(len(data) // 20, len(data) * 19 // 20, 100):
        flipped = bytearray(data)
        flipped[place] ^= 0x55
        try:
            changed += not np.array_equal(decode_micrograph(bytes(flipped)).pixels, whole)
        except MicrographError:
            continue
    assert changed <= 100 * share


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes_only_ever_give_a_picture_or_a_rejection(name, flips):
    data = bytearray(FILES[name])
    for place, change in flips:
        data[min(int(place**3 * len(data)), len(data) - 1)] ^= change  # most of them in the header
    decode_or_reject(bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"BM"]),
    st.binary(max_size=200),
)
@example(b"II*\0", b"\x08\0\0\0" + b"\0" * 100)
def test_random_bytes_only_ever_give_a_picture_or_a_rejection(magic, rest):
    decode_or_reject(magic + rest)


def decode_or_reject(data: bytes) -> None:
    try:
        found = decode_micrograph(data, max_megapixels=1)
    except MicrographError as error:
        reason = error.message
    else:
        assert found.pixels.ndim == 3
        assert found.pixels.shape[2] == 3
        return
    assert reason
    assert "\n" not in reason


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", b"\0" * 20) + chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def tiff_header(width: int, height: int) -> bytes:
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, 100),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0"


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(FILES["JPEG"])
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png_header(100_000, 100_000), "100000 x 100000 px is 10000 megapixels; at most 200 are allowed"),
        (png_header(2**31 - 1, 2**31 - 1), "at most 200 are allowed"),
        (bmp_header(100_000, 100_000), "100000 x 100000 px is 10000 megapixels"),
        (bmp_header(100_000, -100_000), "100000 x 100000 px is 10000 megapixels"),
        (bmp_header(2**31 - 1, -(2**31) + 1), "megapixels"),
        (bmp_header(-100_000, 100_000), ""),
        (bmp_header(0, 0), ""),
        (tiff_header(100_000, 100_000), "100000 x 100000 px is 10000 megapixels"),
        (tiff_header(0xFFFFFFFF, 0xFFFFFFFF), "megapixels"),
        (jpeg_header(65_000, 65_000), "65000 x 65000 px is 4225 megapixels"),
        (jpeg_header(0, 100), ""),
    ],
    ids=[
        "png",
        "png largest",
        "bmp",
        "bmp top down",
        "bmp largest",
        "bmp negative",
        "bmp empty",
        "tiff",
        "tiff largest",
        "jpeg",
        "jpeg empty",
    ],
)
def test_an_absurd_size_is_refused_without_taking_the_memory(data, said):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said in rejection(data)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken * (1 if sys.platform == "darwin" else 1024) < 100e6


def test_the_limit_is_the_callers():
    data = encode("PNG", Image.new("L", (300, 200)))
    assert decode_micrograph(data, max_megapixels=0.06).shape == (200, 300)
    assert "at most 0.059 are allowed" in rejection(data, max_megapixels=0.059)


def test_a_picture_larger_than_pillow_trusts_has_a_header_like_any_other():
    assert read_header(png_header(20_000, 20_000)).megapixels == 400


def test_several_pictures_in_a_file_are_rejected_but_the_preview_of_a_phone_is_not():
    assert rejection(encode("TIFF", save_all=True, append_images=[PICTURE])) == (
        "TIFF with 2 pictures; one field of view a file is needed"
    )
    assert "PNG with 2 pictures" in rejection(encode("PNG", save_all=True, append_images=[Image.new("RGB", (84, 60))]))
    phone = encode("MPO", save_all=True, append_images=[Image.new("RGB", (20, 10))])
    assert read_header(phone).format == "JPEG"
    assert np.array_equal(decode_micrograph(phone).pixels, decode_micrograph(FILES["JPEG"]).pixels)


def test_a_tiff_whose_directories_form_a_ring_ends():
    data = bytearray(FILES["TIFF"])
    (first,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[first : first + 2])
    data[first + 2 + 12 * entries : first + 6 + 12 * entries] = struct.pack("<I", first)
    assert decode_micrograph(bytes(data)).shape == (60, 84)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"patient,count\n1,20\n", "not a JPEG, PNG, TIFF or BMP picture"),
        (encode("GIF"), "not a JPEG, PNG, TIFF or BMP picture"),
        (FILES["JPEG"][:500], "truncated or corrupt JPEG"),
        (FILES["PNG"][:500], "truncated or corrupt PNG"),
        (FILES["TIFF"][:500], "truncated or corrupt TIFF"),
        (FILES["BMP"][:500], "truncated or corrupt BMP"),
    ],
)
def test_the_reason_says_what_is_wrong(data, reason):
    assert rejection(data).startswith(reason)


def test_the_pixel_size_is_the_callers():
    assert decode_micrograph(FILES["PNG"]).um_per_px is None
    assert decode_micrograph(FILES["PNG"], um_per_px=0.1).um_per_px == 0.1


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real micrographs of sperm-parsing are not beside the project")
def test_real_micrographs_decode_as_pillow_shows_them():
    for path in sorted(REAL.iterdir())[:8]:
        assert np.array_equal(decode_micrograph(path.read_bytes()).pixels, as_pillow_shows(path.read_bytes()))
