"""The local backend: files of this machine or of a shared file system."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tenacity import Retrying

from spermseg.errors import (
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageRefusedError,
)
from spermseg.storage.local.errors import is_passing, local_errors
from spermseg.storage.local.folders import delete_folder, make_folder, open_folder, open_partial
from spermseg.storage.local.parts import LocalParts
from spermseg.storage.local.uploads import (
    Listed,
    etag_of,
    list_uploads,
    native,
    open_upload,
    real_path,
)
from spermseg.storage.patience import Patience, patience
from spermseg.storage.uris import EMPTY, is_partial_name

Result = TypeVar("Result")
ABANDONED_NS = 24 * 3600 * 10**9
"""Age in ns at which a partial file counts as abandoned by its writer."""


@dataclass(frozen=True)
class LocalBackend:
    """Local files. `path` is absolute."""

    root: str | None = None
    """The folder of uploads, below which no link is followed. None for other files, where links are followed."""
    patience: Patience | None = field(default=None, compare=False)
    """How long to retry; None takes the patience of the process at each call."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every regular file at or below a path, in the order of the paths.

        A link to a file counts as a file. Links to folders are not followed, since they can form cycles.
        """
        try:
            described = self._patiently(path, _described, path, "listed")
        except ObjectMissingError:
            yield from self._walk(path)
        else:
            yield path, *described

    def _walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        # A stack rather than recursion, since folders can be nested deeper than the recursion limit.
        pending = self._patiently(folder, _entries, folder)[::-1]
        while pending:
            entry = pending.pop()
            if entry.is_dir(follow_symlinks=False):
                pending += self._patiently(entry.path, _entries, entry.path)[::-1]
                continue
            try:
                described = self._patiently(entry.path, _described, entry.path, "listed")
            except ObjectMissingError:  # not a file, or removed since the folder was read
                continue
            yield entry.path, *described

    def list_uploads(self, path: str) -> Iterator[Listed]:
        """Yield every upload at or below a path, including those that cannot be read, in the order of the paths."""
        with suppress(ObjectMissingError), local_errors(path, "listed"):
            yield from list_uploads(path, lambda place, *call: self._patiently(place, _listing, place, *call))

    def real_path(self, path: str) -> str:
        """Return a path with all existing links resolved."""
        return self._patiently(path, _real_path, path)

    def no_files(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield (path, kind) of everything below a path that is neither a file nor a folder with content."""
        for folder, entries in self._folders(path):
            if not entries and folder != path and Path(folder).is_dir():
                yield folder, EMPTY
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) and not _is_file(entry):
                    yield entry.path, "a link" if entry.is_symlink() else "a pipe, a socket or a device"

    def abandoned(self, path: str, latest: str, *, deep: bool) -> Iterator[str]:
        """Yield partial files in a folder that are at least a day older than the file `latest`."""
        before = self._patiently(latest, _modified_ns, latest) - ABANDONED_NS
        for _, entries in islice(self._folders(path), None if deep else 1):
            for entry in entries:
                if is_partial_name(entry.name) and _is_old_file(entry, before):
                    yield entry.path

    def _folders(self, path: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Yield (folder, its entries) of a folder and all folders below it. Links are not followed."""
        pending = [path]
        while pending:
            folder = pending.pop()
            entries = self._patiently(folder, _entries, folder)
            yield folder, entries
            pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag) of a regular file."""
        return self._patiently(path, _stat, self.root, path)

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start`, if the file still has this etag (size and modification time)."""
        return self._patiently(path, _read_range, self.root, path, start, size, etag)

    def write(self, path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
        """Write the whole file, or nothing. A file that an earlier attempt of this same call wrote is a success."""
        retrying = self._retrying(path)
        try:
            retrying(_write, path, data, only_if_absent, if_etag)
        except (ObjectExistsError, ObjectChangedError):
            if retrying.statistics["attempt_number"] == 1 or self.read_range(path, 0, len(data) + 1, None) != data:
                raise

    def begin(self, path: str) -> LocalParts:
        """Return a writer for a file that is written in parts."""
        return LocalParts(path, partial(self._retrying, path))

    def delete(self, path: str) -> None:
        """Remove a file, if it exists."""
        self._patiently(path, _delete, path)

    def delete_folder(self, path: str) -> None:
        """Remove a folder with its content, if it exists."""
        self._patiently(path, delete_folder, Path(path))

    def _retrying(self, path: str) -> Retrying:
        return (self.patience or patience()).retrying(path, is_passing)

    def _patiently(self, path: str, function: Callable[..., Result], *arguments: Any) -> Result:
        return self._retrying(path)(function, *arguments)


def _real_path(path: str) -> str:
    try:
        with local_errors(path, "read"):
            return os.fsdecode(real_path(native(path)))
    except (ObjectMissingError, ObjectDeniedError):  # links behind a missing or hidden folder are unknown
        return os.path.realpath(path)


def _stat(root: str | None, path: str) -> tuple[int, str]:
    if root is None:
        return _described(path, "read")
    with local_errors(path, "read"), open_upload(root, path) as handle:
        status = os.fstat(handle)
    return status.st_size, etag_of(status)


def _read_range(root: str | None, path: str, start: int, size: int | None, etag: str | None) -> bytes:
    with local_errors(path, "read"), _opened(root, path) as file:
        file.seek(start)
        there = max(0, os.fstat(file.fileno()).st_size - start)  # `read` allocates the size that it is given
        data = file.read(-1 if size is None else min(size, there))
        if etag not in (None, etag_of(os.fstat(file.fileno()))):  # of the open file, not of its path
            raise ObjectChangedError(f"{path} changed since planned")
    return data


@contextmanager
def _opened(root: str | None, path: str) -> Iterator[BinaryIO]:
    if root is None:
        _described(path, "read")  # to open a pipe can block for ever
        with Path(path).open("rb") as file:
            yield file
    else:
        with open_upload(root, path) as handle, os.fdopen(handle, "rb", closefd=False) as file:
            yield file


def _write(path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
    """Write a temporary file in the same folder, fsync it, rename it, and fsync the folder.

    The file then survives a power cut. A full disk leaves the old file unchanged and no temporary file. The mode comes
    from `permissions`.
    """
    target = Path(path)
    make_folder(target.parent)
    with local_errors(path, "written"), open_folder(target.parent) as folder:
        temporary, handle = open_partial(target)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if only_if_absent:
                os.link(temporary, target)  # unlike a rename, this fails if the name is taken
            elif if_etag:
                fcntl.flock(folder, fcntl.LOCK_EX)  # released when the folder is closed
                _replace_this(target, temporary, if_etag)
            else:
                temporary.replace(target)
        except (FileExistsError, IsADirectoryError) as error:
            if target.is_file():
                raise
            raise StorageRefusedError(
                f"{path} could not be written: a folder, a link or a pipe has its name: move that away, and the same "
                "command goes on"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        os.fsync(folder)


def _replace_this(target: Path, temporary: Path, etag: str) -> None:
    """Replace a file with this etag by a file with another etag."""
    if etag_of(target.stat()) != etag:
        raise ObjectChangedError(f"{target} changed")
    status = temporary.stat()
    if etag_of(status) == etag:  # the same size, written in the same tick of the clock
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    temporary.replace(target)


def _delete(path: str) -> None:
    with suppress(ObjectMissingError), local_errors(path, "removed"), open_folder(Path(path).parent) as folder:
        Path(path).unlink()
        os.fsync(folder)


def _listing(place: str, function: Callable[..., Result], *arguments: Any) -> Result:
    with local_errors(place, "listed"):
        return function(*arguments)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder in the order of S3, where a folder sorts as its name with a slash."""
    with suppress(ObjectMissingError), local_errors(folder, "listed"), os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    return []


def _modified_ns(path: str) -> int:
    with local_errors(path, "read"):
        return os.stat(native(path)).st_mtime_ns  # noqa: PTH116 (a path in bytes)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a cycle of links
        return False


def _is_old_file(entry: os.DirEntry[str], before_ns: int) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # the writer has just renamed it
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime_ns < before_ns


def _described(path: str, verb: str) -> tuple[int, str]:
    """Return (size, etag) of a regular file."""
    with local_errors(path, verb):
        status = os.stat(native(path))  # noqa: PTH116 (a path in bytes)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissingError(f"{path} is not a file")
    return status.st_size, etag_of(status)
