"""Members that cannot be used: each is listed with a reason that says what it is, and the others are read."""

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from support.archive_files import CountingFile, archive_of, listed, only, tar_of, tar_with, unpacked, zip_of
from support.broken_files import BROKEN_FILES
from support.dark_cells import draw

from spermseg.errors import ArchiveError
from spermseg.storage.archives import members as members_module
from spermseg.storage.archives.directory import MAX_RATIO, list_members, unpack_member
from spermseg.synthetic.draw import draw_micrograph

GOOD = ("good.jpg", b"pixels")


def reasons(blob: bytes, kind: str) -> dict[str, str | None]:
    return {member.name: member.reason for member in listed(blob, kind)}


def broken_file(name: str) -> bytes:
    return next(broken for broken in BROKEN_FILES if broken.name == name).make(draw(3)[0])


def bmp(pixels) -> bytes:
    return cv2.imencode(".bmp", pixels)[1].tobytes()


# What is no picture


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["inner.zip", "inner.tar", "inner.tar.gz", "inner.tgz", "inner.7z"])
def test_an_archive_inside_an_archive_is_refused(kind, name):
    inner = archive_of("zip", [GOOD])
    blob = archive_of(kind, [GOOD, (name, inner)])
    assert reasons(blob, kind) == {"good.jpg": None, name: "an archive inside an archive: upload it by itself"}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("entry_type", "reason"),
    [
        (tarfile.SYMTYPE, "a link to another file"),
        (tarfile.LNKTYPE, "a link to another file"),
        (tarfile.CHRTYPE, "a pipe, a device or"),
        (tarfile.BLKTYPE, "a pipe, a device or"),
        (tarfile.FIFOTYPE, "a pipe, a device or"),
        (b"Z", "a pipe, a device or"),
    ],
)
def test_tar_entries_that_are_no_files_are_refused(entry_type, reason, compress):
    strange = tarfile.TarInfo("strange.jpg")
    strange.type, strange.linkname, strange.size = entry_type, "/etc/passwd", 2**40 * (entry_type != b"Z")
    blob = tar_with(strange, "good.jpg", compress=compress)
    refused, good = listed(blob, "tar.gz" if compress else "tar")
    assert reason in refused.reason
    assert (refused.name, refused.packing, refused.size) == ("strange.jpg", "", 0)
    assert (good.name, good.reason) == ("good.jpg", None)


def test_a_sparse_file_in_a_tar_is_refused():
    sparse = tarfile.TarInfo("sparse.tif")
    sparse.type = tarfile.GNUTYPE_SPARSE
    assert "--sparse" in reasons(tar_with(sparse, "good.jpg"), "tar")["sparse.tif"]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(0o120777, "a link to another file"), (0o010644, "Unix type 'p'"), (0o020644, "Unix type 'c'")],
)
def test_links_pipes_and_devices_in_a_zip_are_refused(mode, reason):
    sink = io.BytesIO()
    entry = zipfile.ZipInfo("strange.jpg")
    entry.external_attr = mode << 16
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(entry, "../etc/passwd")
        archive.writestr(*GOOD)
    found = reasons(sink.getvalue(), "zip")
    assert reason in found.pop("strange.jpg")
    assert found == {"good.jpg": None}


