"""`.zip` and `.tar` archives as byte ranges, so that every worker reads its own members and none the whole archive.

Planning reads the directory (`list_members`); a worker fetches one range and unpacks it (`unpack_member`). Nothing is
written to disk, so names cannot escape anywhere; what a hostile archive can do is lie about sizes, and those are
checked here against the archive's true end and against limits.

Sources: PKWARE's APPNOTE 6.3.10 (zip); POSIX.1-2001 pax and GNU tar, as the standard library's `tarfile` reads them.
"""

import bisect
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from spermseg.errors import ArchiveError, StorageError, one_line
from spermseg.storage.filesystem import storable

TAR, ZIP_STORED, ZIP_DEFLATE = "tar", "zip-stored", "zip-deflate"
ZIP_PACKINGS = {zipfile.ZIP_STORED: ZIP_STORED, zipfile.ZIP_DEFLATED: ZIP_DEFLATE}
COMPRESSED_SUFFIXES = (
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz", ".tzst"),
    *(".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"),
)
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
LONGEST_LOCAL_HEADER = LOCAL_HEADER.size + 2 * 0xFFFF
DEFLATE_LARGEST_RATIO = 1032  # a deflate stream cannot unpack to more than this for each of its bytes
LONGEST_TAR_HEADER = 1 << 20  # bytes of long names and pax records; more than this is damage or an attack
LARGEST_INT = 2**63 - 1  # what a Parquet integer holds
DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, struct.error, zlib.error),
    *(ValueError, OverflowError, LookupError, EOFError, OSError, NotImplementedError, RecursionError, MemoryError),
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file inside an archive."""

    name: str
    """Its name there; what is not valid text is shown with backslash escapes. Names may repeat, offsets not."""
    offset: int
    """First byte to fetch."""
    size: int
    """Bytes to fetch."""
    packing: str
    """How to unpack them: `tar`, `zip-stored` or `zip-deflate`; empty where the member cannot be used."""
    data_size: int
    """Bytes once unpacked, as the archive declares them."""
    crc32: int | None = None
    """Checksum of the unpacked bytes; tar has none."""
    reason: str | None = None
    """Why it cannot be used; None where it can."""


def archive_kind(name: str) -> str | None:
    """Return `zip` or `tar` by the suffix of a name, None for anything else.

    >>> archive_kind("clinic/2026-11-23.ZIP"), archive_kind("a.tar.gz"), archive_kind("a.jpg")
    ('zip', None, None)
    """
    suffix = name.lower().rpartition(".")[2]
    return suffix if suffix in ("zip", "tar") and "." in name else None


def unsupported_archive(name: str) -> str | None:
    """Return why a file with this name is an archive that cannot be read; None where it is no such archive.

    >>> unsupported_archive("monday.tgz")
    'a .tgz archive: spermseg reads .zip and .tar; pack the pictures again as one of these'
    >>> unsupported_archive("monday.tar")
    """
    suffix = next((suffix for suffix in COMPRESSED_SUFFIXES if name.lower().endswith(suffix)), None)
    if suffix is None:
        return None
    return f"a {suffix} archive: spermseg reads .zip and .tar; pack the pictures again as one of these"


def list_members(file: BinaryIO, kind: str) -> list[Member]:
    """Return the files in an archive, in the order of their offsets, reading its directory only.

    Folders are left out. A member that cannot be used is returned with its reason, and so is a damaged rest of a tar.

    Args:
        file: the archive, seekable.
        kind: `zip` or `tar`, from `archive_kind`.

    Raises:
        ArchiveError: the directory cannot be read.
        StorageError: the file could not be read.
    """
    if kind not in ("zip", "tar"):
        raise ArchiveError(f"got an archive of kind {kind!r}; spermseg reads zip and tar")
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    members = _list_zip(file, end) if kind == "zip" else _list_tar(file, end)
    return sorted(members, key=lambda member: member.offset)


def unpack_member(blob: bytes, packing: str, data_size: int, crc32: int | None, max_bytes: int) -> bytes:
    """Return a member's data from the bytes of its range.

    Args:
        blob: the bytes of `Member.offset` to `Member.offset + Member.size`.
        packing: `Member.packing`.
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
        data = bytes(_zip_body(blob)[:data_size])
    elif packing == ZIP_DEFLATE:
        data = _inflate(_zip_body(blob), data_size)
    else:
        raise ArchiveError(f"got the packing {packing!r}; needed is {TAR}, {ZIP_STORED} or {ZIP_DEFLATE}")
    if len(data) != data_size:
        raise ArchiveError(f"it holds {len(data)} bytes where the archive declares {data_size}: pack it again")
    if crc32 is not None and zlib.crc32(data) != crc32:
        raise ArchiveError(f"its checksum is {zlib.crc32(data):08x} where {crc32:08x} is declared: pack it again")
    return data


