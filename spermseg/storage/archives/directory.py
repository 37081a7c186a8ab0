"""`.zip` and `.tar` archives as byte ranges, so that every worker reads its own members and none the whole archive.

Planning reads the directory (`list_members`); a worker fetches one range and unpacks it (`unpack_member`). A `.tar.gz`
has no ranges to read: planning reads it from end to end, and one worker all of its members (`stream_members`).

Nothing is written to disk, so names cannot escape anywhere; what a hostile archive can do is lie about sizes and unpack
to far more than it is, and both are compared with the archive's true end and against limits.

Sources: PKWARE's APPNOTE 6.3.10 (zip); POSIX.1-2001 pax and GNU tar, as the standard library's `tarfile` reads them;
RFC 1952 (gzip).
"""

import zlib
from dataclasses import replace
from typing import BinaryIO

from spermseg.errors import ArchiveError
from spermseg.storage.archives.gzip_stream import stream_members, too_large
from spermseg.storage.archives.kinds import is_archive_name, stored_kind
from spermseg.storage.archives.members import (
    KINDS,
    MAX_RATIO,
    TAR,
    TAR_GZ,
    ZIP_DEFLATE,
    ZIP_STORED,
    Member,
)
from spermseg.storage.archives.tar import list_tar, list_tar_gz
from spermseg.storage.archives.zip import inflate, list_zip, zip_body

__all__ = [
    "MAX_RATIO",
    "MAX_UNPACKED",
    "TAR",
    "TAR_GZ",
    "ZIP_DEFLATE",
    "ZIP_STORED",
    "Member",
    "is_archive_name",
    "list_members",
    "stored_kind",
    "stream_members",
    "unpack_member",
]

MAX_UNPACKED = 1 << 38
"""Bytes that one archive may unpack to, unless told otherwise."""


def list_members(file: BinaryIO, kind: str, max_unpacked: int = MAX_UNPACKED) -> list[Member]:
    """Return the files in an archive, in the order of their offsets, reading no more than its directory.

    A `tar.gz` has none, and is read once from end to end. Folders are left out. A member that cannot be used is
    returned with its reason, and so are the damaged rest of a tar and all that is more than the archive may unpack to.

    Args:
        file: the archive, seekable.
        kind: `zip`, `tar` or `tar.gz`, from `stored_kind`.
        max_unpacked: bytes that all of them may have.

    Raises:
        ArchiveError: the directory cannot be read, or nothing in the archive can be trusted.
        StorageError: the file could not be read.
    """
    if kind == "zip":
        members = list_zip(file)
    elif kind == "tar":
        members = list_tar(file)
    elif kind == "tar.gz":
        members = list_tar_gz(file, max_unpacked)
    else:
        raise ArchiveError(f"got an archive of kind {kind!r}; spermseg reads {', '.join(sorted({*KINDS.values()}))}")
    return _bounded(sorted(members, key=lambda member: member.offset), max_unpacked)


def _bounded(members: list[Member], max_unpacked: int) -> list[Member]:
    """Return members, those that come after so many unpacked bytes with a reason."""
    unpacked = 0
    for number, member in enumerate(members):
        unpacked += 0 if member.reason else member.data_size
        if unpacked > max_unpacked and not member.reason:
            members[number] = replace(member, packing="", reason=too_large(max_unpacked))
    return members


def unpack_member(blob: bytes, packing: str, data_size: int, crc32: int | None, max_bytes: int) -> bytes:
    """Return a member's data from the bytes of its range.

    Args:
        blob: the bytes of `Member.offset` to `Member.offset + Member.size`.
        packing: `Member.packing`; not `tar-gz`, whose members `stream_members` reads.
        data_size: `Member.data_size`; never is more than this unpacked.
        crc32: `Member.crc32`.
        max_bytes: how large the data may be.

    Raises:
        ArchiveError: it is larger than allowed, damaged, or not what the directory declares.
    """
    if data_size > max_bytes:
        raise ArchiveError(f"it declares {data_size} bytes unpacked; at most {max_bytes} are allowed")
    if packing == TAR:
        data = blob
    elif packing == ZIP_STORED:
        data = bytes(zip_body(blob)[:data_size])
    elif packing == ZIP_DEFLATE:
        data = inflate(zip_body(blob), data_size)
    else:
        raise ArchiveError(f"got the packing {packing!r}; needed is {TAR}, {ZIP_STORED} or {ZIP_DEFLATE}")
    if len(data) != data_size:
        raise ArchiveError(f"it holds {len(data)} bytes where the archive declares {data_size}: pack it again")
    if crc32 is not None and zlib.crc32(data) != crc32:
        raise ArchiveError(f"its checksum is {zlib.crc32(data):08x} where {crc32:08x} is declared: pack it again")
    return data