def test_an_encrypted_zip_member_is_refused():
    assert sorted(filter(None, reasons(broken_file("password.zip"), "zip").values())) == [
        "encrypted: pack it again without a password"
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_zip_method_is_refused_with_its_number(method):
    assert f"zip method {method}" in only(listed(zip_of([("a.jpg", b"x")], packing=method), "zip")).reason


# Sizes that lie


@pytest.mark.parametrize("second_offset", [0, 5])
def test_zip_members_that_overlap_are_refused(second_offset):
    blob = bytearray(zip_of([("a.jpg", b"a" * 50), ("b.jpg", b"b" * 50)], packing=zipfile.ZIP_STORED))
    second = blob.rindex(b"PK\1\2")
    struct.pack_into("<L", blob, second + 42, second_offset)
    found = [member.reason for member in listed(bytes(blob), "zip")]
    assert sum("overlap" in (reason or "") for reason in found) == (2 if second_offset == 0 else 1)


def overlapping_bomb(files: int, kernel: bytes) -> bytes:
    """Return a zip in which each member quotes the header of the next and goes on with its data.

    Source: Fifield, "A better zip bomb", WOOT 2019, section 4.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed, data, entries = packer.compress(kernel) + packer.flush(), kernel, []
    for number in reversed(range(files)):
        name = f"{number:04}.bmp".encode()
        fields = struct.pack("<HHHHHIIIH", 20, 0, 8, 0, 0x21, zlib.crc32(data), len(packed), len(data), len(name))
        header = b"PK\3\4" + fields + b"\0\0" + name
        entries.append((fields, name, len(header) + len(packed)))
        block = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
        whole, packed, data = header + packed, block + header + packed, header + data
    directory = b"".join(
        b"PK\1\2" + struct.pack("<H", 20) + fields + bytes(12) + struct.pack("<I", len(whole) - length) + name
        for fields, name, length in entries
    )
    end = struct.pack("<HHHHIIH", 0, 0, files, files, len(directory), len(whole), 0)
    return whole + directory + b"PK\5\6" + end


def test_members_that_share_their_bytes_are_refused_but_the_one_that_owns_them():
    blob = overlapping_bomb(20, bytes(100_000))
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) > 2_000_000
    found = reasons(blob, "zip")
    assert found.pop("0019.bmp") is None
    assert len(found) == 19
    assert all("overlap another member" in reason for reason in found.values())


def test_a_zip_member_that_declares_an_impossible_size_is_refused():
    blob = bytearray(zip_of([("a.jpg", b"a" * 50)]))
    struct.pack_into("<L", blob, blob.index(b"PK\1\2") + 24, 2**31)
    assert "cannot hold" in only(listed(bytes(blob), "zip")).reason


def test_a_zip_member_that_claims_to_be_larger_than_the_archive_is_refused():
    found = reasons(broken_file("larger.zip"), "zip")
    assert sorted(map(bool, found.values())) == [False, True]
    assert "its 2000000000 bytes overlap another member or the archive's end" in "".join(filter(None, found.values()))


@pytest.mark.parametrize("compress", [False, True])
def test_a_tar_member_that_claims_to_be_larger_than_the_archive_is_refused(compress):
    large = tarfile.TarInfo("large.jpg")
    large.size = 2**40
    found = reasons(tar_with("good.jpg", large, compress=compress), "tar.gz" if compress else "tar")
    assert found.pop("good.jpg") is None
    assert found == {"large.jpg": f"cut off: 9216 of its {2**40} bytes are there; upload the archive again"}


@pytest.mark.parametrize(
    ("name", "message"), [("checksum.zip", "its checksum is"), ("damaged.zip", "its compressed data are damaged")]
)
def test_what_only_its_bytes_can_tell_is_found_when_it_is_read(name, message):
    blob = broken_file(name)
    with pytest.raises(ArchiveError, match=message):
        [unpacked(blob, member) for member in listed(blob, "zip")]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("fields", [1000, 10**9])
def test_the_map_of_a_sparse_file_cannot_fill_the_memory(fields, compress):
    """In this form of sparse file, `tarfile` reads as many numbers as the first one says."""
    entry = tarfile.TarInfo("sparse.tif")
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    rng = random.Random(0)
    numbers = b"\n".join(b"%d" % number for number in [fields, *rng.choices(range(10**6), k=400_000)])
    entry.size = len(numbers)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz" if compress else "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("good.jpg"))
        archive.addfile(entry, io.BytesIO(numbers))
    found = reasons(sink.getvalue(), "tar.gz" if compress else "tar")
    assert found.pop("good.jpg") is None
    assert len(found) == 1
    assert ("--sparse" if fields == 1000 else "headers of too many lines") in found.popitem()[1]


def test_a_directory_that_would_fill_the_memory_is_unreadable(tmp_path):
    size = 2**30
    with (tmp_path / "a.zip").open("w+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, size - 100, 100, 0))
        with pytest.raises(ArchiveError, match="it has 1073741724 bytes; at most 67108864 make sense"):
            list_members(file, "zip")


# Ratios


def test_a_zip_member_that_unpacks_to_too_much_is_refused():
    blob = archive_of("zip", [("bomb.bmp", bytes(3_000_000)), GOOD])
    found = reasons(blob, "zip")
    assert found["good.jpg"] is None
    assert f"to 3000000 bytes, more than {MAX_RATIO} times as many" in found["bomb.bmp"]


def test_what_is_small_may_pack_as_well_as_it_likes():
    blob = archive_of("zip", [("flat.bmp", bytes(2**20))])
    assert len(unpacked(blob, only(listed(blob, "zip")))) == 2**20 > MAX_RATIO * len(blob)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_micrographs_that_were_smoothed_before_and_small_flat_drawings_are_within_the_limit(kind):
    drawn = draw_micrograph(0).pixels
    smoothed = cv2.imdecode(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR)
    pictures = [("drawn.bmp", bmp(drawn)), ("smoothed.bmp", bmp(smoothed)), ("flat.bmp", bmp(draw(5)[0]))]
    blob = archive_of(kind, [*pictures, *[(f"{number}.bmp", bmp(draw(number)[0])) for number in range(6)]])
    assert set(reasons(blob, kind).values()) == {None}


def test_a_hundred_small_flat_drawings_are_within_the_limit():
    blob = archive_of("tar.gz", [(f"{number}.bmp", bmp(draw(5)[0])) for number in range(100)])
    assert set(reasons(blob, "tar.gz").values()) == {None}


def test_what_is_stored_has_no_ratio():
    flat = bmp(np.zeros((1500, 1500, 3), np.uint8))
    blob = zip_of([("flat.bmp", flat)], packing=zipfile.ZIP_STORED)
    member = only(listed(blob, "zip"))
    assert unpack_member(blob[: member.size], member.packing, member.data_size, member.crc32, 2**24) == flat


# More than one archive


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_second_tar_behind_the_first_is_not_skipped_in_silence(kind):
    blob = archive_of(kind, [GOOD]) + archive_of(kind, [("other.jpg", b"x")])
    found = reasons(blob, kind)
    assert found.pop("good.jpg") is None
    assert found == {
        "(from byte 1024 on)": "damaged from byte 1024 on, more follows its end mark: "
        "what follows could not be listed; upload it again"
    }


def test_a_tar_padded_with_zeros_has_nothing_behind_it():
    assert reasons(tar_of([GOOD]) + bytes(100_000), "tar") == {"good.jpg": None}


# Headers, names and entries without end: each is told within a second, whatever the machine


def pax(kind: bytes, body: bytes) -> bytes:
    """Return a header of a tar that speaks of what follows, with its body."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = kind, len(body)
    return header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % tarfile.BLOCKSIZE)


