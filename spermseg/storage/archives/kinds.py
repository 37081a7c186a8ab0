"""The kind of an archive, by its first bytes rather than by its name.

Sources: PKWARE's APPNOTE 6.3.10 (zip), POSIX.1-2001 (tar), RFC 1952 (gzip), and the specifications of the others.
"""

import io
import tarfile
from typing import BinaryIO

from spermseg.errors import ArchiveError
from spermseg.storage.archives.gzip_stream import STEP, UnpackedStream
from spermseg.storage.archives.members import ARCHIVE_SUFFIXES, DAMAGE, KINDS, OTHER_SUFFIXES

BEGINNING = tarfile.BLOCKSIZE
"""Number of first bytes that show the kind."""
ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
GZIP = b"\x1f\x8b"
OTHERS = {
    b"7z\xbc\xaf\x27\x1c": ".7z",
    b"Rar!\x1a\x07": ".rar",
    b"\xfd7zXZ\0": ".xz",
    b"BZh": ".bz2",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\x04\x22\x4d\x18": ".lz4",
    b"LZIP": ".lz",
    b"\x1f\x9d": ".Z",
    b"MSCF": ".cab",
}
"""First bytes -> usual suffix, of kinds that are not supported."""
PACK_AGAIN = "spermseg reads .zip, .tar and .tar.gz; pack the pictures again as one of these"


def is_archive_name(name: str) -> bool:
    """Whether a file has the suffix of an archive, so that its first bytes are read.

    >>> is_archive_name("clinic/2026-11-23.ZIP"), is_archive_name("a.rar"), is_archive_name("a.jpg")
    (True, True, False)
    """
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def stored_kind(file: BinaryIO, name: str) -> str:
    """Return the kind of an archive: `zip`, `tar` or `tar.gz`. The name decides only if the first bytes do not.

    Args:
        file: the archive, seekable.
        name: its name, with the suffix of an archive.

    Raises:
        ArchiveError: the kind is not supported.
        StorageError: the file could not be read.
    """
    file.seek(0)
    first = file.read(BEGINNING)
    if first.startswith(ZIP):
        return "zip"
    if first.startswith(GZIP):
        return _gzip_kind(file)
    if _is_tar(first):
        return "tar"
    other = next((suffix for magic, suffix in OTHERS.items() if first.startswith(magic)), None)
    name = name.lower()
    named = next((kind for suffix, kind in KINDS.items() if name.endswith(suffix)), None)
    if other is None and named is None:
        other = next(suffix for suffix in OTHER_SUFFIXES if name.endswith(suffix))
    if other or named is None:
        raise ArchiveError(f"a {other} archive: {PACK_AGAIN}")
    return named


def _gzip_kind(file: BinaryIO) -> str:
    """Return `tar.gz` if a gzip file holds a tar or is damaged. `list_members` reports the damage."""
    file.seek(0)
    try:
        first = UnpackedStream(io.BytesIO(file.read(STEP))).read(BEGINNING)
    except ArchiveError:
        return "tar.gz"
    if first and not _is_tar(first) and any(first):
        raise ArchiveError(f"a .gz archive of something else than a .tar: {PACK_AGAIN}")
    return "tar.gz"


def _is_tar(block: bytes) -> bool:
    """Whether a block is a tar header. A tar header has its own checksum."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except DAMAGE:
        return False
    return True
