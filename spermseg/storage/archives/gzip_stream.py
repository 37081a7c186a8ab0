"""The unpacked bytes of a gzip file, read once and forward only. Source: RFC 1952."""

import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from spermseg.errors import ArchiveError
from spermseg.storage.archives.members import MAX_RATIO, RATIO_FREE_BYTES, unreadable

REQUEST = 1 << 23  # bytes of one read from the storage
STEP = 1 << 16  # bytes of one call of zlib, packed or unpacked
LONGEST_SILENCE = 1 << 22  # packed bytes in a row that unpack to nothing; more headers and padding are an attack
FREE_PARTS, PART_BYTES = 1024, 512
"""Number of gzip members in a file that may be of any size, and the least mean unpacked bytes of the members beyond.
Tools that pack in blocks write members of 64 KiB."""
GZIP_HEADER = zlib.MAX_WBITS | 16
CHECKSUMS = ("data check", "length check")
HEADERS = ("header", "method", "window")
"""Words in zlib's messages about a wrong checksum (`CHECKSUMS`) and about a wrong header (`HEADERS`)."""


class StreamEndsError(ArchiveError):
    """The stream cannot be read further. The members before this point are used, though no checksum covers them."""


class UnpackedStream:
    """The unpacked bytes of a gzip file, as a stream that only goes forward.

    Args:
        file: the gzip file, at its start.
        max_ratio: limit on unpacked bytes per packed byte; None for a file that was checked before.
        max_bytes: limit on the unpacked bytes; None for a file that was checked before.
    """

    def __init__(self, file: BinaryIO, max_ratio: int | None = MAX_RATIO, max_bytes: int | None = None) -> None:
        self._parts = _Parts(file)
        self._max_ratio, self._max_bytes = max_ratio, max_bytes
        self._position = 0

    def tell(self) -> int:
        """Return the number of unpacked bytes that were read or skipped."""
        return self._position

    def seek(self, offset: int) -> int:
        """Skip to a byte, or to the end of a shorter stream. Return the new position.

        Raises:
            ArchiveError: the byte lies before the current position; also what `read` raises.
        """
        if offset < self._position:
            raise ArchiveError(f"byte {offset} was asked for after byte {self._position}: members go in their order")
        while self._position < offset and self.step(offset - self._position):
            pass
        return self._position

    def step(self, size: int = STEP) -> bytes:
        """Return up to `size` of the next bytes, and no bytes at the end. Raises what `read` raises."""
        data = self._parts.unpack(min(size, STEP)) if size else b""
        self._position += len(data)
        limit = self._max_ratio and max(RATIO_FREE_BYTES, self._max_ratio * self._parts.bytes_read)
        if limit is not None and self._position > limit:
            raise StreamEndsError(
                f"here its archive has unpacked to more than {self._max_ratio} times its size, as micrographs do not, "
                "and was not read on: pack them as .tar"
            )
        if self._max_bytes is not None and self._position > self._max_bytes:
            raise StreamEndsError(too_large(self._max_bytes))
        return data

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer where the stream ends.

        Raises:
            StreamEndsError: the stream is cut off, continues with other data, or unpacks to more than the limits.
            ArchiveError: the stream is damaged at an unknown place.
            StorageError: the file could not be read.
        """
        pieces, missing = [], size
        while missing and (piece := self.step(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


def too_large(max_bytes: int) -> str:
    """Return the reason for members behind the limit on the unpacked bytes of an archive."""
    advice = "pack it as several archives, or raise --max-unpacked-gb"
    return f"here its archive has unpacked to more than {max_bytes} bytes: {advice}"


class _Parts:
    """The members of a gzip file, one after the other. zlib parses the headers and verifies the checksums.

    Python's own `gzip` parses headers byte by byte. A file of nothing but headers would keep it busy for hours.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead = memoryview(b"")
        self._rest = b""  # packed bytes that are not unpacked yet
        self._part: zlib._Decompress | None = None
        self._begun = 0
        self._unpacked = 0
        self._silence = 0
        self.bytes_read = 0

    def unpack(self, size: int) -> bytes:
        """Return up to `size` of the next bytes, and no bytes at the end."""
        while part := self._part or self._begin():
            packed = self._rest or self._read()
            try:
                data = part.decompress(packed, size)
            except zlib.error as error:
                raise self._fault(str(error)) from error
            self._rest = part.unused_data or part.unconsumed_tail
            self._part = None if part.eof else part
            if data:
                self._unpacked += len(data)
                self._silence = 0
                return data
            if not part.eof and not packed:
                raise StreamEndsError("its compressed archive was cut off here: upload it again")
        return b""

    def _begin(self) -> "zlib._Decompress | None":
        """Skip zero padding and return a decompressor for the next member; None at the end."""
        while True:
            self._rest = self._rest.lstrip(b"\0") if self._begun else self._rest
            if len(self._rest) > 1 or not (more := self._read()):
                break
            self._rest += more
        if not self._rest:
            return None
        if self._begun and not self._rest.startswith(b"\x1f\x8b"):
            raise self._no_gzip()
        self._begun += 1
        if self._begun > FREE_PARTS and self._unpacked < PART_BYTES * (self._begun - FREE_PARTS):
            raise StreamEndsError(
                f"its archive goes on here with gzip parts of less than {PART_BYTES} bytes: pack it again"
            )
        return zlib.decompressobj(GZIP_HEADER)

    def _read(self) -> bytes:
        if not self._ahead:
            self._ahead = memoryview(self._file.read(REQUEST))
        data, self._ahead = bytes(self._ahead[:STEP]), self._ahead[STEP:]
        self.bytes_read += len(data)
        self._silence += len(data)
        if self._silence > LONGEST_SILENCE:
            raise self._no_gzip()
        return data

    def _fault(self, said: str) -> ArchiveError:
        """Return the error for a message of zlib. A changed byte shows only later, so no position is given."""
        if any(word in said for word in CHECKSUMS):
            return ArchiveError("the archive's checksum is wrong, so none of it can be trusted: upload it again")
        if any(word in said for word in HEADERS):
            return self._no_gzip()
        return ArchiveError("the archive's compressed data are damaged: upload it again")

    def _no_gzip(self) -> ArchiveError:
        if not self._unpacked:
            return unreadable("tar.gz", ValueError("it does not begin as gzip does"))
        return StreamEndsError("its archive goes on here with what is not gzip: upload it again")


def stream_members(file: BinaryIO, wanted: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes of members of a `.tar.gz` in one pass, with one member in memory at a time.

    Nothing behind the last wanted member is read, so the checksum is not verified here. `list_members` verifies it.

    Args:
        file: the archive, at its start.
        wanted: (`Member.offset`, `Member.size`) of each, in ascending order and without overlap.

    Raises:
        ArchiveError: the archive is damaged, or ends inside a member.
        StorageError: the file could not be read.
    """
    stream = UnpackedStream(file, max_ratio=None)
    for offset, size in wanted:
        stream.seek(offset)
        data = stream.read(size)
        if len(data) != size:
            raise ArchiveError(f"its archive ends after {len(data)} of its {size} bytes: upload it again")
        yield data
