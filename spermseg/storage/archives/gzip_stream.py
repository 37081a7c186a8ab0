"""What a gzip file unpacks to, read once and forward only. Source: RFC 1952."""

import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from spermseg.errors import ArchiveError
from spermseg.storage.archives.members import MAX_RATIO, RATIO_FREE_BYTES, unreadable

REQUEST = 1 << 23  # bytes asked of the storage at a time: all are needed, and requests cost
STEP = 1 << 16  # bytes unpacked, or given to be unpacked, at a time
LONGEST_SILENCE = 1 << 22  # packed bytes that unpack to nothing; more of gzip's headers and padding are an attack
FREE_PARTS, PART_BYTES = 1024, 512
"""Gzip members of a file that may be of any size, and the bytes that those beyond unpack to on average at least. Tools
that pack in blocks make them of 64 KiB."""
GZIP_HEADER = zlib.MAX_WBITS | 16
CHECKSUMS = ("data check", "length check")
HEADERS = ("header", "method", "window")
"""What zlib's messages hold where a checksum is wrong, and where a header is."""


class StreamEndsError(ArchiveError):
    """Nothing more can be read from here on. What came before may be used, though the checksum is out of reach."""


class UnpackedStream:
    """What a gzip file unpacks to. It never goes back, which would mean to unpack from the first byte again.

    Args:
        file: the gzip file, at its start.
        max_ratio: bytes that one packed byte may become; None where somebody has looked before.
        max_bytes: bytes that all of it may become; None where somebody has looked before.
    """

    def __init__(self, file: BinaryIO, max_ratio: int | None = MAX_RATIO, max_bytes: int | None = None) -> None:
        self._parts = _Parts(file)
        self._max_ratio, self._max_bytes = max_ratio, max_bytes
        self._position = 0

    def tell(self) -> int:
        """Return how many bytes were read or passed over."""
        return self._position

    def seek(self, offset: int) -> int:
        """Pass over all up to a byte, or up to the end where that comes first; return where this is.

        Raises:
            As `read`; and ArchiveError: the byte lies behind.
        """
        if offset < self._position:
            raise ArchiveError(f"byte {offset} was asked for after byte {self._position}: members go in their order")
        while self._position < offset and self.step(offset - self._position):
            pass
        return self._position

    def step(self, size: int = STEP) -> bytes:
        """Return some of the next bytes, at most `size`; none at the end. Raises as `read`."""
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
            StreamEndsError: it is cut off, goes on with something else, or unpacks to more than a picture can.
            ArchiveError: it is damaged, nobody knows since where.
            StorageError: the file could not be read.
        """
        pieces, missing = [], size
        while missing and (piece := self.step(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


def too_large(max_bytes: int) -> str:
    """Return why what comes after so many unpacked bytes of an archive is not read."""
    return f"here its archive has unpacked to more than {max_bytes} bytes: pack it as several, or --max-unpacked-gb"


class _Parts:
    """The members of a gzip file, one after the other: zlib reads their headers and checks their checksums.

    Python's own `gzip` does so byte by byte; a file made of nothing but headers keeps it busy for hours.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead = memoryview(b"")
        self._rest = b""  # packed, and not unpacked yet
        self._part: zlib._Decompress | None = None
        self._begun = 0
        self._unpacked = 0
        self._silence = 0
        self.bytes_read = 0

    def unpack(self, size: int) -> bytes:
        """Return some of the next bytes, at most `size`; none at the end."""
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
        """Go to the next member, over zeros that pad the last; None where there is none."""
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
        """Say what is wrong with a gzip file; a changed byte shows later than where it is, an end where it is."""
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
    """Yield the bytes of members of a `.tar.gz`, in one pass and holding one at a time.

    What follows the last of them is not read, the archive's checksum neither: `list_members` has checked it.

    Args:
        file: the archive, at its start.
        wanted: (`Member.offset`, `Member.size`) of each, none before the end of the one before.

    Raises:
        ArchiveError: the archive is damaged, or ends before a member does.
        StorageError: the file could not be read.
    """
    stream = UnpackedStream(file, max_ratio=None)
    for offset, size in wanted:
        stream.seek(offset)
        data = stream.read(size)
        if len(data) != size:
            raise ArchiveError(f"its archive ends after {len(data)} of its {size} bytes: upload it again")
        yield data
