"""Every kind of TIFF is read right, by the pixels that tifffile wrote and reads, or refused for what it is."""

import io
import itertools
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from support.picture_files import RGB, encode, encode_tiff, rejection

from spermseg.micrograph import tiff_kinds
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.header import read_header

GREY = RGB[..., 1]
NOISE = np.random.default_rng(1).integers(0, 256, RGB.shape, np.uint8)
WIDE = RGB.astype(np.uint16) * 256 + NOISE
LAYOUTS = ({}, {"tile": (16, 16)}, {"rowsperstrip": 7})
PACKINGS = ({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"compression": "lzma"})
ORDERS = ({}, {"byteorder": ">"}, {"bigtiff": True})
COLOURS = ("minisblack", "miniswhite", "rgb")
GRID = list(itertools.product((8, 16), COLOURS, LAYOUTS, PACKINGS, ORDERS))


def shown(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=2)


@pytest.mark.parametrize(("bits", "colours", "layout", "packing", "order"), GRID, ids=str)
def test_whole_numbers_of_8_and_16_bits_are_read_as_tifffile_reads_them(bits, colours, layout, packing, order):
    pixels = RGB if bits == 8 else WIDE
    pixels = pixels if colours == "rgb" else pixels[..., 1]
    stored = ~pixels if colours == "miniswhite" else pixels
    data = encode_tiff(stored, photometric=colours, **layout, **packing, **order)
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), stored)
    if bits == 16 and colours != "minisblack" and packing.get("compression") == "lzma":
        assert "TIFF of 16 bits packed with LZMA; in this packing, only grey with 0 as black is read" in rejection(data)
    else:
        assert np.array_equal(decode_micrograph(data).pixels, shown(RGB if colours == "rgb" else GREY))


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 32946], ids=["none", "LZW", "deflate", "PackBits", "old"])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("pixels", [GREY, RGB, WIDE[..., 1], WIDE], ids=["8 grey", "8", "16 grey", "16"])
def test_what_opencv_packs_is_read_right(pixels, predictor, compression):
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    done, data = cv2.imencode(".tiff", pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    assert done
    assert np.array_equal(decode_micrograph(data.tobytes()).pixels, shown(GREY if pixels.ndim == 2 else RGB))


@pytest.mark.parametrize("packing", ["zstd", "lzma", "webp"])
def test_a_packing_that_only_some_builds_know_is_read_right_or_named(packing, monkeypatch):
    if tiff_kinds.pillow_unpacks(packing):
        data = encode("TIFF", compression=packing)
        expected = RGB if packing != "webp" else decode_micrograph(data).pixels
        assert np.array_equal(decode_micrograph(data).pixels, expected)
    code = next(code for code, name in tiff_kinds.PILLOWS_PACKINGS.items() if name == packing)
    monkeypatch.setattr(tiff_kinds, "pillow_unpacks", lambda name: False)
    data = encode("TIFF", compression="tiff_adobe_deflate").replace(entry(259, 8), entry(259, code))
    assert rejection(data).startswith(f"TIFF packed with {tiff_kinds.PACKINGS[code]}, which is not read; save it")


@pytest.mark.parametrize("packing", ["zstd", "lzma"])
def test_a_grey_tiff_of_16_bits_is_read_however_pillow_packs_it(packing):
    if not tiff_kinds.pillow_unpacks(packing):
        pytest.skip(f"Pillow's libtiff lacks {packing}")
    file = io.BytesIO()
    Image.fromarray(WIDE[..., 1]).save(file, "TIFF", compression=packing)
    assert np.array_equal(decode_micrograph(file.getvalue()).pixels, shown(GREY))


def test_a_packing_that_nobody_reads_is_named():
    data = encode("TIFF", compression="tiff_adobe_deflate").replace(entry(259, 8), entry(259, 34712))
    assert rejection(data) == "TIFF packed with JPEG 2000, which is not read; save it without compression, or with LZW"


def entry(tag: int, value: int) -> bytes:
    return struct.pack("<HHIH", tag, 3, 1, value)


def packed(bits: int, white_is_zero: bool) -> bytes:
    """Return a grey TIFF of numbers of less than 16 bits, packed one behind the other."""
    values = WIDE[..., 1] >> (16 - bits)
    values = 2**bits - 1 - values if white_is_zero else values
    lines = [("".join(f"{value:0{bits}b}" for value in line)) for line in values]
    lines = [line + "0" * (-len(line) % 8) for line in lines]
    content = b"".join(int(line, 2).to_bytes(len(line) // 8, "big") for line in lines)
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 134, 277: 1, 278: height}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in {**tags, 279: len(content), 284: 1}.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + content


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14])
def test_numbers_of_any_usual_size_are_read_and_their_bits_are_told(bits, white_is_zero):
    found = decode_micrograph(packed(bits, white_is_zero))
    expected = GREY if bits >= 8 else ((GREY >> (8 - bits)) * (255 // (2**bits - 1)))
    assert np.array_equal(found.pixels, shown(expected))
    assert (found.depth.bits if found.depth else None) == (bits if bits > 8 else None)


REFUSED = {
    "int8": (encode_tiff(GREY.astype(np.int8)), "TIFF with signed numbers for pixels; save it with whole numbers"),
    "int8 colour": (encode_tiff(RGB.astype(np.int8), photometric="rgb"), "TIFF with signed numbers"),
    "int16": (encode_tiff(GREY.astype(np.int16)), "TIFF with signed numbers"),
    "int32": (encode_tiff(GREY.astype(np.int32)), "TIFF with signed numbers"),
    "uint32": (encode_tiff(GREY.astype(np.uint32)), "TIFF with numbers of 32 bits for pixels; save it with whole"),
    "uint64": (encode_tiff(RGB.astype(np.uint64), photometric="rgb"), "TIFF with numbers of 64 bits"),
    "6 bits": (packed(6, False), "TIFF with numbers of 6 bits"),
    "float16": (encode_tiff(GREY.astype(np.float16)), "TIFF with fractions for pixels"),
    "float32": (encode_tiff(RGB.astype(np.float32), photometric="rgb"), "TIFF with fractions for pixels"),
    "float64": (encode_tiff(GREY.astype(np.float64)), "TIFF with fractions for pixels"),
    "complex64": (encode_tiff(GREY.astype(np.complex64)), "TIFF with complex numbers"),
    "planes of 16 bits": (
        encode_tiff(np.moveaxis(WIDE, 2, 0), photometric="rgb", planarconfig="separate"),
        "TIFF of 16 bits with one plane for each colour",
    ),
    "3 channels": (
        encode_tiff(RGB, photometric="minisblack", planarconfig="contig"),
        "TIFF with 3 numbers a pixel that are no colours",
    ),
    "2 channels of 16 bits": (
        encode_tiff(WIDE[..., :2], photometric="minisblack", planarconfig="contig"),
        "TIFF with 2 numbers a pixel that are no colours",
    ),
    "CMYK of 16 bits": (
        encode_tiff(np.dstack([WIDE, WIDE[..., 0]]), photometric="separated"),
        "TIFF of 16 bits with colours that are neither grey nor RGB",
    ),
    "5 numbers of 16 bits": (
        encode_tiff(np.dstack([WIDE, WIDE[..., :2]]), photometric="rgb", extrasamples=[0, 0]),
        "TIFF with 5 numbers for a colour",
    ),
    "CIELab": (encode_tiff(RGB, photometric="cielab"), "TIFF with colours of the kind CIELab"),
    "raw data": (encode_tiff(GREY, photometric="cfa"), "TIFF of a camera's raw data; export one field of view"),
    "DNG": (encode_tiff(GREY, extratags=[(50706, 1, 4, b"\1\4\0\0", True)]), "TIFF of a camera's raw data"),
    "Aperio": (
        encode_tiff(RGB, photometric="rgb", description="Aperio Image Library v11.2.1"),
        "TIFF of a whole slide (Aperio SVS); export one field of view",
    ),
    "Hamamatsu": (encode_tiff(RGB, photometric="rgb", extratags=[(65420, 4, 1, 1, True)]), "TIFF of a whole slide"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_kind_that_is_not_read_is_refused_for_what_it_is(data, reason):
    assert rejection(data).startswith(reason)
    assert read_header(data).format == "TIFF"


@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha", 0])
def test_a_fourth_number_of_16_bits_is_left_out(alpha):
    data = encode_tiff(np.dstack([WIDE, np.full_like(GREY, 65535, np.uint16)]), photometric="rgb", extrasamples=[alpha])
    assert np.array_equal(decode_micrograph(data).pixels, RGB)


THUMBNAIL = np.full((20, 28, 3), 200, np.uint8)


def pictures(*pages: tuple[np.ndarray, dict]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for pixels, options in pages:
            writer.write(pixels, photometric="rgb", metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", [RGB, WIDE], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("flag", [{"subfiletype": 1}, {"extratags": [(255, 3, 1, 2, True)]}], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_the_one_full_picture_is_read_wherever_its_thumbnail_lies(kind, flag, first):
    small = THUMBNAIL.astype(kind.dtype)
    pages = [(kind, {}), (small, flag), (small, flag)]
    data = pictures(*(pages[::-1] if first else pages))
    assert (read_header(data).pages, read_header(data).width) == (1, 84)
    assert np.array_equal(decode_micrograph(data).pixels, RGB)


def test_a_mask_beside_a_picture_is_no_second_picture():
    flag = struct.Struct("<HHII")
    data = pictures((RGB, {}), (RGB, {"subfiletype": 1})).replace(flag.pack(254, 4, 1, 1), flag.pack(254, 4, 1, 4))
    assert np.array_equal(decode_micrograph(data).pixels, RGB)


def test_a_thumbnail_or_a_full_picture_in_directories_below_is_no_second_picture():
    assert np.array_equal(decode_micrograph(pictures((RGB, {"subifds": 1}), (THUMBNAIL, {}))).pixels, RGB)
    raws = pictures((THUMBNAIL, {"subifds": 1, "subfiletype": 1}), (RGB, {}))
    assert np.array_equal(decode_micrograph(raws).pixels, RGB)


def test_two_full_pictures_are_two_whatever_thumbnails_they_have():
    data = pictures((RGB, {}), (THUMBNAIL, {"subfiletype": 1}), (RGB, {}))
    assert rejection(data) == "TIFF with 2 pictures; a file with one field of view is needed"
    assert "TIFF with 2 pictures" in rejection(pictures(*[(RGB, {"subfiletype": 1})] * 2))


def test_a_picture_that_calls_itself_a_thumbnail_and_is_alone_is_read():
    assert np.array_equal(decode_micrograph(pictures((RGB, {"subfiletype": 1}))).pixels, RGB)


def imagej(**fields: object) -> str:
    return "ImageJ=1.54f\n" + "".join(f"{name}={value}\n" for name, value in fields.items())


@pytest.mark.parametrize(
    ("options", "pages"),
    [
        ({"description": imagej(images=3, slices=3, loop="false")}, 3),
        ({"description": imagej(images=1)}, 1),
        ({"description": imagej(unit="um")}, 1),
        ({"description": "a text that says images=3\n"}, 1),
        ({"description": '{"shape": [5, 60, 84], "truncated": true}'}, 5),
        ({"description": '{"shape": [60, 84]}'}, 1),
        ({"extratags": [(33629, 5, 4, (1,) * 8, True)]}, 4),
    ],
    ids=["ImageJ", "ImageJ, one", "ImageJ, a size", "no ImageJ", "tifffile", "tifffile, one", "MetaMorph"],
)
def test_pictures_behind_each_other_in_one_directory_are_counted(options, pages):
    data = encode_tiff(GREY, **options)
    assert read_header(data).pages == pages
    if pages > 1:
        assert rejection(data) == f"TIFF with {pages} pictures; a file with one field of view is needed"
    else:
        assert np.array_equal(decode_micrograph(data).pixels, shown(GREY))


def test_a_volume_of_pictures_is_no_field_of_view():
    data = encode_tiff(GREY, extratags=[(65000, 4, 1, 7, True)]).replace(struct.pack("<H", 65000), b"\xe5\x80")
    assert rejection(data) == "TIFF with 7 pictures; a file with one field of view is needed"


def test_an_orientation_in_xmp_counts_for_8_and_16_bits_alike():
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    for pixels in (RGB, WIDE):
        data = encode_tiff(pixels, photometric="rgb", extratags=[(700, 1, len(xmp), xmp, True)])
        assert (read_header(data).orientation, read_header(data).height) == (6, 84)
        assert np.array_equal(decode_micrograph(data).pixels, np.rot90(RGB, -1))
