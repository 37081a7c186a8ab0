"""Headers: metadata never decide, whatever they are, and cost no more than their bytes."""

import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.broken_files import jpeg_of_scans
from support.picture_files import FILES, PICTURE, RGB, as_pillow_shows, encode, rejection

from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.header import read_header
from spermseg.micrograph.jpeg import MOST_SCANS, MOST_SEGMENTS
from spermseg.micrograph.png import MOST_CHUNKS, without_metadata
from spermseg.micrograph.tiff import MOST_DIRECTORIES

PNG_HEADER_ENDS = 33
BOMB = zlib.compress(bytes(32 << 20), 9)
"""32 MiB of metadata in 32 KiB."""


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes) -> bytes:
    whole = FILES["PNG"]
    return whole[:PNG_HEADER_ENDS] + b"".join(chunks) + whole[PNG_HEADER_ENDS:]


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", orientation) + bytes(6)


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"zTXt", b"Comment\0\0" + BOMB),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
        chunk(b"iCCP", b"printer\0\0" + BOMB),
        chunk(b"tEXt", b"Comment\0" + bytes(3 << 20)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 1_000_000),
        chunk(b"eXIf", b"no EXIF at all"),
        chunk(b"eXIf", exif(6)[:12]),
        chunk(b"eXIf", b""),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nnohex\n")),
        chunk(b"iCCP", b"\0\0\0"),
    ],
    ids=lambda metadata: metadata[4:30].decode("ascii", "replace"),
)
def test_a_whole_png_is_read_whatever_its_metadata_are(metadata):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = png_with(*[metadata] * 20)
    assert read_header(data).orientation == 1
    assert np.array_equal(decode_micrograph(data).pixels, RGB)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200e6


def raw_profile(*, packed: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n      26\n{exif(6).hex()}\n", zip=packed)
    return info


def xmp() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    return info


@pytest.mark.parametrize(
    "data",
    [
        png_with(chunk(b"zTXt", b"Comment\0\0" + BOMB), chunk(b"eXIf", exif(6))),
        encode("PNG", pnginfo=raw_profile(packed=True)),
        encode("PNG", pnginfo=raw_profile(packed=False)),
        encode("PNG", pnginfo=xmp()),
    ],
    ids=["EXIF beside what is too large", "packed text", "text", "XMP"],
)
def test_the_orientation_of_a_png_counts_wherever_it_can_be_read(data):
    header = read_header(data)
    assert (header.orientation, header.width, header.height) == (6, 60, 84)
    assert np.array_equal(decode_micrograph(data).pixels, np.rot90(RGB, -1))


@pytest.mark.parametrize("damaged", [exif(6)[:12], b"MI" + exif(6)[2:], b"", b"MM\0*\xff\xff\xff\xff"])
def test_damaged_exif_data_of_a_jpeg_and_a_png_leave_it_upright(damaged):
    for kind in ("JPEG", "PNG"):
        data = encode(kind, exif=b"Exif\0\0" + damaged if kind == "JPEG" else damaged)
        assert read_header(data).orientation == 1
        assert decode_micrograph(data).native_shape == (60, 84)


def test_only_metadata_are_taken_from_a_png_and_damage_in_the_rest_is_seen():
    data = png_with(chunk(b"tEXt", b"k\0v"), chunk(b"iCCP", b"p\0\0" + BOMB))
    assert without_metadata(data) == FILES["PNG"]
    assert without_metadata(FILES["PNG"]) is FILES["PNG"]
    assert rejection(data[:-20]) == "truncated or corrupt PNG: its end is missing"
    spoilt = bytearray(data)
    spoilt[data.index(b"IDAT") + 20] ^= 1
    assert rejection(bytes(spoilt)) == "truncated or corrupt PNG: a checksum is wrong"


def test_an_animated_png_is_as_many_pictures_as_it_shows():
    others = [Image.new("RGB", (84, 60), colour) for colour in ("red", "blue")]
    assert read_header(encode("PNG", save_all=True, append_images=others)).pages == 3
    assert read_header(encode("PNG", save_all=True, append_images=others, default_image=True)).pages == 3
    assert read_header(png_with(chunk(b"acTL", struct.pack(">II", 0, 0)))).pages == 1


def test_chunks_without_end_before_the_pixels_of_a_png_are_refused():
    assert np.array_equal(decode_micrograph(png_with(chunk(b"tEXt") * (MOST_CHUNKS - 1))).pixels, RGB)
    assert rejection(png_with(chunk(b"tEXt") * MOST_CHUNKS)) == (
        f"PNG with more than {MOST_CHUNKS} chunks before its pixels; save it again"
    )


@pytest.mark.parametrize("filler", [b"\xff" * 100_000, b"\xff\0" * 50_000, b"\xff\xfe\0\x04ab" * 5000])
def test_what_lies_between_the_segments_of_a_jpeg_is_skipped(filler):
    data = b"\xff\xd8" + filler + encode("JPEG", exif=b"Exif\0\0" + exif(6))[2:]
    assert (read_header(data).width, read_header(data).orientation) == (60, 6)
    assert np.array_equal(decode_micrograph(data).pixels, np.rot90(as_pillow_shows(FILES["JPEG"]), -1))


@pytest.mark.parametrize("segment", [b"\xff\xec\0\2", b"\xff\xd8", b"\xff\x01"])
def test_segments_without_end_before_the_pixels_of_a_jpeg_are_refused(segment):
    reason = rejection(b"\xff\xd8" + segment * MOST_SEGMENTS + FILES["JPEG"][2:])
    assert reason.startswith(f"JPEG with more than {MOST_SEGMENTS} segments before its pixels")


def test_a_jpeg_of_more_scans_than_any_camera_writes_is_refused():
    assert decode_micrograph(jpeg_of_scans(RGB, MOST_SCANS)).native_shape == (60, 84)
    assert rejection(jpeg_of_scans(RGB, MOST_SCANS + 1)).startswith(f"JPEG of more than {MOST_SCANS} scans")


def test_scans_hidden_behind_an_end_mark_in_a_segment_count():
    data = jpeg_of_scans(RGB, 2000)
    first = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    hidden = data[:first] + b"\xff\xfe\0\x06\xff\xd9\xff\xd9" + data[first:]
    assert rejection(hidden).startswith(f"JPEG of more than {MOST_SCANS} scans")


def test_pixels_that_look_like_scans_are_none():
    """Of a JPEG of one scan nothing behind it is looked at: a phone keeps whole films there."""
    data = FILES["JPEG"] + FILES["JPEG progressive"] * 50
    assert np.array_equal(decode_micrograph(data).pixels, decode_micrograph(FILES["JPEG"]).pixels)


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        (0xC3, "JPEG of the lossless kind, which is not read"),
        (0xCB, "JPEG of the lossless kind, which is not read"),
        (0xC5, "JPEG of the hierarchical kind, which is not read"),
        (0xF7, "JPEG of the JPEG-LS kind, which is not read"),
    ],
)
def test_a_kind_of_jpeg_that_nobody_reads_is_named(marker, reason):
    assert rejection(FILES["JPEG"].replace(b"\xff\xc0", bytes([0xFF, marker]), 1)).startswith(reason)


