"""Files of this machine, or of a disk that all machines share."""

import errno
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs
from tenacity import Retrying

from spermseg.errors import (
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    StorageRefusedError,
)
from spermseg.storage.patience import Patience, patience

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)
PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO),
    *(errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENOLINK),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
)
"""What the server of a network file system being away looks like."""


@dataclass(frozen=True)
class LocalBackend:
    """Local files; `path` is absolute."""

    patience: Patience | None = field(default=None, compare=False)
    """How long to try; None asks the process each time."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every regular file at or below a path, in the order of the paths.

        Links to files count as files; links to folders are not followed, since they can go round in circles.
        """
        try:
            described = self._patiently(path, _described, path, "listed")
        except ObjectMissingError:
            yield from self._walk(path)
        else:
            yield path, *described

    def _walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        links = 0
        pending = self._patiently(folder, _entries, folder)[::-1]  # a stack: folders can be nested deeper than calls
        while pending:
            entry = pending.pop()
            if entry.is_dir(follow_symlinks=False):
                pending += self._patiently(entry.path, _entries, entry.path)[::-1]
                continue
            try:
                described = self._patiently(entry.path, _described, entry.path, "listed")
            except ObjectMissingError:  # no file, or removed since the folder was read
                links += os.path.isdir(entry.path)  # noqa: PTH112 (which takes links in circles for none)
                continue
            yield entry.path, *described
        if links:
            logger.warning("%d links to folders were not followed: what lies there is not listed", links)

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag) of a regular file."""
        return self._patiently(path, _described, path, "read")

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start`, provided size and modification time still give this etag."""
        return self._patiently(path, _read_range, path, start, size, etag)

    def write(self, path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
        """Write whole or not at all. A file that an earlier attempt of this very call left there is a success."""
        retrying = self._retrying(path)
        try:
            retrying(_write, path, data, only_if_absent, if_etag)
        except (ObjectExistsError, ObjectChangedError):
            if retrying.statistics["attempt_number"] == 1 or self.read_range(path, 0, len(data) + 1, None) != data:
                raise

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._patiently(path, _delete, path)

    def _retrying(self, path: str) -> Retrying:
        return (self.patience or patience()).retrying(path, _is_passing)

    def _patiently(self, path: str, function: Callable[..., Result], *arguments: Any) -> Result:
        return self._retrying(path)(function, *arguments)

    def filesystem(self, path: str) -> pafs.FileSystem:  # noqa: ARG002 (S3 needs to know the bucket)
        """Return pyarrow's local filesystem."""
        return pafs.LocalFileSystem()


def _is_passing(error: BaseException) -> bool:
    """Whether the same call may well succeed in a moment."""
    return isinstance(error, StorageError) and getattr(error.__cause__, "errno", None) in PASSING


def _read_range(path: str, start: int, size: int | None, etag: str | None) -> bytes:
    _described(path, "read")  # to open what is no file, a pipe for one, can take for ever
    with _local_errors(path, "read"), Path(path).open("rb") as file:
        file.seek(start)
        data = file.read(-1 if size is None else size)
        if etag not in (None, _etag(os.fstat(file.fileno()))):  # of what was read, whatever has the name by now
            raise ObjectChangedError(f"{path} changed since planned")
    return data


def _write(path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
    """Write to a temporary file beside it, fsync, give it its name in one step, and fsync the folder.

    After that a power cut takes nothing back. A disk that is full leaves what was there, and nothing else.
    """
    target = Path(path)
    temporary = target.with_name(f".partial-{secrets.token_hex(8)}")
    _make_folder(target.parent)
    with _local_errors(path, "written"), _open_folder(target.parent) as folder:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if only_if_absent:
                os.link(temporary, target)  # unlike a rename, fails where the name is taken
            elif if_etag:
                fcntl.flock(folder, fcntl.LOCK_EX)  # until the folder is closed
                _replace_this(target, temporary, if_etag)
            else:
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        os.fsync(folder)


def _replace_this(target: Path, temporary: Path, etag: str) -> None:
    """Replace a file that has this etag by one that has another."""
    if _etag(target.stat()) != etag:
        raise ObjectChangedError(f"{target} changed")
    status = temporary.stat()
    if _etag(status) == etag:  # as large, and written in the same tick of the clock
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    temporary.replace(target)


def _delete(path: str) -> None:
    with suppress(ObjectMissingError), _local_errors(path, "removed"), _open_folder(Path(path).parent) as folder:
        Path(path).unlink()
        os.fsync(folder)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, in the order of S3: with the slash, a folder sorts where its files do."""
    with suppress(ObjectMissingError), _local_errors(folder, "listed"), os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    return []


def _described(path: str, verb: str) -> tuple[int, str]:
    """Return (size, etag) of a regular file."""
    with _local_errors(path, verb):
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissingError(f"{path} is not a file")
    return status.st_size, _etag(status)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, to last: a folder's name is kept by the one above."""
    try:
        missing = [made for made in (folder, *folder.parents) if not made.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            with _open_folder(made.parent) as above:
                os.fsync(above)
    except OSError as error:  # a file in the way is not the object that is there already
        raise _storage_error(str(folder), "made", error) from error


@contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _local_errors(path: str, verb: str) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectMissingError(f"{path} is not there") from error
    except FileExistsError as error:
        raise ObjectExistsError(f"{path} is there already") from error
    except OSError as error:
        raise _storage_error(path, verb, error) from error


def _storage_error(path: str, verb: str, error: OSError) -> StorageError:
    if error.errno in FULL:
        advice = f"no space left on its disk ({error.strerror}): make room, and the same command goes on"
        return StorageError(f"{path} could not be {verb}: {advice}")
    if error.errno == errno.EACCES and verb == "read":
        return ObjectDeniedError(f"{path} may not be read by this user ({error.strerror})")
    if error.errno == errno.ELOOP:
        return ObjectMissingError(f"{path} is not there: its link leads round in circles")
    refused = error.errno in REFUSED or (verb == "made" and error.errno in IN_THE_WAY)
    kind = StorageRefusedError if refused else StorageError
    return kind(f"{path} could not be {verb}: {error.strerror}")
