"""`.zip` archives: the central directory, and the data of a member. Source: PKWARE's APPNOTE 6.3.10."""

import bisect
import io
import re
import stat
import struct
import zipfile
import zlib
from contextlib import ExitStack
from threading import RLock
from typing import BinaryIO, cast

from spermseg.errors import ArchiveError, StorageError
from spermseg.storage.archives.members import (
    DAMAGE,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    ZIP_DEFLATE,
    ZIP_STORED,
    Member,
    most_members,
    name_reason,
    storable_member,
    unreadable,
)

PACKINGS = {zipfile.ZIP_STORED: ZIP_STORED, zipfile.ZIP_DEFLATED: ZIP_DEFLATE}
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra fields
LONGEST_LOCAL_HEADER = LOCAL_HEADER.size + 2 * 0xFFFF
DIRECTORY_ENTRY = struct.Struct("<4s4xH18xHHH12x")  # signature, flags, lengths of name, extra fields, comment
EXTRA_FIELD = struct.Struct("<HH")  # kind, bytes that follow
UNICODE_PATH, UNICODE_PATH_START = 0x7075, struct.Struct("<BL")  # version, CRC-32 of the plain name
FREE_EXTRA, EXTRA_A_MEMBER = 1 << 20, 256
"""Limit on the extra fields of an archive: the first number of bytes, plus the second for each member."""
LONGEST_DIRECTORY = 1 << 26  # bytes; half a million members with usual names, which take a gigabyte of memory once read
LARGE_DIRECTORY = 1 << 22  # bytes; only one larger directory is in memory at a time, see `_large_directory_lock`
_large_directory_lock = RLock()
"""Held while a large directory is read and its members are made. Threads list several archives at the same time."""
UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 0x1
DEFLATE_LARGEST_RATIO = 1032  # deflate unpacks one byte to at most this number of bytes
FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)  # of the Unix mode, which is 0 in archives of other systems


def list_zip(file: BinaryIO) -> list[Member]:
    """Return the members of a zip, as `archives.list_members` does, in the order of its directory."""
    end = file.seek(0, io.SEEK_END)
    with ExitStack() as locks:
        try:
            entries, directory_start = _read_directory(file, most_members(end), locks)
        except DAMAGE as error:
            for cause in (error, error.__context__):
                if isinstance(cause, StorageError):  # zipfile reports a failed read as a bad zip file
                    raise cause from error
            raise unreadable("zip", error) from error
        starts = sorted(entry.header_offset for entry in entries)
        files = (entry for entry in entries if entry.file_size or not entry.filename.endswith("/"))
        return [_zip_member(entry, _room(entry, starts, directory_start), end) for entry in files]


def _read_directory(file: BinaryIO, most: int, locks: ExitStack) -> tuple[list[zipfile.ZipInfo], int]:
    """Return (the entries of the directory, the byte at which the directory starts). Raises one of `DAMAGE`."""
    reader = _DirectoryReader(file, most, locks)
    with zipfile.ZipFile(cast("BinaryIO", reader)) as archive:
        entries = archive.infolist()
    for entry, (raw, says_utf8) in zip(entries, reader.names, strict=True):
        entry.filename = _name(raw, says_utf8, entry.extra)
    return entries, archive.start_dir


class _DirectoryReader:
    """A file for `zipfile` that limits the memory for the directory.

    It refuses a directory that is too long, and takes a lock before it reads a large one. It also clears the UTF-8
    flag of every entry, and keeps the names as bytes: one name with the flag that is not UTF-8 would otherwise make
    `zipfile` refuse the whole archive.

    Args:
        file: the archive.
        most: maximum number of entries.
        locks: takes the lock for large directories, and releases it.
    """

    def __init__(self, file: BinaryIO, most: int, locks: ExitStack) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file, self._most, self._locks = file, most, locks
        self.names: list[tuple[bytes, bool]] = []
        """(name, whether its UTF-8 flag was set) of each entry of the directory."""

    def read(self, size: int = -1) -> bytes:
        if size > LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"it has {size} bytes; at most {LONGEST_DIRECTORY} make sense")
        if size > LARGE_DIRECTORY:
            self._locks.enter_context(_large_directory_lock)
        data = self._file.read(size)
        self.names = []
        return self._without_flags(bytearray(data)) if data.startswith(b"PK\1\2") else data

    def _without_flags(self, directory: bytearray) -> bytes:
        position, extra = 0, FREE_EXTRA
        while position + DIRECTORY_ENTRY.size <= len(directory):
            signature, flags, *lengths = DIRECTORY_ENTRY.unpack_from(directory, position)
            if signature != b"PK\1\2":
                break
            directory[position + 9] &= ~(UTF8_FLAG >> 8)
            name = position + DIRECTORY_ENTRY.size
            start = name + lengths[0]
            self.names.append((bytes(directory[name:start]), bool(flags & UTF8_FLAG)))
            if not _is_complete(directory[start : start + lengths[1]]):  # zipfile would refuse the whole archive
                directory[start : start + lengths[1]] = bytes(lengths[1])
            position += DIRECTORY_ENTRY.size + sum(lengths)
            extra += EXTRA_A_MEMBER - lengths[1]
            if len(self.names) > self._most:
                raise zipfile.BadZipFile(f"it has more than {self._most:,} entries for its size, an attack")
            if extra < 0:
                raise zipfile.BadZipFile("it has longer extra fields than make sense")
        return bytes(directory)