@pytest.mark.parametrize("coding", [0xC0, 0xC1, 0xC2])
def test_a_jpeg_of_12_bits_is_named(coding):
    data = bytearray(FILES["JPEG"])
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = coding, 12
    assert rejection(bytes(data)).startswith("JPEG of 12 bits, which is not read; save it with 8 bits")


def directories(count: int, flag: int, *, first: int = 0) -> bytes:
    """Return a TIFF of so many directories, of which all but the first have a flag."""
    pixels = np.asarray(PICTURE.convert("L")).tobytes()
    data, start = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels, 8 + len(pixels)
    for number in range(count):
        kind = flag if number else first
        tags = {254: kind, 256: 84, 257: 60, 258: 8, 259: 1, 262: 1, 273: 8, 278: 60, 279: len(pixels)}
        start += 2 + 12 * len(tags) + 4
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        data += struct.pack("<H", len(tags)) + entries + struct.pack("<I", start if number < count - 1 else 0)
    return data


@pytest.mark.parametrize("flag", [0, 1])
def test_directories_without_end_are_not_counted(flag):
    reason = f"TIFF with more than {MOST_DIRECTORIES} pictures; a file with one field of view is needed"
    assert rejection(directories(20_000, flag)) == reason
    assert read_header(directories(MOST_DIRECTORIES, 1)).pages == 1
    assert read_header(directories(MOST_DIRECTORIES, 0)).pages == MOST_DIRECTORIES


@pytest.mark.parametrize(
    "data",
    [
        b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(800_000),
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 40_000) + bytes(800_000),
        b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 2**63) + bytes(100),
    ],
)
def test_a_directory_of_more_entries_than_any_picture_has_is_refused(data):
    assert "a directory of" in rejection(data)


def test_a_tiff_without_a_directory_is_refused():
    assert rejection(b"II*\0" + bytes(100)).startswith("truncated or corrupt TIFF")


def test_more_pieces_than_pixels_are_refused():
    data = directories(1, 0).replace(struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 50_000, 8))
    assert rejection(data).endswith("50000 pieces are more than it has pixels for")
