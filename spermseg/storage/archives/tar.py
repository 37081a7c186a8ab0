"""`.tar` and `.tar.gz`: one header after the other, each saying where the next one is.

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
"""Bytes, and lines, of long names and pax records: of one member at most, and of all on average, once that is spent.
More is damage or an attack."""
END_PADDING = 1 << 16  # bytes after the end mark in which a second archive would begin


class Stream(Protocol):
    """What `tarfile` needs of a file; it only ever goes forward."""

    def tell(self) -> int:
        """Return the position."""

    def seek(self, offset: int, /) -> int:
        """Go forward to a byte, or at least to the end."""

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, fewer at the end."""


def list_tar(file: BinaryIO) -> list[Member]:
    """Return the members of a tar, as `archives.list_members` does, reading their headers only."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    listing = _Listing(kind="tar", packing=TAR, most=most_members(end))
    listing.read(file)
    file.seek(min(listing.position, end))
    listing.check_end([file.read(END_PADDING)])
    return listing.members_up_to(end)


def list_tar_gz(file: BinaryIO, max_bytes: int | None = None) -> list[Member]:
    """Return the members of a compressed tar, as `archives.list_members` does, having read it once to its end.

    Only there is the checksum, and what fails it cannot be trusted anywhere.
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
    """What is known of a tar while its headers are read."""

    kind: str
    packing: str
    most: int
    """Members, folders included, that make sense."""
    members: list[Member] = field(default_factory=list)
    position: int = 0
    """Where the next header is, if all is well."""
    trouble: str | None = None
    """Why what follows cannot be listed."""
    ended: str | None = None
    """Why the stream itself cannot be read on; a reason in its own words."""

    def read(self, stream: Stream) -> None:
        """List members up to the end mark, or the first trouble."""
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
        # `r:` takes uncompressed archives only: what unpacks does so in `UnpackedStream`, which has limits.
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
                archive.members.clear()  # type: ignore[attr-defined]  # `tarfile` would keep them all,
                archive.pax_headers = {}  # and what they say for those that follow
                reader.next_member()

    def _raise_if_first(self, error: Exception) -> None:
        if not self.position:
            raise unreadable(self.kind, error) from error

    def check_end(self, rest: Iterable[bytes]) -> None:
        """Look at all that follows the end mark, which should be nothing."""
        if self.ended:
            return
        try:
            more = sum(bool(chunk.strip(b"\0")) for chunk in rest)
        except StreamEndsError as error:
            self.ended = error.message
        else:
            self.trouble = self.trouble or ("more follows its end mark" if more else None)

    def members_up_to(self, end: int) -> list[Member]:
        """Return the members of a tar that ends at this byte: the last may be cut off, or the rest be missing."""
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
    """A stream for `tarfile` that refuses the huge reads which a damaged or hostile header can ask for."""

    def __init__(self, stream: Stream) -> None:
        self.seek = stream.seek
        self.tell = stream.tell
        self._stream = stream
        self._bytes, self._lines = LONGEST_HEADERS, MOST_LINES  # that may be read before the next member
        self.last = b""
        """What was read last: once there are no more members, the block where one would be."""

    def next_member(self) -> None:
        """Grant what the next member may have."""
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
    """Return why what follows the last member is not the end; `tarfile` takes damage for the end, and says nothing."""
    if not block:
        return "it has no end mark and may be cut off"
    return "the next header is damaged" if block.strip(b"\0") else None


def _tar_member(entry: tarfile.TarInfo, packing: str) -> Member:
    reason = _kind_reason(entry)
    return storable_member(
        name=entry.name,
        offset=entry.offset_data,
        size=0 if reason else entry.size,  # what is no plain file may say any size
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
