"""`.tar` and `.tar.gz` archives: a chain of headers, each of which gives the position of the next.

Sources: POSIX.1-2001 pax and GNU tar, as the standard library's `tarfile` reads them.
"""

import io
import itertools
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Protocol, cast

from spermseg.errors import ArchiveError, StorageError, one_line
from spermseg.storage.archives.gzip_stream import StreamEndsError, UnpackedStream
from spermseg.storage.archives.members import (
    DAMAGE,
    TAR,
    TAR_GZ,
    Member,
    most_members,
    name_reason,
    storable_member,
    unreadable,
)

LONGEST_HEADERS, HEADERS_A_MEMBER = 1 << 20, 1 << 14
MOST_LINES, LINES_A_MEMBER = 1 << 16, 64
"""Limits on the bytes and lines of headers, which hold long names and pax records: the most for one member, and what
each further member adds to the budget, up to that most. More is damage or an attack."""
END_PADDING = 1 << 16  # bytes behind the end mark that are searched for a second archive


class Stream(Protocol):
    """The methods of a file that `tarfile` uses. `tarfile` only goes forward."""

    def tell(self) -> int:
        """Return the position."""

    def seek(self, offset: int, /) -> int:
        """Go forward to a byte, or to the end of a shorter stream."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer at the end."""


def list_tar(file: BinaryIO) -> list[Member]:
    """Return the members of a tar, as `archives.list_members` does. Only headers are read."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    listing = _Listing(kind="tar", packing=TAR, most=most_members(end))
    listing.read(file)
    file.seek(min(listing.position, end))
    listing.check_end([file.read(END_PADDING)])
    return listing.members_up_to(end)


def list_tar_gz(file: BinaryIO, max_bytes: int | None = None) -> list[Member]:
    """Return the members of a compressed tar, as `archives.list_members` does. The whole file is read once.

    The checksum is at the end of the file. If it is wrong, no member can be trusted.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    stream = UnpackedStream(file, max_bytes=max_bytes)
    listing = _Listing(kind="tar.gz", packing=TAR_GZ, most=most_members(end))
    listing.read(stream)
    listing.check_end(iter(stream.step, b""))
    return listing.members_up_to(stream.tell())


@dataclass(kw_only=True)
class _Listing:
    """The members of a tar, and its problems, while its headers are read."""

    kind: str
    packing: str
    most: int
    """Limit on the members, folders included."""
    members: list[Member] = field(default_factory=list)
    position: int = 0
    """The byte at which the next header should be."""
    trouble: str | None = None
    """Why the rest of the archive cannot be listed."""
    ended: str | None = None
    """Why the stream cannot be read further, as a complete reason."""

    def read(self, stream: Stream) -> None:
        """List the members up to the end mark or the first problem."""
        reader = _HeaderReader(stream)
        try:
            self._read_headers(reader)
            self.trouble = _end_trouble(reader.last)
        except StreamEndsError as error:
            self._raise_if_first(error)
            self.ended = error.message
        except (StorageError, ArchiveError):
            raise
        except DAMAGE as error:
            endless = isinstance(error, RecursionError)
            told = tarfile.ReadError("header after header, and no file") if endless else error
            self._raise_if_first(told)
            self.trouble = one_line(told)

    def _read_headers(self, reader: "_HeaderReader") -> None:
        # `r:` accepts only uncompressed archives. `UnpackedStream` unpacks the compressed ones, with limits.
        with tarfile.open(fileobj=cast("BinaryIO", reader), mode="r:", encoding="utf-8") as archive:
            for number in itertools.count():
                if (entry := archive.next()) is None:
                    return
                if entry.size < 0 or archive.offset <= self.position:
                    raise tarfile.ReadError(f"an impossible size of {entry.size} bytes")
                if number == self.most:
                    raise StreamEndsError(f"the archive has more than {self.most:,} files: pack these as another")
                self.position = archive.offset
                if not entry.isdir():
                    self.members.append(_tar_member(entry, self.packing))
                archive.members.clear()  # type: ignore[attr-defined]  # `tarfile` keeps all members in memory,
                archive.pax_headers = {}  # and global pax records for the members that follow
                reader.next_member()

    def _raise_if_first(self, error: Exception) -> None:
        if not self.position:
            raise unreadable(self.kind, error) from error

    def check_end(self, rest: Iterable[bytes]) -> None:
        """Record a problem if anything but zeros follows the end mark."""
        if self.ended:
            return
        try:
            more = sum(bool(chunk.strip(b"\0")) for chunk in rest)
        except StreamEndsError as error:
            self.ended = error.message
        else:
            self.trouble = self.trouble or ("more follows its end mark" if more else None)

    def members_up_to(self, end: int) -> list[Member]:
        """Return the members of a tar of `end` bytes. A last member that is cut off, or a lost rest, has a reason."""
        last = self.members[-1] if self.members else None
        if last and last.offset + last.size > end:
            there = end - last.offset
            cut = f"cut off: {there} of its {last.size} bytes are there; upload the archive again"
            reason = last.reason or self.ended or cut
            return [*self.members[:-1], replace(last, size=there, packing="", reason=reason)]
        return [*self.members, self._rest(end)] if self.ended or self.trouble else self.members

    def _rest(self, end: int) -> Member:
        start = min(self.position, end)
        damaged = f"damaged from byte {start} on, {self.trouble}: what follows could not be listed; upload it again"
        return storable_member(
            name=f"(from byte {start} on)",
            offset=start,
            size=end - start,
            packing="",
            data_size=0,
            crc32=None,
            reason=self.ended or damaged,
        )


class _HeaderReader:
    """A stream for `tarfile` that refuses huge reads, which a damaged or hostile header can cause."""

    def __init__(self, stream: Stream) -> None:
        self.seek = stream.seek
        self.tell = stream.tell
        self._stream = stream
        self._bytes, self._lines = LONGEST_HEADERS, MOST_LINES  # budget up to the next member
        self.last = b""
        """The last block that was read. After the last member, this is the block at the place of the next header."""

    def next_member(self) -> None:
        """Add the budget of the next member."""
        self._bytes = min(self._bytes + HEADERS_A_MEMBER, LONGEST_HEADERS)
        self._lines = min(self._lines + LINES_A_MEMBER, MOST_LINES)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._bytes:
            raise tarfile.ReadError(f"a header of {size} bytes; at most {self._bytes} make sense")
        self._bytes -= size
        self.last = self._stream.read(size)
        self._lines -= self.last.count(b"\n")
        if self._lines < 0:
            raise tarfile.ReadError("headers of too many lines")
        return self.last


def _end_trouble(block: bytes) -> str | None:
    """Return why the block behind the last member is no end mark, or None. `tarfile` does not report damage there."""
    if not block:
        return "it has no end mark and may be cut off"
    return "the next header is damaged" if block.strip(b"\0") else None


def _tar_member(entry: tarfile.TarInfo, packing: str) -> Member:
    reason = _kind_reason(entry)
    return storable_member(
        name=entry.name,
        offset=entry.offset_data,
        size=0 if reason else entry.size,  # the declared size of a link or device means nothing
        packing=packing,
        data_size=entry.size,
        crc32=None,
        reason=reason or name_reason(entry.name),
    )


def _kind_reason(entry: tarfile.TarInfo) -> str | None:
    if entry.issym() or entry.islnk():
        return "a link to another file: pack the file itself"
    if entry.issparse():
        return "a sparse file: pack it again without --sparse"
    if not entry.isfile() or entry.type not in tarfile.SUPPORTED_TYPES:
        return "not a file but a pipe, a device or some other entry: pack plain files only"
    return None
