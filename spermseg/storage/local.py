"""Files of this machine, or of a disk that all machines share."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pafs

from spermseg.errors import (
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    StorageRefusedError,
)
from spermseg.storage.local_uploads import Entry, Listed, etag_of, list_uploads, native, open_upload, read_folder

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)


@dataclass(frozen=True)
class LocalBackend:
    """Local files; `path` is absolute."""

    root: str | None = None
    """The folder of uploads below which no link is followed; None for files of our own, where links lead on."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every regular file at or below a path, in the order of the paths.

        Links to files count as files; links to folders are not followed, since they can go round in circles.
        """
        try:
            described = _described(path, "listed")
        except ObjectMissingError:
            yield from self._walk(path)
        else:
            yield path, *described

    def _walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        pending = _entries(folder)[::-1]  # a stack: folders can be nested deeper than calls
        while pending:
            entry = pending.pop()
            if entry.is_dir(follow_symlinks=False):
                pending += _entries(entry.path)[::-1]
                continue
            try:
                described = _described(entry.path, "listed")
            except ObjectMissingError:  # no file, or removed since the folder was read
                continue
            yield entry.path, *described

    def list_uploads(self, path: str) -> Iterator[Listed]:
        """Yield all that lies at or below a path, what cannot be read as well, in the order of the paths."""
        with suppress(ObjectMissingError), _local_errors(path, "listed"):
            yield from list_uploads(path, lambda folder: _read_folder(path, folder))

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag) of a regular file."""
        return _stat(path, self.root)

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start`, provided size and modification time still give this etag."""
        return _read_range(path, start, size, etag, self.root)

    def write(self, path: str, data: bytes, only_if_absent: bool) -> None:
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
                else:
                    temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            os.fsync(folder)

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        with suppress(ObjectMissingError), _local_errors(path, "removed"), _open_folder(Path(path).parent) as folder:
            Path(path).unlink()
            os.fsync(folder)

    def filesystem(self, path: str) -> pafs.FileSystem:  # noqa: ARG002 (S3 needs to know the bucket)
        """Return pyarrow's local filesystem."""
        return pafs.LocalFileSystem()


def _stat(path: str, root: str | None) -> tuple[int, str]:
    if root is None:
        return _described(path, "read")
    with _local_errors(path, "read"), open_upload(root, path) as handle:
        status = os.fstat(handle)
    return status.st_size, etag_of(status)


def _read_range(path: str, start: int, size: int | None, etag: str | None, root: str | None) -> bytes:
    with _local_errors(path, "read"), _opened(path, root) as file:
        file.seek(start)
        data = file.read(-1 if size is None else size)
        if etag not in (None, etag_of(os.fstat(file.fileno()))):  # of what was read, whatever has the name by now
            raise ObjectChangedError(f"{path} changed since planned")
    return data


@contextmanager
def _opened(path: str, root: str | None) -> Iterator[BinaryIO]:
    """Open a file: one of ours wherever links lead, an upload through none."""
    if root is None:
        _described(path, "read")  # to open what is no file, a pipe for one, can take for ever
        with Path(path).open("rb") as file:
            yield file
    else:
        with open_upload(root, path) as handle, os.fdopen(handle, "rb", closefd=False) as file:
            yield file


def _read_folder(root: str, folder: str) -> list[Entry] | str:
    with _local_errors(folder, "listed"):
        return read_folder(root, folder)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, in the order of S3: with the slash, a folder sorts where its files do."""
    with suppress(ObjectMissingError), _local_errors(folder, "listed"), os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    return []


def _described(path: str, verb: str) -> tuple[int, str]:
    """Return (size, etag) of a regular file."""
    with _local_errors(path, verb):
        status = os.stat(native(path))  # noqa: PTH116 (a path in bytes)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissingError(f"{path} is not a file")
    return status.st_size, etag_of(status)


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
