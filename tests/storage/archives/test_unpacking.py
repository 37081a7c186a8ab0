"""Members: what an archive says of them is compared with what they unpack to."""

import os
import tracemalloc
import zipfile
import zlib

import pytest
from support.archive_files import LIMIT, listed, only, unpacked, zip_of

from spermseg.errors import ArchiveError
from spermseg.storage.archives.directory import unpack_member


def test_data_larger_than_allowed_is_not_unpacked():
    blob = zip_of([("a.jpg", bytes(50_000))])
    with pytest.raises(ArchiveError, match="declares 50000 bytes unpacked; at most 49999"):
        unpacked(blob, only(listed(blob, "zip")), limit=49_999)


def test_a_stream_that_unpacks_to_more_than_declared_is_stopped():
    blob = zip_of([("a.jpg", bytes(50_000))])
    member = only(listed(blob, "zip"))
    with pytest.raises(ArchiveError, match="more than the 100 bytes"):
        unpack_member(blob[: member.size], member.packing, 100, None, LIMIT)


def test_a_bomb_is_not_unpacked_into_memory():
    blob = zip_of([("a.jpg", bytes(10_000_000))])
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="more than the 100 bytes"):
        unpack_member(blob, "zip-deflate", 100, None, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_is_found(packing):
    data = b"some pixels"
    blob = zip_of([("a.jpg", data)], packing=packing)
    member = only(listed(blob, "zip"))
    with pytest.raises(ArchiveError, match="checksum"):
        unpack_member(blob[: member.size], member.packing, len(data), zlib.crc32(data) ^ 1, LIMIT)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("kept", [0, 20, 45, 60])
def test_data_that_end_early_are_found(packing, kept):
    blob = zip_of([("a.jpg", bytes(range(256)))], packing=packing)
    member = only(listed(blob, "zip"))
    with pytest.raises(ArchiveError):
        unpack_member(blob[:kept], member.packing, member.data_size, None, LIMIT)


def test_short_data_of_a_tar_member_are_found():
    with pytest.raises(ArchiveError, match="holds 3 bytes where the archive declares 4"):
        unpack_member(b"abc", "tar", 4, None, LIMIT)


def test_damaged_deflate_data_are_found():
    blob = bytearray(zip_of([("a.jpg", os.urandom(100))]))
    member = only(listed(bytes(blob), "zip"))
    blob[35] = 0xFF
    with pytest.raises(ArchiveError, match="compressed data are damaged"):
        unpacked(bytes(blob), member)


@pytest.mark.parametrize("packing", ["rar", "tar-gz", ""])
def test_a_packing_without_ranges_is_refused(packing):
    with pytest.raises(ArchiveError, match="needed is tar, zip-stored or zip-deflate"):
        unpack_member(b"", packing, 0, None, LIMIT)
