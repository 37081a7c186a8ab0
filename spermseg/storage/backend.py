"""What a kind of storage can do: a local folder and a bucket have these verbs, and `Location` all that follows."""

from collections.abc import Iterator
from typing import Protocol

from spermseg.storage.local.uploads import Listed
from spermseg.storage.open_files import Parts


class Backend(Protocol):
    """What a kind of storage can do; `path` is what follows the scheme."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of everything below a path, in the order of the paths."""

    def list_uploads(self, path: str) -> Iterator[Listed]:
        """Yield everything below a path that others have put there, what cannot be read as well, in the same order."""

    def real_path(self, path: str) -> str:
        """Return where a path leads, through all links."""

    def no_files(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield (path, what it is) of everything below a path that is no file, but for folders that hold something."""

    def abandoned(self, path: str, latest: str, *, deep: bool) -> Iterator[str]:
        """Yield the files in a folder that were begun, and left a day before another file was written last."""

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag)."""

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start` (None: all that follow), provided the etag still is this one."""

    def write(self, path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
        """Write whole or not at all."""

    def delete(self, path: str) -> None:
        """Remove a file; none there is no error."""

    def delete_folder(self, path: str) -> None:
        """Remove all below a path; nothing there is no error."""

    def begin(self, path: str) -> Parts:
        """Begin a file that is written in parts."""
