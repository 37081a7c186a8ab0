"""Decoding what is not whole: damage is rejected or harmless, and lies take no memory."""

import resource
import struct
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.picture_files import BIG, FILES, RGB, WHOLE_AND_REDUCED, encode, files, rejection, views

from spermseg.errors import MicrographError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.header import read_header
from spermseg.micrograph.tiling import View

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as decode.py does outside pytest


def cuts(data: bytes) -> Iterator[bytes]:
    """Cut at every tenth, at each of the last bytes, and at each of the first."""
    lengths = {len(data) * tenth // 10 for tenth in range(10)} | set(range(64)) | set(range(len(data) - 24, len(data)))
    return (data[:length] for length in sorted(lengths) if 0 <= length < len(data))


@files
@views
def test_a_cut_file_is_rejected_or_decodes_to_the_same_pixels(data, view):
    whole = decode_micrograph(data, view=view).pixels
    accepted = 0
    for cut in cuts(data):
        try:
            found = decode_micrograph(cut, view=view).pixels
        except MicrographError:
            continue
        accepted += 1
        assert np.array_equal(found, whole)
    assert accepted <= 24


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("JPEG", "PNG", "TIFF deflate"))])
@pytest.mark.parametrize("filler", [b"\0", b"\xff"], ids=["zeros", "ones"])
@pytest.mark.parametrize("tenth", [3, 6, 9])
@views
def test_a_file_whose_end_was_never_written_is_rejected_where_its_format_can_tell(name, filler, tenth, view):
    """A copy that was broken off often has its full length, and zeros where the rest should be."""
    length = len(FILES[name]) * tenth // 10
    rejection(FILES[name][:length] + filler * (len(FILES[name]) - length), view=view)


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
@views
def test_a_jpeg_that_was_cut_and_closed_is_rejected_for_its_grey_rest(options, mode, tenth, view):
    data = encode("JPEG", BIG.convert(mode), **options)
    closed = data[: len(data) * tenth // 10] + b"\xff\xd9"
    assert "its lower part is missing" in rejection(closed, view=view)


@views
def test_a_progressive_jpeg_that_was_cut_in_its_first_scan_is_rejected(view):
    data = encode("JPEG", BIG, progressive=True)
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert "its lower part is missing" in rejection(data[: (scans[0] + scans[1]) // 2] + b"\xff\xd9", view=view)


@pytest.mark.parametrize("progressive", [False, True])
@views
def test_a_whole_jpeg_of_the_grey_that_stands_for_missing_data_is_accepted(progressive, view):
    grey = Image.new("RGB", (200, 104), (128, 128, 128))
    assert (decode_micrograph(encode("JPEG", grey, progressive=progressive), view=view).pixels == 128).all()
    half = RGB.copy()
    half[30:] = 128
    found = decode_micrograph(encode("JPEG", Image.fromarray(half), quality=95), view=view)
    assert (found.pixels[-1, -1] == 128).all()


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
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
    st.sampled_from(list(WHOLE_AND_REDUCED.values())),
)
def test_flipped_bytes_only_ever_give_a_picture_or_a_rejection(name, flips, view):
    data = bytearray(FILES[name])
    for place, change in flips:
        data[min(int(place**3 * len(data)), len(data) - 1)] ^= change  # most of them in the header
    decode_or_reject(bytes(data), view)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"BM"]),
    st.binary(max_size=200),
)
@example(b"II*\0", b"\x08\0\0\0" + b"\0" * 100)
def test_random_bytes_only_ever_give_a_picture_or_a_rejection(magic, rest):
    decode_or_reject(magic + rest)


def decode_or_reject(data: bytes, view: View | None = None) -> None:
    try:
        found = decode_micrograph(data, max_megapixels=1, view=view)
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
    assert decode_micrograph(data, max_megapixels=0.06).native_shape == (200, 300)
    assert "at most 0.059 are allowed" in rejection(data, max_megapixels=0.059)


def test_a_picture_larger_than_pillow_trusts_has_a_header_like_any_other():
    assert read_header(png_header(20_000, 20_000)).megapixels == 400


def test_a_tiff_whose_directories_form_a_ring_ends():
    data = bytearray(FILES["TIFF"])
    (first,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[first : first + 2])
    data[first + 2 + 12 * entries : first + 6 + 12 * entries] = struct.pack("<I", first)
    assert decode_micrograph(bytes(data)).native_shape == (60, 84)


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


def test_a_jpeg_without_its_end_mark_is_rejected_for_that():
    assert rejection(FILES["JPEG"][:-2]) == "truncated or corrupt JPEG: its end is missing"