MEMBER = tar_of([GOOD], tarfile.USTAR_FORMAT)[:1024]
RECORD = b"6 a=b\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (pax(tarfile.XHDTYPE, RECORD * 300), "headers of too many lines"),
        (pax(tarfile.XGLTYPE, RECORD * 300), "headers of too many lines"),
        (pax(tarfile.XHDTYPE, b"100012 a=" + b"x" * 100_002 + b"\n"), "make sense"),
        (pax(tarfile.GNUTYPE_LONGNAME, b"n" * 100_000), "make sense"),
    ],
)
def test_what_the_headers_of_a_tar_say_is_bounded_over_all_its_members(headers, reason, compress):
    blob = (headers + MEMBER) * 3000
    blob = gzip.compress(blob, 1) if compress else blob
    *first, rest = listed(blob, "tar.gz" if compress else "tar")
    assert len(first) < 300
    assert {member.reason for member in first} == {None}
    assert reason in rest.reason or "times its size" in rest.reason


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_that_follow_headers_without_end_are_told_in_plain_words(kind):
    blob = MEMBER + pax(kind, RECORD) * 20_000 + MEMBER
    good, rest = listed(blob, "tar")
    assert good.reason is None
    assert "header after header, and no file" in rest.reason


def test_usual_headers_of_many_members_are_no_attack():
    pairs = [(f"{'é' * 60}/{number}.jpg", b"x") for number in range(1500)]
    assert {member.reason for member in listed(tar_of(pairs), "tar")} == {None}
    assert {member.reason for member in listed(tar_of(pairs, tarfile.GNU_FORMAT), "tar")} == {None}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", [b"x", b""])
def test_gzip_parts_of_a_byte_each_are_not_read_to_their_end(part):
    """Python's own reader takes some hours for as many as lie in some hundred megabytes."""
    file = CountingFile(gzip.compress(tar_of([GOOD])) + gzip.compress(part) * 300_000)
    good, rest = list_members(file, "tar.gz")
    assert (good.reason, rest.reason) == (
        None,
        "its archive goes on here with gzip parts of less than 512 bytes: pack it again",
    )


def test_a_gzip_file_of_blocks_is_read():
    plain = tar_of([(f"{number}.jpg", random.Random(number).randbytes(700)) for number in range(2000)])
    blob = b"".join(gzip.compress(plain[start : start + 1024], 1) for start in range(0, len(plain), 1024))
    assert {member.reason for member in listed(blob, "tar.gz")} == {None}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("extra", "reason"), [(struct.pack("<HH", 9, 0) * 16_000, "longer extra fields"), (b"", "")])
def test_the_extra_fields_of_a_zip_are_bounded(extra, reason):
    entry = struct.pack("<4s24xHHH12x", b"PK\1\2", 1, len(extra), 0) + b"a" + extra
    directory = entry * 1000
    end = struct.pack("<4s4HLLH", b"PK\5\6", 0, 0, 1000, 1000, len(directory), 30, 0)
    blob = b"PK\3\4" + bytes(26) + directory + end
    if reason:
        with pytest.raises(ArchiveError, match=reason):
            listed(blob, "zip")
    else:
        assert len(listed(blob, "zip")) == 1000


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_has_no_more_members_than_make_sense_for_its_size(kind, monkeypatch):
    monkeypatch.setattr(members_module, "FREE_MEMBERS", 50)
    small, pictures = (
        [(f"{n}.jpg", b"") for n in range(200)],
        [(f"{n}.jpg", random.randbytes(2000)) for n in range(200)],
    )
    assert {member.reason for member in listed(archive_of(kind, pictures), kind)} == {None}
    if kind == "zip":
        with pytest.raises(ArchiveError, match="entries for its size, an attack"):
            listed(archive_of(kind, small), kind)
    else:
        small = [(f"{n}/", b"") for n in range(9000)]
        assert "files: pack these as another" in listed(archive_of(kind, small), kind)[-1].reason