def _is_complete(extra: bytearray) -> bool:
    """Whether the lengths of the extra fields fit the bytes that hold them (APPNOTE, 4.5.1)."""
    position = 0
    while position + EXTRA_FIELD.size <= len(extra):
        position += EXTRA_FIELD.size + EXTRA_FIELD.unpack_from(extra, position)[1]
    return position <= len(extra)


def _name(raw: bytes, says_utf8: bool, extra: bytes) -> str:
    """Return the name of a member as text, with `/` between its parts.

    The first of these that applies:

    1. Info-ZIP's Unicode path field, where its checksum fits the plain name (APPNOTE, 4.6.9).
    2. The plain name as UTF-8, with or without the UTF-8 flag.
    3. With the flag, UTF-8 with a question mark for each invalid byte.
    4. Code page 437.

    Some Windows tools write backslashes between the parts, against the standard (4.4.17).
    """
    text = _unicode_path(raw, extra) or _text(raw)
    if text is None and says_utf8:
        text = re.sub("[\udc80-\udcff]", "?", raw.decode("utf-8", "surrogateescape"))
    return (text or raw.decode("cp437")).partition("\0")[0].replace("\\", "/")


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _unicode_path(raw: bytes, extra: bytes) -> str | None:
    """Return the name in the Unicode path field. None if the field is missing, is for another name, or is not UTF-8."""
    position, wanted = 0, UNICODE_PATH_START.pack(1, zlib.crc32(raw))
    while position + EXTRA_FIELD.size <= len(extra):
        kind, size = EXTRA_FIELD.unpack_from(extra, position)
        position += EXTRA_FIELD.size
        field = extra[position : position + size]
        if kind == UNICODE_PATH and field.startswith(wanted):
            return _text(field[len(wanted) :])
        position += size
    return None


def _room(entry: zipfile.ZipInfo, starts: list[int], directory_start: int) -> int:
    """Return the number of bytes up to the next member: 0 for entries that share a start, so that all are refused."""
    here = bisect.bisect_left(starts, entry.header_offset)
    return min([directory_start, *starts[here + 1 : here + 2]]) - entry.header_offset


def _zip_member(entry: zipfile.ZipInfo, room: int, end: int) -> Member:
    start = min(max(entry.header_offset, 0), end)
    return storable_member(
        name=entry.filename,
        offset=start,
        size=min(room, LONGEST_LOCAL_HEADER + entry.compress_size, end - start),
        packing=PACKINGS.get(entry.compress_type, ""),
        data_size=entry.file_size,
        crc32=entry.CRC,
        reason=_kind_reason(entry) or _size_reason(entry, room) or name_reason(entry.filename),
    )


def _kind_reason(entry: zipfile.ZipInfo) -> str | None:
    mode = entry.external_attr >> 16
    if entry.flag_bits & ENCRYPTED_FLAG:
        return "encrypted: pack it again without a password"
    if entry.compress_type not in PACKINGS:
        return f"packed with zip method {entry.compress_type}; spermseg reads stored (0) and deflate (8)"
    if stat.S_ISLNK(mode):
        return "a link to another file: pack the file itself"
    if stat.S_IFMT(mode) not in FILE_TYPES:
        return f"not a file but an entry of Unix type {stat.filemode(mode)[0]!r}"
    return None


def _size_reason(entry: zipfile.ZipInfo, room: int) -> str | None:
    packed, unpacked = entry.compress_size, entry.file_size
    largest = packed if entry.compress_type == zipfile.ZIP_STORED else DEFLATE_LARGEST_RATIO * (packed + 1)
    if entry.header_offset < 0 or room < LOCAL_HEADER.size + packed:
        return f"its {packed} bytes overlap another member or the archive's end: pack it again"
    if unpacked > largest:
        return f"declares {unpacked} bytes unpacked, which its {packed} bytes cannot hold"
    if unpacked > max(RATIO_FREE_BYTES, MAX_RATIO * packed):
        return (
            f"unpacks from {packed} to {unpacked} bytes, more than {MAX_RATIO} times as many, as no micrograph does: "
            "if it is one, pack it stored"
        )
    return None


def zip_body(blob: bytes) -> memoryview:
    """Return the bytes behind the local header. Only the header itself holds its length.

    Raises:
        ArchiveError: there is no local header.
    """
    if len(blob) < LOCAL_HEADER.size:
        raise ArchiveError(f"it has {len(blob)} bytes, too few for a zip header of {LOCAL_HEADER.size}")
    signature, name_length, extra_length = LOCAL_HEADER.unpack_from(blob)
    if signature != b"PK\3\4":
        raise ArchiveError("no zip header where the archive's directory says one is: pack it again")
    return memoryview(blob)[LOCAL_HEADER.size + name_length + extra_length :]


def inflate(body: memoryview, data_size: int) -> bytes:
    """Return the data of a raw deflate stream. At most one byte more than declared is unpacked.

    Raises:
        ArchiveError: the stream is damaged, or unpacks to more than `data_size` bytes.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(body, data_size + 1)
    except zlib.error as error:
        raise ArchiveError(f"its compressed data are damaged ({error}): pack it again") from error
    if len(data) > data_size:
        raise ArchiveError(f"it unpacks to more than the {data_size} bytes that the archive declares")
    return data
