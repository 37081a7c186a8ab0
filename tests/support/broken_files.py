"""The ways in which an upload can be broken, each as a real file made from a whole picture.

Every upload made here gives exactly one rejected row. Where it is an archive, the picture lies in it whole as well,
wherever the damage leaves a way to it.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from support.hostile_decoder import marked

Pixels = NDArray[np.uint8]
WHOLE = "whole.png"
"""Name of the whole picture inside an archive that also holds the broken member."""
BROKEN = "broken.png"
"""Name of the broken member."""


class Trouble(Enum):
    """When an upload goes wrong."""

    IN_THE_FILE = auto()
    """From the start: the file itself is broken."""
    CHANGED = auto()
    """It is replaced after it was planned."""
    DELETED = auto()
    """It is removed after it was planned."""
    DENIED = auto()
    """The storage refuses this one object."""
    CRASH = auto()
    """It ends the process that decodes it."""


@dataclass(frozen=True, kw_only=True)
class BrokenFile:
    """One way in which an upload is broken."""

    name: str
    """Of the upload."""
    called: str
    """What a person would call it."""
    make: Callable[[Pixels], bytes]
    """A whole picture, (Y, X, 3) RGB -> the bytes of the upload."""
    remedy: str
    """What a person can do about it."""
    trouble: Trouble = Trouble.IN_THE_FILE
    """When it goes wrong; the file of a later trouble is whole until then, or to any other decoder."""


def encoded(pixels: Pixels, suffix: str) -> bytes:
    """Return a picture as a file that OpenCV writes."""
    done, data = cv2.imencode(suffix, pixels[..., ::-1])
    assert done
    return data.tobytes()


def png(pixels: Pixels) -> bytes:
    return encoded(pixels, ".png")


def cut(suffix: str) -> Callable[[Pixels], bytes]:
    """Make a file of which the second half is missing."""
    return lambda pixels: encoded(pixels, suffix)[: len(encoded(pixels, suffix)) // 2]


def _jpeg_closed_early(pixels: Pixels) -> bytes:
    whole = encoded(pixels, ".jpg")
    return whole[: len(whole) * 2 // 3] + b"\xff\xd9"


def _png_with_a_wrong_checksum(pixels: Pixels) -> bytes:
    data = bytearray(png(pixels))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    return bytes(data)


def _huge_png(pixels: Pixels) -> bytes:
    """A picture whose header declares far more pixels than it has."""
    data = png(pixels)
    header = b"IHDR" + struct.pack(">II", 40_000, 30_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def _tiff(pixels: NDArray[np.generic], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def _cut_tiff(pixels: Pixels) -> bytes:
    """A TIFF written as cameras do, its directory before its pixels, of which half are missing."""
    whole = _tiff(pixels, photometric="rgb")
    return whole[: len(whole) // 2]


def _pages(pixels: Pixels) -> bytes:
    return _tiff(np.stack([pixels, pixels, pixels]), photometric="rgb")


def _floats(pixels: Pixels) -> bytes:
    return _tiff((pixels[..., 1] / 255).astype(np.float32), photometric="minisblack")


def _planes(pixels: Pixels) -> bytes:
    wide = np.moveaxis(pixels, 2, 0).astype(np.uint16) * 257
    return _tiff(wide, photometric="rgb", planarconfig="separate")


def _signed(pixels: Pixels) -> bytes:
    return _tiff((pixels[..., 1].astype(int) - 128).astype(np.int8), photometric="minisblack")


def _long_numbers(pixels: Pixels) -> bytes:
    return _tiff(pixels[..., 1].astype(np.uint32), photometric="minisblack")


def _lzma(pixels: Pixels) -> bytes:
    return _tiff(pixels.astype(np.uint16) * 257, photometric="rgb", compression="lzma")


def _many_directories(pixels: Pixels) -> bytes:
    """Two hundred thumbnails of one picture, which a viewer would have to look through."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number in range(200):
            writer.write(pixels[:16, :16], photometric="rgb", metadata=None, subfiletype=int(number > 0))
    return file.getvalue()


