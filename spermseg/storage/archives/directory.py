"""`.zip` and `.tar` archives as byte ranges: each worker reads only its own members.

Planning reads the directory of the archive (`list_members`). A worker fetches the byte range of a member and unpacks it
(`unpack_member`). A `.tar.gz` has no such ranges. Planning reads the whole file, and one worker reads all of its
members (`stream_members`).

Nothing is written to disk, so the names of members cannot lead outside a folder. A hostile archive can declare wrong
sizes, or unpack to far more than its own size. Sizes are compared with the end of the archive and with limits.

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
"""Default limit on the unpacked bytes of one archive."""


def list_members(file: BinaryIO, kind: str, max_unpacked: int = MAX_UNPACKED) -> list[Member]:
    """Return the files in an archive, in the order of their offsets. Only the directory of the archive is read.

    A `tar.gz` has no directory, so the whole file is read once. Folders are left out. A member that cannot be used is
    returned with a reason. The damaged rest of a tar is returned as one such member. Members behind the limit on
    unpacked bytes have a reason too.

    Args:
        file: the archive, seekable.
        kind: `zip`, `tar` or `tar.gz`, from `stored_kind`.
        max_unpacked: limit on the unpacked bytes of all members together.

    Raises:
        ArchiveError: the directory cannot be read, or the checksum of the whole archive is wrong.
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
    """Return the members. Those behind `max_unpacked` bytes get a reason."""
    unpacked = 0
    for number, member in enumerate(members):
        unpacked += 0 if member.reason else member.data_size
        if unpacked > max_unpacked and not member.reason:
            members[number] = replace(member, packing="", reason=too_large(max_unpacked))
    return members


def unpack_member(blob: bytes, packing: str, data_size: int, crc32: int | None, max_bytes: int) -> bytes:
    """Return a member's data from the bytes of its range.

    Args:
        blob: the bytes from `Member.offset` to `Member.offset + Member.size`.
        packing: `Member.packing`, other than `tar-gz`; `stream_members` reads those.
        data_size: `Member.data_size`. At most one byte more is unpacked.
        crc32: `Member.crc32`.
        max_bytes: limit on the size of the data.

    Raises:
        ArchiveError: the member is larger than allowed, damaged, or not as the directory declares.
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
