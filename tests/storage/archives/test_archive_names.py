"""Names in archives, in whatever letters: the picture is read, and its name can be stored."""

import io
import struct
import tarfile
import zipfile
import zlib

import pytest
from support.archive_files import listed, only, tar_with, unpacked, zip_of

from spermseg.storage.archives.directory import list_members

JAPANESE = "患者/精子.jpg"


def zip_with_raw_name(name: bytes, flags: int = 0) -> bytes:
    """Return a zip whose two headers name a member with these bytes."""
    plain = ("x" * len(name)).encode()
    blob = bytearray(zip_of([(plain.decode(), b"pixels")]).replace(plain, name))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", blob, blob.index(signature) + offset, flags)
    return bytes(blob)


@pytest.mark.parametrize(
    ("raw", "flags", "shown"),
    [
        (b"caf\x82.jpg", 0, "café.jpg"),
        (JAPANESE.encode(), 0, JAPANESE),
        ("Mu\u0308ller/1.jpg".encode(), 0, "Mu\u0308ller/1.jpg"),
        (b"patient-1\\s\\a.jpg", 0, "patient-1/s/a.jpg"),
        ("Zoë\\é.jpg".encode(), 0x800, "Zoë/é.jpg"),
        (JAPANESE.encode(), 0x800, JAPANESE),
        (b"caf\xe9.jpg", 0x800, "caf?.jpg"),
        ("é\udce9è.jpg".encode("utf-8", "surrogateescape"), 0x800, "é?è.jpg"),
    ],
)
def test_zip_names_are_read_as_their_flag_says(raw, flags, shown):
    blob = zip_with_raw_name(raw, flags)
    member = only(listed(blob, "zip"))
    assert (member.name, unpacked(blob, member)) == (shown, b"pixels")


def test_a_zip_name_in_japanese_without_a_flag_is_shown_in_the_wrong_letters_and_read():
    blob = zip_with_raw_name(JAPANESE.encode("shift-jis"))
    member = only(listed(blob, "zip"))
    assert member.name.encode("cp437").decode("shift-jis") == JAPANESE
    assert unpacked(blob, member) == b"pixels"


def test_an_extra_field_that_is_longer_than_it_has_room_costs_no_other_member():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            entry = zipfile.ZipInfo(name)
            entry.extra = struct.pack("<HH", 0x7075, 1) + b"x"
            archive.writestr(entry, name.encode())
    blob = bytearray(sink.getvalue())
    start = blob.rindex(b"a.jpg") + 5  # of the directory
    struct.pack_into("<H", blob, start + 2, 900)
    members = listed(bytes(blob), "zip")
    assert [(member.name, unpacked(bytes(blob), member)) for member in members] == [
        ("a.jpg", b"a.jpg"),
        ("b.jpg", b"b.jpg"),
    ]


def zip_with_unicode_path(name: bytes, text: bytes, *, of: bytes | None = None, version: int = 1) -> bytes:
    """Return a zip in which a member has Info-ZIP's Unicode path field (APPNOTE, 4.6.9), behind another field."""
    field = struct.pack("<BL", version, zlib.crc32(name if of is None else of)) + text
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        entry = zipfile.ZipInfo("x" * len(name))
        entry.extra = struct.pack("<HH3s", 0x5455, 3, b"abc") + struct.pack("<HH", 0x7075, len(field)) + field
        archive.writestr(entry, b"pixels")
    return sink.getvalue().replace(b"x" * len(name), name)


def test_a_unicode_path_says_the_name_where_it_is_of_this_name():
    name, text = b"_ngstr_m/_.jpg", "Ångström\\ü.jpg"
    blob = zip_with_unicode_path(name, text.encode())
    member = only(listed(blob, "zip"))
    assert (member.name, unpacked(blob, member)) == ("Ångström/ü.jpg", b"pixels")


