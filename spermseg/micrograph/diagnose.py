"""Reasons for bytes that no decoder accepts. Beyond `picture_format`, this runs only for rejected files."""

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    b"BM": "BMP",
}
RAW = "a camera's raw file"
ISO_MEDIA = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF"),
    b"crx ": RAW,
    b"qt  ": "a video (MOV)",
    b"jp2 ": "a JPEG 2000",
}
"""First brand of an ISO/IEC 14496-12 file -> its kind. Any other brand is a video."""
OTHERS = (
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"II\xbc\x01", "a JPEG XR"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"v/1\x01", "an OpenEXR"),
    *((0, b"P" + digit, "a PNM") for digit in (b"4\n", b"5\n", b"6\n", b"7\n")),
    (0, b"ZISRAWFILE", "a microscope's CZI (Zeiss)"),
    (0, b"\xda\xce\xbe\x0a", "a microscope's ND2 (Nikon)"),
    (0, b"p\0\0\0", "a microscope's LIF (Leica)"),
    (0, b"OLYMPUSRAWFORMAT", "a microscope's OIR (Olympus)"),
    (0, b"\xd0\xcf\x11\xe0", "a file of OLE (ZVI, OIB or an Office document)"),
    (0, b"\x89HDF", "a file of HDF5"),
    (128, b"DICM", "a DICOM file"),
    (0, b"SIMPLE  =", "a FITS"),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"FOVb", RAW),
    (0, b"\0MRM", RAW),
    (0, b"IIU\0", RAW),
    *((0, start, RAW) for start in (b"IIRO", b"IIRS", b"MMOR")),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x1aE\xdf\xa3", "a video (MKV)"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "a video (WMV)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"\0\0\x01\xb3", "a video (MPEG)"),
    (0, b"FLV\x01", "a video (FLV)"),
    *((4, box, "a video (MOV)") for box in (b"moov", b"mdat", b"wide")),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"PK\5\6", "a zip archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (257, b"ustar", "a tar archive"),
)
"""(offset, magic bytes, kind) of other files that clinics send."""
CANON_RAW = b"II*\0\x10\0\0\0CR"
"""First bytes of a Canon raw file, which is a TIFF with a preview in it."""
BEGINNING = 512
"""Number of first bytes that are searched to recognise text."""


def picture_format(data: bytes) -> str | None:
    """Return the supported format whose magic bytes a file begins with; None for other files."""
    if data.startswith(CANON_RAW):
        return None
    return next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)


def broken(kind: str) -> str:
    """Return the reason for a picture of a supported format that cannot be decoded."""
    return f"truncated or corrupt {kind}" + (", or of a kind that is not read" if kind == "TIFF" else "")


def not_a_picture(data: bytes) -> str:
    """Return the reason for bytes of no supported format, with their kind if it is recognised.

    >>> not_a_picture(b"patient,count")
    'not a JPEG, PNG, TIFF or BMP picture, but a text'
    >>> not_a_picture(bytes(range(256)))
    'not a JPEG, PNG, TIFF or BMP picture'
    """
    found = _known(data) or _text(data)
    refused = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    return f"{refused}, but {found}" if found else refused


def _known(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return ISO_MEDIA.get(data[8:12], "a video (MP4)")
    if data.startswith(CANON_RAW):
        return RAW
    return next((what for place, magic, what in OTHERS if data.startswith(magic, place)), None)


def _text(data: bytes) -> str | None:
    start = data[:BEGINNING]
    if any(byte < 32 and byte not in b"\t\n\f\r" for byte in start):
        return None
    try:
        text = start.decode("utf-8", "strict" if len(data) <= BEGINNING else "ignore")
    except UnicodeDecodeError:
        return None
    return "a web page" if text.lstrip("\ufeff \t\r\n").lower().startswith(("<!doctype html", "<html")) else "a text"
