"""`.tar.gz`: read once and forward only, by the plan to list it and by one worker to read its members."""

import gzip
import io
import random
import tarfile
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archive_files import CountingFile, listed, result_or_error, tar_gz_of, tar_of, tar_with

from spermseg.errors import ArchiveError, StorageError
from spermseg.storage.archives import gzip_stream
from spermseg.storage.archives.directory import MAX_RATIO, TAR_GZ, Member, list_members, stream_members
from spermseg.storage.filesystem import Location

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CUT = "its compressed archive was cut off here: upload it again"
BOMB = f"here its archive has unpacked to more than {MAX_RATIO} times its size, as micrographs do not"

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/\\"), min_size=1, max_size=20).map(
    lambda text: f"p1/{text}.jpg"
)
contents = st.one_of(st.binary(max_size=300), st.integers(0, 30_000).map(lambda size: random.Random(0).randbytes(size)))
entries = st.lists(st.tuples(names, contents), max_size=6)


def streamed(blob: bytes, members: list[Member]) -> list[bytes]:
    return list(stream_members(io.BytesIO(blob), [(one.offset, one.size) for one in members if one.reason is None]))


def noise(count: int, size: int = 10_000) -> list[tuple[str, bytes]]:
    return [(f"p1/{number}.jpg", random.Random(number).randbytes(size)) for number in range(count)]


