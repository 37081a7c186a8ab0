"""A URI -> a place that lists, reads and writes: a local folder or an S3 bucket, with one set of verbs."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, cast

import pyarrow.fs as pafs

from spermseg.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
)
from spermseg.storage.s3 import S3Backend


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One file or object, as a listing shows it."""

    uri: str
    """Where it is, complete: an absolute path or `s3://bucket/key`."""
    key: str
    """Its path below the listed place, with `/` between the parts."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does: S3's ETag, or the size and modification time of a local file."""


class Backend(Protocol):
    """What a kind of storage can do; `path` is what follows the scheme."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of everything below a path, in the order of the paths."""

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag)."""

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return `size` bytes from `start` (None: all that follow), provided the etag still is this one."""

    def write(self, path: str, data: bytes, only_if_absent: bool) -> None:
        """Write whole or not at all."""

    def filesystem(self) -> pafs.FileSystem:
        """Return the pyarrow filesystem that reads the same paths."""


@dataclass(frozen=True)
class Location:
    """A folder or file, local or on S3. Travels between processes as two strings; credentials never travel.

    >>> Location("s3://clinic/uploads/").child("2026", "a.jpg").uri
    's3://clinic/uploads/2026/a.jpg'
    """

    uri: str
    """A path, or `s3://bucket/prefix`."""
    endpoint_url: str | None = None
    """The S3 server where it is not AWS; None takes `AWS_ENDPOINT_URL` from the environment."""

    def __post_init__(self) -> None:
        if not self.uri:
            raise ConfigError("got an empty path; give a folder or s3://bucket/prefix")
        scheme, found, rest = self.uri.partition("://")
        if found and scheme not in ("s3", "file"):
            raise ConfigError(f"got {self.uri!r}; spermseg reads local folders and s3://bucket/prefix")
        if scheme == "s3" and found and not rest.strip("/"):
            raise ConfigError(f"got {self.uri!r}, which names no bucket; give s3://bucket or s3://bucket/prefix")
        if not (found and scheme == "s3"):
            local = Path(rest if found else self.uri).expanduser().absolute()
            object.__setattr__(self, "uri", os.path.normpath(local))

    @property
    def is_s3(self) -> bool:
        """Whether this is on S3."""
        return self.uri.startswith("s3://")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.uri).name

    @property
    def path(self) -> str:
        """What follows the scheme, without a slash at the end: `bucket/prefix`, or an absolute path."""
        return self.uri.removeprefix("s3://").rstrip("/") or "/"

    @cached_property
    def _backend(self) -> Backend:
        return S3Backend(self.endpoint_url) if self.is_s3 else LocalBackend()

    def __getstate__(self) -> tuple[str, str | None]:
        return self.uri, self.endpoint_url  # a client does not pickle, and carries credentials

    def __setstate__(self, state: tuple[str, str | None]) -> None:
        object.__setattr__(self, "uri", state[0])
        object.__setattr__(self, "endpoint_url", state[1])

    def child(self, *parts: str) -> "Location":
        """Return the place `parts` below this one."""
        return Location("/".join([self.uri.rstrip("/"), *parts]), self.endpoint_url)

    def contains(self, other: "Location") -> bool:
        """Whether the other place is this one or below it."""
        mine, its = self.path.rstrip("/"), other.path.rstrip("/")
        return self.is_s3 == other.is_s3 and (its == mine or its.startswith(mine + "/"))

    def list(self) -> Iterator[StoredObject]:
        """Yield every file below this place, in the order of the paths; a file yields itself; nothing there, none.

        Raises:
            StorageError: the listing was refused or broke off.
        """
        root, scheme = self.path, "s3://" if self.is_s3 else ""
        for path, size, etag in self._backend.list_objects(root):
            key = path[len(root) :].lstrip("/") or PurePosixPath(path).name
            yield StoredObject(uri=scheme + path, key=key, size=size, etag=etag)

    def stat(self) -> StoredObject:
        """Return the size and etag of this file.

        Raises:
            ObjectMissingError: it is not there.
        """
        size, etag = self._backend.stat(self.path)
        return StoredObject(uri=self.uri, key=self.name, size=size, etag=etag)

    def exists(self) -> bool:
        """Whether this file (not folder) is there."""
        try:
            self.stat()
        except ObjectMissingError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """Return the whole file.

        Raises:
            ObjectMissingError: it is not there.
            StorageError: it could not be read.
        """
        return self._backend.read_range(self.path, 0, None, None)

    def read_range(self, start: int, size: int, *, etag: str | None = None) -> bytes:
        """Return exactly `size` bytes from byte `start`.

        Args:
            start: the first byte.
            size: how many bytes.
            etag: the etag that the object had when it was planned.

        Raises:
            ObjectMissingError: it is not there.
            ObjectChangedError: it has another etag by now.
            StorageError: it could not be read, or ends before the range does.
        """
        data = self._backend.read_range(self.path, start, size, etag)
        if len(data) != size:
            raise StorageError(f"{self.uri} ends at byte {start + len(data)}; {start + size} are needed")
        return data

    def write_bytes(self, data: bytes, *, only_if_absent: bool = False) -> None:
        """Write the whole file, or nothing: one PUT, or a temporary file, fsync and rename.

        Raises:
            ObjectExistsError: `only_if_absent`, and it is there.
            StorageError: it could not be written.
        """
        self._backend.write(self.path, data, only_if_absent)

    def open(self) -> BinaryIO:
        """Return a seekable file object that reads only the ranges asked for.

        Raises:
            ObjectMissingError: it is not there.
            StorageError: it could not be opened.
        """
        try:
            return cast(BinaryIO, self._backend.filesystem().open_input_file(self.path))
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{self.uri} is not there") from error
        except OSError as error:
            raise StorageError(f"{self.uri} could not be opened: {first_line(error)}") from error

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """Return (pyarrow filesystem, path), for libraries that read through pyarrow."""
        return self._backend.filesystem(), self.path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class LocalBackend:
    """Files on this machine, or on a disk that all machines share."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every regular file below a path, in the order of the paths."""
        if Path(path).is_file():
            yield path, *self.stat(path)
            return
        yield from self._walk(path)

    def _walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{folder} could not be listed: {error.strerror}") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path)
            elif entry.is_file():
                yield entry.path, *self.stat(entry.path)

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag) of a regular file."""
        with _local_errors(path, "read"):
            if not Path(path).is_file():
                raise FileNotFoundError(2, "no such file")
            status = Path(path).stat()
        return status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}"

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return `size` bytes from `start`, provided size and modification time still give this etag."""
        if etag is not None and self.stat(path)[1] != etag:
            raise ObjectChangedError(f"{path} changed since planned")
        with _local_errors(path, "read"), Path(path).open("rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)

    def write(self, path: str, data: bytes, only_if_absent: bool) -> None:
        """Write to a temporary file beside it, fsync, and rename."""
        target = Path(path)
        with _local_errors(path, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if only_if_absent:
                    os.link(temporary, target)
                else:
                    os.chmod(temporary, 0o666 & ~_umask())
                    os.replace(temporary, target)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def filesystem(self) -> pafs.FileSystem:
        """Return pyarrow's local filesystem."""
        return pafs.LocalFileSystem()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _local_errors(path: str, verb: str) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise ObjectMissingError(f"{path} is not there") from error
    except FileExistsError as error:
        raise ObjectExistsError(f"{path} is there already") from error
    except OSError as error:
        raise StorageError(f"{path} could not be {verb}: {error.strerror}") from error