def _raw(pixels: Pixels) -> bytes:
    """A TIFF of one value a pixel, each of them behind a colour filter."""
    return _tiff(pixels[..., 1], photometric="cfa")


def _slide(pixels: Pixels) -> bytes:
    return _tiff(pixels, photometric="rgb", description="Aperio Image Library v11.2.1")


def _jpeg_of_12_bits(pixels: Pixels) -> bytes:
    whole = bytearray(encoded(pixels, ".jpg"))
    whole[whole.index(b"\xff\xc0") + 4] = 12
    return bytes(whole)


def _lossless_jpeg(pixels: Pixels) -> bytes:
    return encoded(pixels, ".jpg").replace(b"\xff\xc0", b"\xff\xc3", 1)


def jpeg_of_scans(pixels: Pixels, scans: int) -> bytes:
    """A progressive JPEG of so many scans, the last of its own once more and once more."""
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    whole = data.tobytes()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (scans - whole.count(b"\xff\xda")) + whole[-2:]


def _heic(pixels: Pixels) -> bytes:
    """The first boxes of a phone's HEIC file, around data that only a HEIC reader could read."""
    kind = b"ftypheic\0\0\0\0mif1heic"
    data = b"mdat" + png(pixels)
    return b"".join(struct.pack(">I", len(box) + 4) + box for box in (kind, data))