def folder(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE
    return entry


# Laws


@QUICK
@given(entries, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.lists(st.booleans(), max_size=6))
def test_what_was_put_in_a_tar_gz_comes_back_by_streaming_any_of_it(pairs, kind, chosen):
    blob = tar_gz_of(pairs, kind)
    members = listed(blob, "tar.gz")
    assert [(member.name, data) for member, data in zip(members, streamed(blob, members), strict=True)] == pairs
    assert {member.packing for member in members} <= {TAR_GZ}
    some = [index for index, wanted in enumerate(chosen) if wanted and index < len(pairs)]
    assert streamed(blob, [members[index] for index in some]) == [pairs[index][1] for index in some]


@QUICK
@given(entries)
def test_a_tar_gz_has_the_members_of_its_tar_at_the_same_offsets(pairs):
    plain, packed = tar_of(pairs), tar_gz_of(pairs)
    offsets = [(member.name, member.offset, member.size) for member in listed(plain, "tar")]
    assert [(member.name, member.offset, member.size) for member in listed(packed, "tar.gz")] == offsets


@QUICK
@given(st.integers(1, 12), st.floats(0, 1))
def test_of_a_tar_gz_cut_anywhere_the_members_before_the_cut_are_read_and_the_rest_is_one_refused_member(count, where):
    pairs = noise(count, 700)
    blob = tar_gz_of(pairs)
    cut = blob[: round(where * (len(blob) - 1))]
    members = result_or_error(lambda: listed(cut, "tar.gz"))
    if isinstance(members, ArchiveError):
        assert "the tar.gz archive's directory cannot be read" in members.message
        assert len(cut) < 1000
        return
    *good, rest = members
    there = len(zlib.decompressobj(31).decompress(cut))
    assert len(good) == sum(1536 * number + 512 + 700 <= there for number in range(count))
    assert [member.reason for member in good] == [None] * len(good)
    assert streamed(cut, good) == [data for _, data in pairs[: len(good)]]
    assert rest.reason == CUT
    assert rest.name.startswith("(from byte ") or rest.name == pairs[len(good)][0]


@QUICK
@given(st.randoms(use_true_random=False))
def test_a_changed_byte_of_a_tar_gz_is_never_overlooked(rng):
    """It may look as if the archive were cut off: then nothing tells a changed byte before the end from a whole one."""
    pairs = noise(3, 700)
    blob = bytearray(tar_gz_of(pairs))
    blob[rng.randrange(len(blob))] ^= rng.randrange(1, 256)
    members = result_or_error(lambda: listed(bytes(blob), "tar.gz"))
    if isinstance(members, ArchiveError):
        assert "upload it again" in members.message
    elif all(member.reason is None for member in members):
        assert streamed(bytes(blob), members) == [data for _, data in pairs]


# Once, forward, in little memory


@pytest.mark.parametrize("folders", [False, True])
def test_folders_and_empty_members_are_passed_without_going_back(folders):
    """One step back would mean to unpack from the first byte: for thousands of members, millions of times as much."""
    names = [f"p{number}/monday" for number in range(3000)]
    file = CountingFile(tar_with(*map(folder, names) if folders else names, compress=True))
    assert [member.name for member in list_members(file, "tar.gz")] == ([] if folders else names)
    assert file.bytes_read == len(file.getvalue())


def test_listing_reads_each_byte_once_in_large_requests(monkeypatch):
    monkeypatch.setattr(gzip_stream, "REQUEST", 200_000)
    file = CountingFile(tar_gz_of([*noise(60), ("empty.jpg", b""), *noise(40)]))
    assert len(list_members(file, "tar.gz")) == 101
    assert file.bytes_read == len(file.getvalue()) > 1_000_000
    assert file.requests == len(file.getvalue()) // 200_000 + 1


def test_streaming_reads_each_byte_once_and_none_after_the_last_wanted(monkeypatch):
    monkeypatch.setattr(gzip_stream, "REQUEST", 20_000)
    file = CountingFile(tar_gz_of(noise(100)))
    wanted = [(one.offset, one.size) for one in list_members(file, "tar.gz")]
    file.seek(0)
    file.bytes_read = 0
    assert len(list(stream_members(file, wanted[:50]))) == 50
    assert file.bytes_read < 0.55 * len(file.getvalue())


def test_listing_and_streaming_hold_one_member_at_a_time(monkeypatch):
    monkeypatch.setattr(gzip_stream, "REQUEST", 100_000)
    blob = tar_gz_of(noise(30, 1_000_000))
    tracemalloc.start()
    wanted = [(one.offset, one.size) for one in listed(blob, "tar.gz")]
    listing = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for data in stream_members(io.BytesIO(blob), wanted):
        assert len(data) == 1_000_000
    streaming = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listing < 1_000_000
    assert streaming < 4_000_000


def test_listing_keeps_no_more_of_a_member_than_what_it_returns():
    blob = tar_with(*[f"{number}.jpg" for number in range(3000)], compress=True)
    listed(blob, "tar.gz")
    tracemalloc.start()
    members = listed(blob, "tar.gz")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(members) == 3000
    assert peak - kept < 200 * 3000


def test_a_tar_gz_is_streamed_from_where_it_lies(place):
    archive = place.child("monday.tar.gz")
    pairs = noise(5)
    archive.write_bytes(tar_gz_of(pairs))
    with archive.open() as file:
        members = list_members(file, "tar.gz")
    with archive.open() as file:
        assert list(stream_members(file, [(one.offset, one.size) for one in members])) == [data for _, data in pairs]


# What was packed otherwise


def test_gzip_members_one_after_the_other_are_one_archive():
    pairs = noise(4)
    plain = tar_of(pairs)
    blob = b"".join(gzip.compress(plain[start : start + 7000]) for start in range(0, len(plain), 7000))
    assert streamed(blob, listed(blob, "tar.gz")) == [data for _, data in pairs]


def test_zeros_that_pad_a_tar_gz_do_no_harm():
    blob = tar_gz_of(noise(2)) + bytes(10_000)
    assert [member.reason for member in listed(blob, "tar.gz")] == [None, None]


# Damage


def test_a_wrong_checksum_costs_the_whole_archive():
    blob = bytearray(tar_gz_of(noise(3)))
    blob[-8] ^= 1
    with pytest.raises(ArchiveError, match="checksum is wrong, so none of it can be trusted: upload it again"):
        listed(bytes(blob), "tar.gz")


def test_a_wrong_checksum_after_a_damaged_header_costs_the_whole_archive_too():
    plain = bytearray(tar_of(noise(3), tarfile.GNU_FORMAT))
    plain[10_752 + 10] ^= 0xFF
    blob = bytearray(gzip.compress(plain))
    assert [member.reason is None for member in listed(bytes(blob), "tar.gz")] == [True, False]
    blob[-8] ^= 1
    with pytest.raises(ArchiveError, match="checksum is wrong"):
        listed(bytes(blob), "tar.gz")


def test_damaged_compressed_data_cost_the_whole_archive():
    blob = bytearray(tar_gz_of([("text.txt", b" ".join(b"%d" % number for number in range(50_000)))]))
    blob[len(blob) // 2 : len(blob) // 2 + 40] = bytes(40)
    with pytest.raises(ArchiveError, match=r"the archive's (compressed data are damaged|checksum is wrong)"):
        listed(bytes(blob), "tar.gz")


def test_what_follows_and_is_no_gzip_is_one_refused_member():
    blob = tar_gz_of(noise(2)) + b"\nuploaded by courier\n"
    members = listed(blob, "tar.gz")
    assert [member.reason is None for member in members] == [True, True, False]
    assert members[2].reason == "its archive goes on here with what is not gzip: upload it again"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("silence", [b"\x1f\x8b\x08\x08\0\0\0\0\0\0" + b"x" * 2**23, bytes(2**23)])
def test_headers_and_padding_without_end_are_not_read_on(silence):
    """Gzip reads both byte by byte: a gigabyte of them would take an hour."""
    file = CountingFile(tar_gz_of(noise(1)) + silence)
    members = list_members(file, "tar.gz")
    assert [member.reason is None for member in members] == [True, False]


# Bombs


@pytest.mark.parametrize("before", [0, 3])
def test_a_bomb_is_not_read_on(before, monkeypatch):
    monkeypatch.setattr(gzip_stream, "REQUEST", 4096)
    bomb = tar_gz_of([*noise(before), ("bomb.bmp", bytes(50_000_000)), *noise(3)])
    file = CountingFile(bomb)
    *good, rest = list_members(file, "tar.gz")
    assert [member.name for member in good] == [name for name, _ in noise(before)]
    assert (rest.name, rest.packing) == ("bomb.bmp", "")
    assert rest.reason.startswith(BOMB)
    assert file.bytes_read < 0.8 * len(bomb)


def test_a_bomb_between_members_is_one_refused_rest():
    plain = tar_of(noise(1), tarfile.GNU_FORMAT)[:10_752] + bytes(50_000_000)
    *good, rest = listed(gzip.compress(plain), "tar.gz")
    assert [member.reason for member in good] == [None]
    assert rest.name == "(from byte 10752 on)"
    assert rest.reason.startswith(BOMB)


def test_an_archive_that_is_cut_off_in_its_first_header_is_told_so_once():
    with pytest.raises(ArchiveError) as caught:
        listed(tar_gz_of(noise(2))[:60], "tar.gz")
    assert caught.value.message == (
        "the tar.gz archive's directory cannot be read: its compressed archive was cut off here; upload it again"
    )


# Streaming


def test_a_stream_that_ends_before_a_member_does_is_an_error():
    blob = tar_gz_of(noise(2))
    first, second = listed(blob, "tar.gz")
    members = stream_members(io.BytesIO(blob[: len(blob) // 2]), [(one.offset, one.size) for one in (first, second)])
    with pytest.raises(ArchiveError, match="cut off here"):
        list(members)
    with pytest.raises(ArchiveError, match="its archive ends after 0 of its 10 bytes"):
        list(stream_members(io.BytesIO(blob), [(10**6, 10)]))


def test_members_out_of_their_order_are_an_error():
    blob = tar_gz_of(noise(2))
    first, second = listed(blob, "tar.gz")
    with pytest.raises(ArchiveError, match="members go in their order"):
        list(stream_members(io.BytesIO(blob), [(one.offset, one.size) for one in (second, first)]))


def test_a_storage_that_fails_while_streaming_is_not_the_archives_fault(tmp_path):
    place = Location(str(tmp_path / "a.tgz"))
    place.write_bytes(tar_gz_of(noise(50)))
    with place.open() as file:
        member = list_members(file, "tar.gz")[-1]
    with place.open() as file:
        (tmp_path / "a.tgz").unlink()
        with pytest.raises(StorageError):
            next(stream_members(file, [(member.offset, member.size)]))
