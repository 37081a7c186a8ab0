"""File objects over a storage: one that reads byte ranges, and one that writes in parts."""

import errno
import io
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

PART = 1 << 24
"""Bytes of a part. S3 accepts 10,000 parts of at least 5 MiB."""

ReadRange = Callable[[int, int], bytes]
"""(first byte, number of bytes) -> exactly these bytes."""


class Parts(Protocol):
    """A file that is written in parts, and appears under its name when it is complete."""

    def add(self, part: bytes) -> None:
        """Append a part."""

    def finish(self) -> None:
        """Complete the file, so that it appears under its name."""

    def discard(self) -> None:
        """Remove the parts that were written. Errors are ignored, and the request is not retried."""


class RangeReader(io.RawIOBase):
    """An unbuffered file object for reading, with one request for each read. Its errors are those of this project.

    Args:
        uri: the URI of the file, for error messages.
        size: size of the file, bytes.
        read_range: reads a byte range.
    """

    def __init__(self, uri: str, size: int, read_range: ReadRange) -> None:
        self._uri, self._size, self._read_range = uri, size, read_range
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, which may lie behind the end. Return the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"byte {base + offset} lies before the start of {self._uri}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or read to the end of the file. Return the number of bytes."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Read to the end of the file in one request. The inherited method makes a request for every 8 KiB."""
        return self._read(self._size)

    def _read(self, size: int) -> bytes:
        there = max(0, min(size, self._size - self._position))
        data = self._read_range(self._position, there) if there else b""
        self._position += len(data)
        return data


class PartWriter(io.RawIOBase):
    """A file object for writing. The file appears on `close`, and not before.

    After an error, after an exception in its `with` block, or if it is never closed, nothing is written. Content that
    fits one part is written in one request.

    Args:
        write: writes a whole file.
        begin: starts a file of several parts.
    """

    def __init__(self, write: Callable[[bytes], None], begin: Callable[[], Parts]) -> None:
        self._write, self._begin = write, begin
        self._buffer, self._sent = bytearray(), 0
        self._parts: Parts | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of bytes that were written."""
        return self._sent + len(self._buffer)

    def write(self, data: Any) -> int:
        """Write all bytes of `data`. Return their number."""
        self._buffer += data
        while len(self._buffer) > PART:
            self._send(PART)
        return memoryview(data).nbytes

    def _send(self, size: int) -> None:
        try:
            self._parts = self._parts or self._begin()
            self._parts.add(bytes(self._buffer[:size]))
        except BaseException:
            self.discard()
            raise
        self._sent += size
        del self._buffer[:size]

    def close(self) -> None:
        """Complete the file, so that it appears under its name."""
        if self.closed:
            return
        try:
            if self._parts is None:
                self._write(bytes(self._buffer))
            else:
                self._send(len(self._buffer))
                self._parts.finish()
        except BaseException:
            self.discard()
            raise
        super().close()

    def discard(self) -> None:
        """Close the file object without writing the file. A file that is closed already stays."""
        if self.closed:
            return
        super().close()
        self._buffer.clear()
        if self._parts is not None:
            self._parts.discard()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        """Close the file object, or discard it after an exception."""
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """Discard the file. The inherited method would call `close`, and so publish a partial file."""
        self.discard()
