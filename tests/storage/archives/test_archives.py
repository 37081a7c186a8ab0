"""Archives: what was packed comes back by byte ranges, and nothing that was packed is lost in silence."""

import gzip
import io
import os
import random
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.archive_files import (
    CountingFile,
    archive_of,
    listed,
    only,
    result_or_error,
    tar_gz_of,
    tar_of,
    tar_with,
    unpacked,
    zip_of,
)

from spermseg.errors import ArchiveError, SpermsegError, StorageError
from spermseg.storage.archives import members as members_module
from spermseg.storage.archives.directory import list_members

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/\\"), min_size=1, max_size=20).map(
    lambda text: f"p1/{text}.jpg"
)
contents = st.one_of(
    st.binary(max_size=300), st.integers(0, 100_000).map(lambda size: b"sperm" * (size // 5)), st.just(b"")
)
entries = st.lists(st.tuples(names, contents), max_size=6)


# Laws


@pytest.mark.filterwarnings("ignore:Duplicate name")
@QUICK
@given(entries, st.booleans(), st.sampled_from([b"", b"MZ a self-extracting stub"]))
def test_what_was_zipped_comes_back_by_ranges(pairs, force_zip64, prefix):
    blob = zip_of(pairs, force_zip64=force_zip64, prefix=prefix)
    members = listed(blob, "zip")
    assert [(member.name, unpacked(blob, member)) for member in members] == pairs
    assert [member.reason for member in members] == [None] * len(pairs)


@QUICK
@given(entries, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
@example([("p1/" + "long" * 60 + ".jpg", b"x")], tarfile.GNU_FORMAT)
def test_what_was_put_in_a_tar_comes_back_by_ranges(pairs, kind):
    blob = tar_of(pairs, kind)
    members = listed(blob, "tar")
    assert [(member.name, unpacked(blob, member)) for member in members] == pairs
    assert [member.reason for member in members] == [None] * len(pairs)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["zip", "zip64", "pax", "gnu", "gz", "gz of a damaged tar"]),
    st.randoms(use_true_random=False),
    st.integers(1, 8),
)
def test_a_damaged_archive_gives_members_or_our_errors_within_its_bounds(form, rng, flips):
    pairs = [("a.jpg", b"a" * 700), ("p1/" + "é" * 90 + ".jpg", b"b" * 20), ("c.png", bytes(range(256)))]
    kind = "zip" if form.startswith("zip") else "tar.gz" if form.startswith("gz") else "tar"
    whole = {
        "zip": lambda: zip_of(pairs),
        "zip64": lambda: zip_of(pairs, force_zip64=True),
        "pax": lambda: tar_of(pairs),
        "gnu": lambda: tar_of(pairs, tarfile.GNU_FORMAT),
        "gz": lambda: tar_gz_of(pairs),
        "gz of a damaged tar": lambda: tar_of(pairs),
    }[form]()
    blob = bytearray(whole)
    for _ in range(flips):
        blob[rng.randrange(len(blob))] = rng.randrange(256)
    blob = bytes(blob[: rng.choice([len(blob), rng.randrange(len(blob))])])
    end = 2**63 if kind == "tar.gz" else len(blob)
    blob = gzip.compress(blob) if form == "gz of a damaged tar" else blob
    members = result_or_error(lambda: listed(blob, kind))
    for member in [] if isinstance(members, SpermsegError) else members:
        assert 0 <= member.offset <= member.offset + member.size <= end
        assert 0 <= member.data_size < 2**63
        assert member.name.encode() or member.reason
        if member.reason is None:
            data = result_or_error(lambda member=member: unpacked(blob, member))
            assert isinstance(data, ArchiveError) or len(data) == member.data_size


@QUICK
@given(st.sampled_from(["tar", "tar.gz"]), st.integers(1, 20), st.integers(0, 10_000))
def test_a_tar_cut_anywhere_shows_that_something_is_missing(kind, count, where):
    pairs = [(f"{number}.jpg", bytes([number]) * 300) for number in range(count)]
    blob = tar_of(pairs, tarfile.GNU_FORMAT)
    content_end = count * 1024
    cut = blob[: 512 + where % (content_end - 511)]
    cut = cut if kind == "tar" else gzip.compress(cut)
    members = listed(cut, kind)
    good = [(member.name, unpacked(cut, member)) for member in members if member.reason is None]
    assert good == pairs[: len(good)]
    assert members[-1].reason is not None
    assert sum(member.reason is not None for member in members) == 1


# Names


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_name_that_occurs_twice_gives_two_members(kind):
    pairs = [("a.jpg", b"first"), ("a.jpg", b"second")]
    blob = archive_of(kind, pairs)
    members = listed(blob, kind)
    assert [unpacked(blob, member) for member in members] == [b"first", b"second"]
    assert members[0].offset != members[1].offset


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_folders_are_left_out(kind):
    folder, nested = tarfile.TarInfo("p1"), tarfile.TarInfo("p1/monday")
    folder.type = nested.type = tarfile.DIRTYPE
    blob = tar_with(folder, nested, "p1/monday/a.jpg", compress=kind == "tar.gz")
    if kind == "zip":
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.mkdir("p1")
            archive.mkdir("p1/monday")
            archive.writestr("p1/monday/a.jpg", b"x")
        blob = sink.getvalue()
    assert only(listed(blob, kind)).name == "p1/monday/a.jpg"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_without_members_has_none(kind):
    assert listed(archive_of(kind, []), kind) == []


# Damage


def test_the_damaged_rest_of_a_tar_is_one_refused_member_after_the_good_ones():
    blob = bytearray(tar_of([("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")], tarfile.GNU_FORMAT))
    blob[1024 + 10] ^= 0xFF
    members = listed(bytes(blob), "tar")
    assert [member.name for member in members] == ["a.jpg", "(from byte 1024 on)"]
    assert "could not be listed" in members[1].reason


@pytest.mark.parametrize("size", [-1, -512, -1024, 1 << 62])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.timeout(20)
def test_a_tar_header_with_an_absurd_size_neither_loops_nor_reads_the_archive(size, kind):
    entry = tarfile.TarInfo("b.jpg")
    entry.type, entry.size = kind, size
    blob = tar_of([("a.jpg", b"a")])[:1024] + entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    file = CountingFile(blob)
    members = list_members(file, "tar")
    assert [member.reason is None for member in members] == [True, False]
    assert file.largest_request <= 1 << 20


# Unreadable directories


class BrokenLine(io.BytesIO):
    def read(self, size=-1):
        raise StorageError("the line broke")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("blob", [b"", b"no archive", bytes(range(256)) * 8, b"PK\3\4" + bytes(60)])
def test_what_is_no_archive_gives_one_line_that_names_the_kind(kind, blob):
    with pytest.raises(ArchiveError, match=rf"^the {kind} archive's directory cannot be read: [^\n]+$"):
        listed(blob, kind)


def test_a_compressed_tar_named_tar_is_unreadable():
    with pytest.raises(ArchiveError, match="the tar archive's directory cannot be read"):
        listed(tar_gz_of([("a.jpg", b"x")]), "tar")


def test_a_plain_tar_named_as_a_compressed_one_is_unreadable():
    with pytest.raises(ArchiveError, match="cannot be read: it does not begin as gzip does; upload it again"):
        listed(tar_of([("a.jpg", b"x")]), "tar.gz")


def test_a_zip_cut_short_is_unreadable():
    blob = zip_of([("a.jpg", os.urandom(5000))])
    with pytest.raises(ArchiveError, match="upload it again"):
        listed(blob[:4000], "zip")


def test_another_kind_of_archive_is_refused():
    with pytest.raises(ArchiveError, match="rar"):
        listed(b"", "rar")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_failure_of_the_storage_stays_one(kind):
    blob = archive_of(kind, [("a.jpg", b"x")])
    with pytest.raises(StorageError, match="the line broke"):
        list_members(BrokenLine(blob), kind)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_listing_reads_the_directory_only(kind):
    pairs = [(f"{number}.jpg", random.Random(number).randbytes(200_000)) for number in range(10)]
    file = CountingFile(archive_of(kind, pairs))
    assert len(list_members(file, kind)) == 10
    assert file.bytes_read < 20_000


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_of_more_members_than_memory_has_room_for_the_first_are_read_and_the_rest_is_one_that_is_rejected(
    kind, monkeypatch
):
    monkeypatch.setattr(members_module, "MOST_MEMBERS", 5)
    pairs = [(f"{number}.png", b"picture") for number in range(9)]
    assert len(listed(archive_of(kind, pairs[:5]), kind)) == 5
    *first, rest = listed(archive_of(kind, pairs), kind)
    assert [(member.name, member.reason) for member in first] == [(f"{number}.png", None) for number in range(5)]
    assert rest.reason == "the archive has more than 5 files: pack these as another"
