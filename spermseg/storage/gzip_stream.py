"""What a gzip file unpacks to, read once and forward only. Source: RFC 1952."""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from spermseg.errors import ArchiveError
from spermseg.storage.members import MAX_RATIO, RATIO_FREE_BYTES, unreadable

REQUEST = 1 << 23  # bytes asked of the storage at a time: all are needed, and requests cost
STEP = 1 << 16  # bytes unpacked at a time where they are only passed over
LONGEST_SILENCE = 1 << 22  # packed bytes that unpack to nothing; more of gzip's headers and padding are an attack


class StreamEndsError(ArchiveError):
    """Nothing more can be read from here on. What came before may be used, though the checksum is out of reach."""


class UnpackedStream:
    """What a gzip file unpacks to. It never goes back, which would mean to unpack from the first byte again.

    Args:
        file: the gzip file, at its start.
        max_ratio: bytes that one packed byte may become; None where somebody has looked before.
    """

    def __init__(self, file: BinaryIO, max_ratio: int | None = MAX_RATIO) -> None:
        self._packed = _PackedFile(file)
        self._gzip = gzip.GzipFile(fileobj=cast("BinaryIO", self._packed), mode="rb")
        self._max_ratio = max_ratio
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
        with self._faults():
            return self._passed(self._gzip.read1(min(size, STEP)))

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer where the stream ends.

        Raises:
            StreamEndsError: it is cut off, goes on with something else, or unpacks to more than a picture can.
            ArchiveError: it is damaged, nobody knows since where.
            StorageError: the file could not be read.
        """
        with self._faults():
            return self._passed(self._gzip.read(size))

    def _passed(self, data: bytes) -> bytes:
        self._position += len(data)
        self._packed.silence = 0
        limit = self._max_ratio and max(RATIO_FREE_BYTES, self._max_ratio * self._packed.bytes_read)
        if limit is not None and self._position > limit:
            raise StreamEndsError(
                f"here its archive has unpacked to more than {self._max_ratio} times its size, as micrographs do not, "
                "and was not read on: pack them as .tar"
            )
        return data

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Say what is wrong with a gzip file; a changed byte shows later than where it is, an end where it is."""
        try:
            yield
        except EOFError as error:
            raise StreamEndsError("its compressed archive was cut off here: upload it again") from error
        except zlib.error as error:
            raise ArchiveError("the archive's compressed data are damaged: upload it again") from error
        except gzip.BadGzipFile as error:
            if not self._position:
                raise unreadable("tar.gz", ValueError("it does not begin as gzip does")) from error
            if str(error).startswith(("CRC", "Incorrect")):
                raise ArchiveError(
                    "the archive's checksum is wrong, so none of it can be trusted: upload it again"
                ) from error
            raise StreamEndsError("its archive goes on here with what is not gzip: upload it again") from error


class _PackedFile:
    """The gzip file as `gzip` reads it: many small reads out of few large ones, counted."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead = io.BytesIO()
        self.bytes_read = 0
        self.silence = 0

    def read(self, size: int) -> bytes:
        data = self._ahead.read(size)
        if len(data) < size:
            self._ahead = io.BytesIO(self._file.read(REQUEST))
            data += self._ahead.read(size - len(data))
        self.bytes_read += len(data)
        self.silence += len(data)
        if self.silence > LONGEST_SILENCE:
            raise gzip.BadGzipFile(f"{self.silence} bytes that unpack to nothing")
        return data


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
