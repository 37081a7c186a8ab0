"""Archives are read for what they are, whatever their names say; what is not read is named."""

import bz2
import gzip
import io
import lzma

import pytest
from support.archive_files import archive_of, tar_gz_of, tar_of, zip_of

from spermseg.errors import ArchiveError
from spermseg.storage.archives.directory import is_archive_name, list_members, stored_kind

PAIRS = [("patient-1/a.jpg", b"pixels")]
NAMES = ("a.zip", "a.tar", "a.tar.gz", "a.TGZ", "a.gz", "a.7z", "a.tar.zst")


def kind_of(blob: bytes, name: str) -> str:
    return stored_kind(io.BytesIO(blob), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_the_bytes_of_an_archive_tell_its_kind_whatever_its_name_is(kind, name):
    blob = archive_of(kind, PAIRS)
    assert kind_of(blob, name) == kind
    assert [member.name for member in list_members(io.BytesIO(blob), kind)] == ["patient-1/a.jpg"]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_without_files_has_a_kind_as_well(kind):
    assert kind_of(archive_of(kind, []), {"zip": "a.tar", "tar": "a.tar", "tar.gz": "a.zip"}[kind]) == kind


@pytest.mark.parametrize(
    ("blob", "what"),
    [
        (bz2.compress(tar_of(PAIRS)), ".bz2"),
        (lzma.compress(tar_of(PAIRS)), ".xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), ".zst"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100), ".7z"),
        (b"Rar!\x1a\x07\1\0" + bytes(100), ".rar"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_an_archive_of_another_kind_is_named_by_its_bytes(blob, what, name):
    with pytest.raises(ArchiveError, match=rf"^a \{what} archive: .*pack the pictures again"):
        kind_of(blob, name)


@pytest.mark.parametrize("name", ["a.tif.gz", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("packed", [b"II*\0 one picture", zip_of(PAIRS), b"x" * 5000])
def test_a_gzip_file_that_holds_no_tar_says_so(packed, name):
    with pytest.raises(
        ArchiveError, match=r"^a \.gz archive of something else than a \.tar: .*pack the pictures again"
    ):
        kind_of(gzip.compress(packed), name)


def test_a_tar_whose_first_name_begins_as_another_kind_does_is_a_tar():
    assert kind_of(tar_of([("BZh9.jpg", b"x")]), "a.tar") == "tar"
    assert kind_of(tar_of([("MSCF.jpg", b"x")]), "a.zip") == "tar"


@pytest.mark.parametrize(("name", "kind"), [("a.zip", "zip"), ("a.tar", "tar"), ("a.tgz", "tar.gz")])
def test_where_the_bytes_tell_nothing_the_name_decides(name, kind):
    assert kind_of(b"not an archive at all", name) == kind


def test_what_only_its_name_says_is_refused_by_its_name():
    with pytest.raises(ArchiveError, match=r"^a \.rar archive"):
        kind_of(b"cut off", "a.rar")


def test_a_damaged_gzip_file_is_left_to_its_listing_which_says_more():
    assert kind_of(tar_gz_of(PAIRS)[:15], "a.zip") == "tar.gz"


@pytest.mark.parametrize("name", ["a.ZIP", "b/a.tar", "a.tgz", "a.tar.bz2", "A.TBZ2", "a.7z", "a.rar", "a.jpg.gz"])
def test_a_name_of_an_archive_is_looked_into(name):
    assert is_archive_name(name)


@pytest.mark.parametrize("name", ["zip", "gz", "a.jpg", "a.zip.jpg", "7z.png"])
def test_another_name_is_not(name):
    assert not is_archive_name(name)
