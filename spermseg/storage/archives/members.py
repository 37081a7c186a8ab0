"""Shared by all kinds of archive: the member, the kinds by suffix, the limits, and the reasons for refusal."""

import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass

from spermseg.errors import ArchiveError, one_line
from spermseg.storage.uris import storable

TAR, TAR_GZ, ZIP_STORED, ZIP_DEFLATE = "tar", "tar-gz", "zip-stored", "zip-deflate"
KINDS = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz"}
OTHER_SUFFIXES = (
    *(".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz", ".tzst"),
    *(".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"),
)
ARCHIVE_SUFFIXES = (*KINDS, *OTHER_SUFFIXES)
MAX_RATIO = 200
"""Limit on unpacked bytes per packed byte. A micrograph with noise packs 2 to 1. One that strong JPEG compression has
smoothed packs 30 to 1, and a drawing without noise 140 to 1. Decompression bombs use deflate's maximum, 1032 to 1."""
RATIO_FREE_BYTES = 1 << 20
"""Members up to this number of unpacked bytes may have any ratio, since they are harmless."""
MOST_MEMBERS = 1_000_000
"""Limit on the members of an archive. More would exceed the memory of one night's planning, or are an attack."""
FREE_MEMBERS, LEAST_BYTES = 100_000, 1024
"""Number of members, folders included, that an archive of any size may have, and the bytes of the archive for each
further member. A million rows from an upload of some megabytes are an attack."""
LARGEST_INT = 2**63 - 1  # the largest int64 in Parquet
DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, struct.error, zlib.error),
    *(ValueError, OverflowError, LookupError, EOFError, OSError, NotImplementedError, RecursionError, MemoryError),
)
"""Exceptions of the standard library's readers for damaged archives."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file inside an archive."""

    name: str
    """Its path in the archive. Invalid text is shown with backslash escapes or question marks. Two members may have the
    same name, but not the same offset."""
    offset: int
    """First byte to fetch: in the archive or, for the packing `tar-gz`, in its unpacked bytes."""
    size: int
    """Number of bytes to fetch: in the archive or, for the packing `tar-gz`, in its unpacked bytes."""
    packing: str
    """`tar`, `tar-gz`, `zip-stored` or `zip-deflate`; empty if the member cannot be used."""
    data_size: int
    """Unpacked bytes, as the archive declares."""
    crc32: int | None = None
    """CRC-32 of the unpacked bytes; None for tar."""
    reason: str | None = None
    """Why the member cannot be used; None if it can."""


def most_members(archive_bytes: int) -> int:
    """Return the limit on the members of an archive of this size."""
    return min(MOST_MEMBERS, FREE_MEMBERS + archive_bytes // LEAST_BYTES)


def name_reason(name: str) -> str | None:
    """Return why a member with this name cannot be used; None if the name is accepted."""
    if not name:
        return "it has no name"
    if name.lower().endswith(ARCHIVE_SUFFIXES):
        return "an archive inside an archive: upload it by itself"
    return None


def storable_member(
    *, name: str, offset: int, size: int, packing: str, data_size: int, crc32: int | None, reason: str | None
) -> Member:
    """Return a member whose text and numbers fit Parquet, even if the archive declares impossible ones."""
    start = min(max(offset, 0), LARGEST_INT)
    return Member(
        name=storable(name),
        offset=start,
        size=min(max(size, 0), LARGEST_INT - start),
        packing="" if reason else packing,
        data_size=min(max(data_size, 0), LARGEST_INT),
        crc32=crc32,
        reason=reason,
    )


def unreadable(kind: str, error: BaseException) -> ArchiveError:
    """Return the error for an archive without any member that can be listed."""
    cause = one_line(error).removesuffix(": upload it again")  # the advice follows below
    return ArchiveError(f"the {kind} archive's directory cannot be read: {cause}; upload it again")
