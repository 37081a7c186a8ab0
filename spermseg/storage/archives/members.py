"""What all kinds of archive share: members, the kinds by name, the limits, and the words for what cannot be used."""

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
"""Bytes that one packed byte may become. A micrograph's noise packs 2 to 1, one that a strong JPEG compression smoothed
before 30 to 1, and a drawing without noise 140 to 1; deflate ends at 1032 to 1, of which bombs are made."""
RATIO_FREE_BYTES = 1 << 20
"""Unpacked bytes to which no ratio applies: what is as small as this does no harm, however well it packs."""
MOST_MEMBERS = 1_000_000
"""Of an archive; more than one night's planning has memory for, or an attack."""
FREE_MEMBERS, LEAST_BYTES = 100_000, 1024
"""Members, folders included, of which an archive may be made however small they are, and the bytes of the archive that
each beyond them takes at least: a million rows for an upload of some megabytes is an attack."""
LARGEST_INT = 2**63 - 1  # what a Parquet integer holds
DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, struct.error, zlib.error),
    *(ValueError, OverflowError, LookupError, EOFError, OSError, NotImplementedError, RecursionError, MemoryError),
)
"""What the standard library's readers raise over damaged archives."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file inside an archive."""

    name: str
    """Its name there; what is not valid text is shown with backslash escapes, or question marks. Names may repeat,
    offsets not."""
    offset: int
    """First byte to fetch: of the archive, or of what it unpacks to where the packing is `tar-gz`."""
    size: int
    """Bytes to fetch: of the archive, or of what it unpacks to where the packing is `tar-gz`."""
    packing: str
    """How to unpack them: `tar`, `tar-gz`, `zip-stored` or `zip-deflate`; empty where the member cannot be used."""
    data_size: int
    """Bytes once unpacked, as the archive declares them."""
    crc32: int | None = None
    """Checksum of the unpacked bytes; tar has none."""
    reason: str | None = None
    """Why it cannot be used; None where it can."""


def most_members(archive_bytes: int) -> int:
    """Return how many members an archive of so many bytes may have."""
    return min(MOST_MEMBERS, FREE_MEMBERS + archive_bytes // LEAST_BYTES)


def name_reason(name: str) -> str | None:
    """Return why a member with this name cannot be used; None where nothing speaks against the name."""
    if not name:
        return "it has no name"
    if name.lower().endswith(ARCHIVE_SUFFIXES):
        return "an archive inside an archive: upload it by itself"
    return None


def storable_member(
    *, name: str, offset: int, size: int, packing: str, data_size: int, crc32: int | None, reason: str | None
) -> Member:
    """Make a member whose text and numbers can be stored, however wrong what its archive declares."""
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
    """Return the error for an archive of which not even one member can be listed."""
    cause = one_line(error).removesuffix(": upload it again")  # said once
    return ArchiveError(f"the {kind} archive's directory cannot be read: {cause}; upload it again")
