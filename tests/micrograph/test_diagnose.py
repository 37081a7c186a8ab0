"""What is said of bytes that are no picture of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.picture_files import FILES, encode

from spermseg.micrograph.diagnose import not_a_picture, picture_format
from spermseg.micrograph.header import read_header
from spermseg.micrograph.png import png_damage


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encode("GIF"), "a GIF"),
        (encode("WEBP"), "a WebP"),
        (encode("AVIF"), "an AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (encode("JPEG2000"), "a JPEG 2000"),
        (encode("JPEG2000", no_jp2=True), "a JPEG 2000"),
        (b"\xff\x0a" + bytes(30), "a JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
        (encode("PDF"), "a PDF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "a HEIC"),
        (b"ZISRAWFILE\0\0\0\0\0\0", "a microscope's CZI (Zeiss)"),
        (b"\xda\xce\xbe\x0a" + bytes(30), "a microscope's ND2 (Nikon)"),
        (b"p\0\0\0\x10\0\0\0*" + bytes(30), "a microscope's LIF (Leica)"),
        (b"OLYMPUSRAWFORMAT" + bytes(30), "a microscope's OIR (Olympus)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of OLE (ZVI, OIB or an Office document)"),
        (b"\x89HDF\r\n\x1a\n", "a file of HDF5"),
        (b"SIMPLE  =                    T", "a FITS"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(30), "a camera's raw file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
        (b"IIRO\x08\0\0\0", "a camera's raw file"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video (MP4)"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0", "a video (MOV)"),
        (b"\0\0\x10\0moov" + bytes(30), "a video (MOV)"),
        (b"RIFF\0\0\0\0AVI LIST", "a video (AVI)"),
        (b"\x1aE\xdf\xa3\x9f\x42", "a video (MKV)"),
        (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", "a video (WMV)"),
        (b"\0\0\x01\xba\x44", "a video (MPEG)"),
        (b"8BPS\0\1", "a Photoshop file"),
        (encode("PPM"), "a PNM"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x8b\x08\0", "a gzip file"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"PK\3\4" + bytes(30), "a zip archive"),
        ("Probe verspätet. Bitte wiederholen.\r\n".encode() * 40, "a text"),
        ("ä".encode() * 1000, "a text"),  # whatever character the beginning is cut in
        (b"a" + "ä".encode() * 1000, "a text"),
        ("\ufeff\n<HTML><body>504</body></HTML>".encode(), "a web page"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_clinic_does_send_is_called_by_its_name(data: bytes, what: str) -> None:
    assert not_a_picture(data) == f"not a JPEG, PNG, TIFF or BMP picture, but {what}"


@given(st.binary(max_size=600))
def test_any_bytes_are_given_one_line(data: bytes) -> None:
    assert not_a_picture(data).startswith("not a JPEG, PNG, TIFF or BMP picture")
    assert "\n" not in not_a_picture(data)
    png_damage(data)


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_read_begins_like_its_format(name: str) -> None:
    assert picture_format(FILES[name]) == read_header(FILES[name]).format


@given(st.data())
def test_a_png_cut_anywhere_lacks_its_end_and_a_changed_byte_gives_a_wrong_checksum(data: st.DataObject) -> None:
    whole = FILES["PNG"]
    assert png_damage(whole) is None
    assert png_damage(whole[: data.draw(st.integers(8, len(whole) - 1))]) == "its end is missing"
    start = whole.index(b"IDAT")
    place = data.draw(st.integers(start, start + 4 + int.from_bytes(whole[start - 4 : start], "big") - 1))
    changed = whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :]
    assert png_damage(changed) == "a checksum is wrong"