def _zip_body(blob: bytes) -> memoryview:
    """Return what follows the local header, whose length only the header itself tells."""
    if len(blob) < LOCAL_HEADER.size:
        raise ArchiveError(f"it has {len(blob)} bytes, too few for a zip header of {LOCAL_HEADER.size}")
    signature, name_length, extra_length = LOCAL_HEADER.unpack_from(blob)
    if signature != b"PK\3\4":
        raise ArchiveError("no zip header where the archive's directory says one is: pack it again")
    return memoryview(blob)[LOCAL_HEADER.size + name_length + extra_length :]


def _inflate(body: memoryview, data_size: int) -> bytes:
    """Return a raw deflate stream's data; one byte more than declared is enough to tell that it lies."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(body, data_size + 1)
    except zlib.error as error:
        raise ArchiveError(f"its compressed data are damaged ({error}): pack it again") from error
    if len(data) > data_size:
        raise ArchiveError(f"it unpacks to more than the {data_size} bytes that the archive declares")
    return data


def _list_zip(file: BinaryIO, end: int) -> list[Member]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries, directory_start = archive.infolist(), archive.start_dir
    except DAMAGE as error:
        for cause in (error, error.__context__):
            if isinstance(cause, StorageError):  # zipfile takes a network's failure for a bad zip file
                raise cause from error
        raise _unreadable("zip", error) from error
    starts = sorted(entry.header_offset for entry in entries)
    return [_zip_member(entry, _room(entry, starts, directory_start), end) for entry in entries if not entry.is_dir()]


def _room(entry: zipfile.ZipInfo, starts: list[int], directory_start: int) -> int:
    """Return the bytes up to the next member; none where two entries share a start, so that both are refused."""
    here = bisect.bisect_left(starts, entry.header_offset)
    return min([directory_start, *starts[here + 1 : here + 2]]) - entry.header_offset


def _zip_member(entry: zipfile.ZipInfo, room: int, end: int) -> Member:
    reason = _zip_reason(entry, room) or _name_reason(entry.filename)
    return _member(
        name=entry.filename,
        offset=entry.header_offset,
        size=min(room, LONGEST_LOCAL_HEADER + entry.compress_size),
        packing=ZIP_PACKINGS.get(entry.compress_type, ""),
        data_size=entry.file_size,
        crc32=entry.CRC,
        reason=reason,
        end=end,
    )


def _zip_reason(entry: zipfile.ZipInfo, room: int) -> str | None:
    stored = entry.compress_type == zipfile.ZIP_STORED
    largest = entry.compress_size if stored else DEFLATE_LARGEST_RATIO * (entry.compress_size + 1)
    if entry.flag_bits & 0x1:
        return "encrypted: pack it again without a password"
    if entry.compress_type not in ZIP_PACKINGS:
        return f"packed with zip method {entry.compress_type}; spermseg reads stored (0) and deflate (8)"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link to another file: pack the file itself"
    if entry.header_offset < 0 or room < LOCAL_HEADER.size + entry.compress_size:
        return f"its {entry.compress_size} bytes overlap another member or the archive's end: pack it again"
    if entry.file_size > largest:
        return f"declares {entry.file_size} bytes unpacked, which its {entry.compress_size} bytes cannot hold"
    return None


class _HeaderReader:
    """A file for `tarfile` that refuses the huge reads which a damaged or hostile header can ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file = file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes; at most {LONGEST_TAR_HEADER} make sense")
        return self._file.read(size)


