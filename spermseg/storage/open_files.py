"""Places as open files, for libraries that read and write piece by piece: in ranges, and in parts."""

import errno
import io
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

PART = 1 << 24
"""Bytes of a part: S3 takes 10,000 of them, of 5 MiB and more."""

ReadRange = Callable[[int, int], bytes]
"""(first byte, bytes) -> exactly these bytes."""


class Parts(Protocol):
    """A file on its way: part after part, and there under its name when all of it is."""

    def add(self, part: bytes) -> None:
        """Write what follows."""

    def finish(self) -> None:
        """Give the file its name."""

    def discard(self) -> None:
        """Remove what is written, as far as the storage lets itself be asked; it is asked once."""


class RangeReader(io.RawIOBase):
    """A place as an unbuffered file, one request a read; `pyarrow` has one too, but with errors of its own.

    Args:
        uri: where it is, for a message.
        size: bytes of it.
        read_range: reads it.
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
        """Go to a byte, which may lie behind the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"byte {base + offset} lies before the start of {self._uri}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the number of the next byte."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as much as the buffer holds, or as there is."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Read all that is left in one request; the inherited one asks for 8 KiB at a time."""
        return self._read(self._size)

    def _read(self, size: int) -> bytes:
        there = max(0, min(size, self._size - self._position))
        data = self._read_range(self._position, there) if there else b""
        self._position += len(data)
        return data


class PartWriter(io.RawIOBase):
    """A place as a file to write, which is there when it is closed, and not before. What fails leaves nothing.

    Left by an exception, or forgotten, it is discarded. What fits one part is written in one piece.

    Args:
        write: writes a whole file.
        begin: begins one of many parts.
    """

    def __init__(self, write: Callable[[bytes], None], begin: Callable[[], Parts]) -> None:
        self._write, self._begin = write, begin
        self._buffer, self._sent = bytearray(), 0
        self._parts: Parts | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._sent + len(self._buffer)

    def write(self, data: Any) -> int:
        """Write all of some bytes."""
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
        """Give the file its name."""
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
        """Close it without a trace; one that is closed stays."""
        if self.closed:
            return
        super().close()
        self._buffer.clear()
        if self._parts is not None:
            self._parts.discard()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        """Close it, or discard it where something was raised."""
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """Discard it: the inherited one would give half a file its name."""
        self.discard()