@pytest.mark.parametrize(
    "field",
    [
        {"text": "ü.jpg".encode(), "of": b"another.jpg"},
        {"text": "ü.jpg".encode(), "version": 2},
        {"text": b"\xff\xfe.jpg"},
        {"text": b""},
    ],
)
def test_a_unicode_path_of_another_name_or_that_is_no_text_says_nothing(field):
    assert only(listed(zip_with_unicode_path(b"ada/1.jpg", **field), "zip")).name == "ada/1.jpg"


@pytest.mark.parametrize("name", ["ada\\", "ada/"])
def test_an_entry_that_ends_as_a_folder_does_is_one_where_it_holds_no_bytes(name):
    blob = zip_of([(name, b""), (f"{name}1.jpg", b"pixels")])
    assert [member.name for member in listed(blob, "zip")] == ["ada/1.jpg"]
    blob = zip_of([(name, b"pixels")])
    member = only(listed(blob, "zip"))
    assert (member.name, unpacked(blob, member)) == ("ada/", b"pixels")


def test_one_name_that_is_not_the_utf8_that_it_says_costs_no_other_member():
    pairs = [("å.jpg", b"first"), ("ß.jpg", b"second"), ("plain.jpg", b"third")]
    blob = zip_of(pairs).replace("ß".encode(), b"\xff\xfe")
    members = listed(blob, "zip")
    assert [member.name for member in members] == ["å.jpg", "??.jpg", "plain.jpg"]
    assert [unpacked(blob, member) for member in members] == [b"first", b"second", b"third"]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"caf\xe9.jpg", "caf\\xe9.jpg"),
        (JAPANESE.encode(), JAPANESE),
        (JAPANESE.encode("shift-jis"), JAPANESE.encode("shift-jis").decode("utf-8", "backslashreplace")),
    ],
)
def test_tar_names_that_are_not_utf8_are_shown_with_escapes(raw, shown, compress):
    blob = tar_with(raw.decode("utf-8", "surrogateescape"), compress=compress)
    member = only(listed(blob, "tar.gz" if compress else "tar"))
    assert (member.name, member.reason) == (shown, None)


def test_a_pax_name_that_is_not_utf8_is_shown_with_escapes():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        archive.addfile(tarfile.TarInfo("caf\udce9" * 40 + ".jpg"))
    assert b"hdrcharset=BINARY" in sink.getvalue()
    assert only(listed(sink.getvalue(), "tar")).name == "caf\\xe9" * 40 + ".jpg"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["", "\0.jpg"])
def test_a_zip_member_without_a_name_is_refused(name):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"pixels")
        archive.writestr("good.jpg", b"pixels")
    found = {member.name: member.reason for member in listed(sink.getvalue(), "zip")}
    assert found == {"": "it has no name", "good.jpg": None}


# Many members, and far away


def test_more_members_than_a_zip_without_zip64_can_count():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for number in range(65_600):
            archive.writestr(zipfile.ZipInfo(f"{number}.jpg"), b"")
    assert b"PK\6\6" in sink.getvalue()  # the end record of Zip64
    members = listed(sink.getvalue(), "zip")
    assert len(members) == 65_600
    assert all(member.reason is None for member in members)


def test_sizes_and_offsets_in_zip64_fields_are_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # above which zipfile writes the fields of Zip64
    pairs = [("a.jpg", b"a" * 5000), ("b.jpg", b"b" * 300)]
    blob = zip_of(pairs, packing=zipfile.ZIP_STORED, force_zip64=True)
    assert blob.count(b"\xff" * 8) >= 4  # what stands where a size does not fit
    members = listed(blob, "zip")
    assert [(member.name, unpacked(blob, member)) for member in members] == pairs


def test_a_member_beyond_four_gigabytes_is_read(tmp_path):
    with (tmp_path / "far.zip").open("w+b") as file:
        file.seek(5 * 2**30)  # a hole, that takes no space
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("far.jpg", b"pixels")
        member = only(list_members(file, "zip"))
        file.seek(member.offset)
        assert member.offset == 5 * 2**30
        assert file.read(member.size).endswith(b"far.jpgpixels")