def _list_tar(file: BinaryIO, end: int) -> list[Member]:
    members: list[Member] = []
    position = 0
    try:
        # `r:` takes uncompressed archives only: the others have no byte ranges to read.
        with tarfile.open(fileobj=cast("BinaryIO", _HeaderReader(file)), mode="r:") as archive:
            while (entry := archive.next()) is not None:
                if entry.size < 0 or archive.offset <= position:
                    raise tarfile.ReadError(f"an impossible size of {entry.size} bytes")
                position = archive.offset
                if not entry.isdir():
                    members.append(_tar_member(entry, end))
        trouble = _tar_end_trouble(file, position)
    except StorageError:
        raise
    except DAMAGE as error:
        if not position:
            raise _unreadable("tar", error) from error
        trouble = one_line(error)
    cut_off = bool(members) and members[-1].reason is not None and position > end
    return [*members, _damaged_rest(position, end, trouble)] if trouble and not cut_off else members


def _tar_member(entry: tarfile.TarInfo, end: int) -> Member:
    return _member(
        name=entry.name,
        offset=entry.offset_data,
        size=entry.size,
        packing=TAR,
        data_size=entry.size,
        crc32=None,
        reason=_tar_reason(entry, end) or _name_reason(entry.name),
        end=end,
    )


def _tar_reason(entry: tarfile.TarInfo, end: int) -> str | None:
    if entry.issym() or entry.islnk():
        return "a link to another file: pack the file itself"
    if entry.issparse():
        return "a sparse file: pack it again without --sparse"
    if not entry.isfile() or entry.type not in tarfile.SUPPORTED_TYPES:
        return f"not a file but an entry of tar type {entry.type.decode('ascii', 'backslashreplace')!r}"
    if entry.offset_data + entry.size > end:
        there = max(0, end - entry.offset_data)
        return f"cut off: {there} of its {entry.size} bytes are there; upload the archive again"
    return None


def _tar_end_trouble(file: BinaryIO, position: int) -> str | None:
    """Return why what follows the last member is not the end; `tarfile` takes damage for the end, and says nothing."""
    file.seek(position)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "it has no end mark and may be cut off"
    return "the next header is damaged" if block.strip(b"\0") else None


def _damaged_rest(position: int, end: int, trouble: str) -> Member:
    reason = f"damaged from byte {position} on, {trouble}: what follows could not be listed; upload it again"
    name = f"(from byte {position} on)"
    return _member(name, position, end - position, packing="", data_size=0, crc32=None, reason=reason, end=end)


def _name_reason(name: str) -> str | None:
    if not name:
        return "it has no name"
    if archive_kind(name) or unsupported_archive(name):
        return "an archive inside an archive: upload it by itself"
    return None


def _member(
    name: str, offset: int, size: int, packing: str, data_size: int, crc32: int | None, reason: str | None, end: int
) -> Member:
    """Make a member whose text is storable and whose range lies within the archive, however wrong the declaration."""
    start = min(max(offset, 0), end)
    return Member(
        name=storable(name),
        offset=start,
        size=min(max(size, 0), end - start),
        packing="" if reason else packing,
        data_size=min(data_size, LARGEST_INT),
        crc32=crc32,
        reason=reason,
    )


def _unreadable(kind: str, error: BaseException) -> ArchiveError:
    return ArchiveError(f"the {kind} archive's directory cannot be read: {one_line(error)}; upload it again")