def zipped(*members: tuple[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    """Return a .zip, the same whenever it is made."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, packing)
    return file.getvalue()


def _patched_directory(archive: bytes, name: str, offset: int, value: bytes) -> bytes:
    """Return a .zip with other bytes in the directory entry of a member; offsets as in PKWARE's APPNOTE, 4.3.12."""
    start = archive.rindex(b"PK\1\2", 0, archive.rindex(name.encode()))
    return archive[: start + offset] + value + archive[start + offset + len(value) :]


def _zip_without_directory(pixels: Pixels) -> bytes:
    archive = zipped((WHOLE, png(pixels)))
    return archive[: archive.index(b"PK\1\2")]


def _encrypted(pixels: Pixels) -> bytes:
    """A member under a password, in the cipher of PKWARE's APPNOTE, 6.1, flagged as such in both of its headers."""
    data = png(pixels)
    sealed = _zip_cipher(bytes(11) + bytes([zlib.crc32(data) >> 24]) + data, b"secret")
    archive = bytearray(zipped((WHOLE, data), (BROKEN, sealed)))
    start = archive.rindex(b"PK\3\4")
    sizes = struct.pack("<III", zlib.crc32(data), len(sealed), len(data))
    archive[start + 6] |= 1
    archive[start + 14 : start + 26] = sizes
    flagged = _patched_directory(bytes(archive), BROKEN, 8, b"\1")
    return _patched_directory(flagged, BROKEN, 16, sizes)


def _zip_cipher(data: bytes, password: bytes) -> bytes:
    keys = [0x12345678, 0x23456789, 0x34567890]

    def crc(byte: int, key: int) -> int:
        return zlib.crc32(bytes([byte]), key ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    def update(byte: int) -> None:
        keys[0] = crc(byte, keys[0])
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = crc(keys[1] >> 24, keys[2])

    for byte in password:
        update(byte)
    sealed = bytearray()
    for byte in data:
        pad = (keys[2] | 2) & 0xFFFF
        sealed.append(byte ^ ((pad * (pad ^ 1)) >> 8 & 0xFF))
        update(byte)
    return bytes(sealed)


def _wrong_zip_checksum(pixels: Pixels) -> bytes:
    archive = zipped((WHOLE, png(pixels)), (BROKEN, png(pixels)))
    return _patched_directory(archive, BROKEN, 16, b"\xde\xad\xbe\xef")


def _damaged_deflate(pixels: Pixels) -> bytes:
    archive = bytearray(zipped((BROKEN, encoded(pixels, ".bmp")), packing=zipfile.ZIP_DEFLATED))
    archive[archive.index(BROKEN.encode()) + len(BROKEN)] = 0xFF  # a block of a type that deflate does not have
    return bytes(archive)


def _other_method(pixels: Pixels) -> bytes:
    return zipped((BROKEN, png(pixels)), packing=zipfile.ZIP_LZMA)


def _larger_than_its_archive(pixels: Pixels) -> bytes:
    archive = zipped((WHOLE, png(pixels)), (BROKEN, png(pixels)))
    return _patched_directory(archive, BROKEN, 20, struct.pack("<II", 2_000_000_000, 2_000_000_000))


def _zip_bomb(pixels: Pixels) -> bytes:
    """A picture of nothing but black: 30 million bytes of it in 30 thousand."""
    bomb = encoded(np.zeros((2500, 4000, 3), np.uint8), ".bmp")
    return zipped((WHOLE, png(pixels)), ("broken.bmp", bomb), packing=zipfile.ZIP_DEFLATED)


def _archive_in_an_archive(pixels: Pixels) -> bytes:
    return zipped((WHOLE, png(pixels)), ("monday.zip", zipped((WHOLE, png(pixels)))))


def tarred(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a .tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return what `tarred` takes for a member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def _tar_with_a_damaged_header(pixels: Pixels) -> bytes:
    archive = bytearray(tarred(entry(WHOLE, png(pixels)), entry(BROKEN, png(pixels))))
    archive[archive.index(BROKEN.encode()) + 100] ^= 0xFF
    return bytes(archive)


def _cut_tar(pixels: Pixels) -> bytes:
    archive = tarred(entry(WHOLE, png(pixels)), entry(BROKEN, png(pixels)))
    return archive[: archive.index(BROKEN.encode()) + tarfile.BLOCKSIZE + 100]


def _no_tar(pixels: Pixels) -> bytes:
    return encoded(pixels, ".bmp")[100:]


def _link(pixels: Pixels) -> bytes:
    return tarred(entry(WHOLE, png(pixels)), entry(BROKEN, type=tarfile.SYMTYPE, linkname="/etc/passwd"))


def _pipe(pixels: Pixels) -> bytes:
    return tarred(entry(WHOLE, png(pixels)), entry(BROKEN, type=tarfile.FIFOTYPE))


def _cut_tgz(pixels: Pixels) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)  # that gzip cannot make small
    archive = gzip.compress(tarred(entry(WHOLE, png(pixels)), entry(BROKEN, encoded(noise, ".bmp"))), mtime=0)
    return archive[: len(archive) // 2]


def _tiny_parts(pixels: Pixels) -> bytes:
    """A whole .tgz, and after it thousands of gzip files of nothing."""
    return gzip.compress(tarred(entry(WHOLE, png(pixels))), mtime=0) + gzip.compress(b"", mtime=0) * 5000


def _headers_without_end(pixels: Pixels) -> bytes:
    """Headers that speak of what follows, and are followed by the next such header."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 6
    return (header.tobuf() + b"6 a=b\n".ljust(tarfile.BLOCKSIZE, b"\0")) * 2000 + tarred(entry(WHOLE, png(pixels)))


TEXT = b"Sample taken late. Please repeat.\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>504 Gateway Time-out</title></head><body>Try again.</body></html>\n"
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100)
AGAIN, EXPORT_AGAIN, PACK_AGAIN = "upload it again", "save it again at the microscope", "pack it again, and upload it"

BROKEN_FILES = (
    BrokenFile(name="empty.jpg", called="an empty file", make=lambda _: b"", remedy=AGAIN),
    BrokenFile(name="notes.jpg", called="a text under a picture's name", make=lambda _: TEXT, remedy="nothing"),
    BrokenFile(name="page.png", called="a web page under a picture's name", make=lambda _: PAGE, remedy=AGAIN),
    BrokenFile(
        name="cut.jpg", called="a JPEG that was cut off, if only by its end mark", make=cut(".jpg"), remedy=AGAIN
    ),
    BrokenFile(name="closed.jpg", called="a JPEG cut off, and closed", make=_jpeg_closed_early, remedy=EXPORT_AGAIN),
    BrokenFile(name="twelve.jpg", called="a JPEG of 12 bits", make=_jpeg_of_12_bits, remedy="export 8 bits, or a TIFF"),
    BrokenFile(name="lossless.jpg", called="a lossless JPEG", make=_lossless_jpeg, remedy="export PNG or TIFF"),
    BrokenFile(
        name="scans.jpg",
        called="a JPEG of 2,000 scans",
        make=lambda pixels: jpeg_of_scans(pixels, 2000),
        remedy="ask where it comes from",
    ),
    BrokenFile(name="cut.png", called="a PNG that was cut off", make=cut(".png"), remedy=AGAIN),
    BrokenFile(name="checksum.png", called="a PNG with a changed byte", make=_png_with_a_wrong_checksum, remedy=AGAIN),
    BrokenFile(name="cut.tif", called="a TIFF that was cut off", make=_cut_tiff, remedy=AGAIN),
    BrokenFile(name="cut.bmp", called="a BMP that was cut off", make=cut(".bmp"), remedy=AGAIN),
    BrokenFile(
        name="stack.tif", called="a stack of pictures in one TIFF", make=_pages, remedy="export one picture a file"
    ),
    BrokenFile(
        name="directories.tif",
        called="a TIFF of 200 thumbnails",
        make=_many_directories,
        remedy="export the picture without them",
    ),
    BrokenFile(name="float.tif", called="a TIFF of fractions", make=_floats, remedy="export 8 or 16 bits"),
    BrokenFile(
        name="planes.tif", called="a TIFF of 16 bits, a plane a colour", make=_planes, remedy="export interleaved RGB"
    ),
    BrokenFile(name="signed.tif", called="a TIFF of signed numbers", make=_signed, remedy="export 8 or 16 bits"),
    BrokenFile(name="long.tif", called="a TIFF of 32 bits", make=_long_numbers, remedy="export 8 or 16 bits"),
    BrokenFile(
        name="lzma.tif",
        called="a TIFF of 16 bits, colour, by LZMA",
        make=_lzma,
        remedy="export it uncompressed or by LZW",
    ),
    BrokenFile(name="raw.tif", called="a camera's raw data", make=_raw, remedy="export TIFF, PNG or JPEG"),
    BrokenFile(name="slide.tif", called="a whole slide", make=_slide, remedy="export the field of view"),
    BrokenFile(
        name="photo.jp2",
        called="a JPEG 2000",
        make=lambda p: encoded(p, ".jp2"),
        remedy="export PNG, TIFF, BMP or JPEG",
    ),
    BrokenFile(
        name="stack.czi",
        called="a microscope's own file (CZI, ND2, LIF, OIR)",
        make=lambda _: b"ZISRAWFILE" + bytes(100),
        remedy="export PNG or TIFF, a picture a field of view",
    ),
    BrokenFile(
        name="film.mp4",
        called="a video",
        make=lambda _: struct.pack(">I", 24) + b"ftypisom" + bytes(100),
        remedy="export single pictures",
    ),
    BrokenFile(
        name="photo.gif", called="a GIF", make=lambda p: encoded(p, ".gif"), remedy="export PNG, TIFF, BMP or JPEG"
    ),
    BrokenFile(
        name="photo.webp", called="a WebP", make=lambda p: encoded(p, ".webp"), remedy="export PNG, TIFF, BMP or JPEG"
    ),
    BrokenFile(
        name="photo.heic", called="a phone's HEIC", make=_heic, remedy="set the phone to JPEG (most compatible)"
    ),
    BrokenFile(
        name="huge.png", called="a picture of 1.2 gigapixels", make=_huge_png, remedy="cut it up, or --max-megapixels"
    ),
    BrokenFile(name="no-directory.zip", called="a zip that was cut off", make=_zip_without_directory, remedy=AGAIN),
    BrokenFile(name="password.zip", called="a zip with a password", make=_encrypted, remedy="pack without a password"),
    BrokenFile(name="checksum.zip", called="a zip with a wrong checksum", make=_wrong_zip_checksum, remedy=PACK_AGAIN),
    BrokenFile(name="damaged.zip", called="a zip with damaged data", make=_damaged_deflate, remedy=PACK_AGAIN),
    BrokenFile(name="lzma.zip", called="a zip packed with LZMA", make=_other_method, remedy="pack with deflate"),
    BrokenFile(
        name="larger.zip", called="a member larger than its zip", make=_larger_than_its_archive, remedy=PACK_AGAIN
    ),
    BrokenFile(name="bomb.zip", called="a zip bomb", make=_zip_bomb, remedy="ask where it comes from"),
    BrokenFile(
        name="nested.zip", called="an archive inside an archive", make=_archive_in_an_archive, remedy="upload it alone"
    ),
    BrokenFile(
        name="empty.zip", called="an archive that holds no file", make=lambda _: zipped(), remedy="pack the pictures"
    ),
    BrokenFile(name="no.tar", called="something else named .tar", make=_no_tar, remedy=PACK_AGAIN),
    BrokenFile(name="header.tar", called="a tar with a damaged header", make=_tar_with_a_damaged_header, remedy=AGAIN),
    BrokenFile(name="cut.tar", called="a tar that was cut off", make=_cut_tar, remedy=AGAIN),
    BrokenFile(name="link.tar", called="a link in a tar", make=_link, remedy="pack with tar --dereference"),
    BrokenFile(name="pipe.tar", called="a pipe or device in a tar", make=_pipe, remedy="nothing: it is no picture"),
    BrokenFile(
        name="endless.tar",
        called="a tar of headers without end",
        make=_headers_without_end,
        remedy="ask where it comes from",
    ),
    BrokenFile(
        name="parts.tgz", called="a .tgz of thousands of parts", make=_tiny_parts, remedy="ask where it comes from"
    ),
    BrokenFile(
        name="photo.tif.gz",
        called="one picture packed with gzip",
        make=lambda pixels: gzip.compress(_tiff(pixels, photometric="rgb"), mtime=0),
        remedy="upload the picture itself",
    ),
    BrokenFile(name="cut.tgz", called="a .tgz that was cut off", make=_cut_tgz, remedy=AGAIN),
    BrokenFile(name="seven.7z", called="a .7z archive", make=lambda _: SEVEN_ZIP, remedy="pack as .zip or .tar"),
    BrokenFile(
        name="changed.png",
        called="an upload replaced during the run",
        make=png,
        remedy="nothing: the next run takes the new one",
        trouble=Trouble.CHANGED,
    ),
    BrokenFile(
        name="deleted.png",
        called="an upload removed during the run",
        make=png,
        remedy="nothing, or upload it again",
        trouble=Trouble.DELETED,
    ),
    BrokenFile(
        name="denied.png",
        called="an upload that may not be read",
        make=png,
        remedy="give the job's key s3:GetObject on it",
        trouble=Trouble.DENIED,
    ),
    BrokenFile(
        name="crash.png",
        called="a picture that ends its decoder",
        make=lambda pixels: marked(png(pixels), b"segfault"),
        remedy="export it again; keep the file, and report it",
        trouble=Trouble.CRASH,
    ),
)
"""Every way, in the order of the table in the guide."""


def markdown_table(reasons: Mapping[str, str]) -> str:
    """Return the table of the guide.

    Args:
        reasons: name of each broken upload -> its reason.
    """
    lines = ["| what is wrong | reason in the row | what to do |", "| --- | --- | --- |"]
    lines += [f"| {broken.called} | `{reasons[broken.name]}` | {broken.remedy} |" for broken in BROKEN_FILES]
    return "\n".join(lines) + "\n"
