"""The interface of a kind of storage, local or S3. `Location` builds on it."""

from collections.abc import Iterator
from typing import Protocol

from spermseg.storage.local.uploads import Listed
from spermseg.storage.open_files import Parts


class Backend(Protocol):
    """The operations of a kind of storage. `path` is the part of the URI behind the scheme."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every file at or below a path, in the order of the paths."""

    def list_uploads(self, path: str) -> Iterator[Listed]:
        """Yield every upload at or below a path, including those that cannot be read, in the same order."""

    def real_path(self, path: str) -> str:
        """Return a path with all links resolved."""

    def no_files(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield (path, kind) of everything below a path that is neither a file nor a folder with content."""

    def abandoned(self, path: str, latest: str, *, deep: bool) -> Iterator[str]:
        """Yield partial files in a folder that are at least a day older than the file `latest`."""

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag)."""

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start` (None: to the end), if the file still has this etag."""

    def write(self, path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
        """Write the whole file, or nothing."""

    def delete(self, path: str) -> None:
        """Remove a file. A missing file is no error."""

    def delete_folder(self, path: str) -> None:
        """Remove everything below a path. A missing folder is no error."""

    def begin(self, path: str) -> Parts:
        """Return a writer for a file that is written in parts."""
