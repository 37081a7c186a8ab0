"""A URI -> a place that lists, reads and writes: a local folder or an S3 bucket, with one set of verbs."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import BinaryIO, cast

from spermseg.errors import DamagedError, ObjectDeniedError, ObjectMissingError, StorageError
from spermseg.storage.backend import Backend
from spermseg.storage.local.backend import LocalBackend
from spermseg.storage.local.uploads import Listed
from spermseg.storage.open_files import PartWriter, RangeReader
from spermseg.storage.patience import Patience
from spermseg.storage.s3.backend import S3Backend, resolve_endpoint
from spermseg.storage.uris import complete, is_utf8, storable

READ_AHEAD = 1 << 16  # bytes; a tar header, and what zipfile looks through for a zip's end, in one request
NOT_TEXT = "its name is no valid text: rename it"


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
    reason: str | None = None
    """Of an upload, why it cannot be read, where the listing shows it; None where nothing speaks against it."""
    passed_over: str | None = None
    """Of an upload, what it is, where it is none after all."""


@dataclass(frozen=True)
class Location:
    """A folder or file, local or on S3. Travels between processes as strings; credentials never travel.

    >>> Location("s3://clinic/uploads/").child("2026", "a.jpg").uri
    's3://clinic/uploads/2026/a.jpg'
    """

    uri: str
    """A path, or `s3://bucket/prefix`."""
    endpoint_url: str | None = None
    """The S3 server where it is not AWS; None takes `AWS_ENDPOINT_URL` from the environment."""
    root: str | None = field(default=None, kw_only=True)
    """The local folder of uploads that this was found in, below which no link is followed; see `upload`."""
    patience: Patience | None = field(default=None, compare=False, kw_only=True)
    """How long to try what may pass; None is as patient as the process that asks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", complete(self.uri))
        if self.is_s3:
            resolve_endpoint(self.endpoint_url)  # a wrong one is better refused before anything has run

    @property
    def is_s3(self) -> bool:
        """Whether this is on S3."""
        return self.uri.startswith("s3://")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def path(self) -> str:
        """What follows the scheme, without a slash at the end: `bucket/prefix`, or an absolute path."""
        return self.uri.removeprefix("s3://")

    @cached_property
    def _backend(self) -> Backend:
        if self.is_s3:
            return S3Backend(resolve_endpoint(self.endpoint_url), self.patience)
        return LocalBackend(self.root, self.patience)

    def __getstate__(self) -> tuple[str, str | None, str | None, Patience | None]:
        return (
            self.uri,
            self.endpoint_url,
            self.root,
            self.patience,
        )  # a client does not pickle, and carries credentials

    def __setstate__(self, state: tuple[str, str | None, str | None, Patience | None]) -> None:
        for name, value in zip(("uri", "endpoint_url", "root", "patience"), state, strict=True):
            object.__setattr__(self, name, value)

    def child(self, *parts: str) -> "Location":
        """Return the place `parts` below this one."""
        return replace(self, uri="/".join([self.uri.rstrip("/"), *parts]))

    def upload(self, uri: str) -> "Location":
        """Return the place of an upload that `list_uploads` showed, to be read through no link below this folder.

        Its name is taken as it is: that of an object on S3 may end in a slash.

        Raises:
            ObjectDeniedError: it does not lie below this place, which only a plan that somebody changed can say.
        """
        if not self.holds(uri):
            raise ObjectDeniedError(f"{uri} does not lie in the input {self.uri}")
        place = object.__new__(Location)
        place.__setstate__((uri, self.endpoint_url, None if self.is_s3 else self.uri, self.patience))
        return place

    def holds(self, uri: str) -> bool:
        """Whether a complete URI names this place or one below it, by its letters."""
        return uri == self.uri or uri.startswith(self.uri.rstrip("/") + "/")

    def contains(self, other: "Location") -> bool:
        """Whether the other place is this one or below it, whatever links lead there."""
        if self._backend != other._backend:
            return False
        mine, its = (self._backend.real_path(place.path) for place in (self, other))
        return its == mine or its.startswith(mine.rstrip("/") + "/")

    def list(self) -> Iterator[StoredObject]:
        """Yield every file below this place, in the order of the paths; a file yields itself; nothing there, none.

        A local name that is no valid text is shown with backslash escapes: it can be reported, but not opened.

        Raises:
            StorageError: the listing was refused or broke off.
        """
        for path, size, etag in self._backend.list_objects(self.path):
            yield self._shown(Listed(path, size, etag))

    def list_uploads(self) -> Iterator[StoredObject]:
        """Yield all that others have put below this place, in the order of the paths: `list`, but nothing left out.

        What cannot be read has a reason, and is not the end: a link that leads out of the folder, a pipe, a folder that
        may not be listed, a name that is no valid text. A link to something in the folder is passed over, since that is
        listed under its own path.

        Raises:
            StorageError: the listing was refused or broke off.
        """
        for found in self._backend.list_uploads(self.path):
            shown = self._shown(found)
            yield shown if found.reason or is_utf8(found.path) else replace(shown, reason=NOT_TEXT)

    def _shown(self, found: Listed) -> StoredObject:
        root, scheme = self.path, "s3://" if self.is_s3 else ""
        return StoredObject(
            uri=storable(scheme + found.path),
            key=storable(found.path[len(root) :].lstrip("/") or self.name),
            size=found.size,
            etag=found.etag,
            reason=found.reason,
            passed_over=found.passed_over,
        )

    def no_files(self) -> Iterator[tuple[str, str]]:
        """Yield (path below this folder, what it is) of what lies there and `list` does not show; on S3 nothing.

        That is links which lead nowhere, or to folders, pipes, and folders that hold nothing.

        Raises:
            StorageError: a folder could not be read.
        """
        for path, kind in self._backend.no_files(self.path):
            yield storable(path[len(self.path) :].lstrip("/")), kind

    def abandoned(self, latest: "Location", *, deep: bool = True) -> Iterator["Location"]:
        """Yield the files in this folder whose writers were killed; on S3, where a PUT is whole or nothing, none.

        A writer is taken for dead that did nothing in the day before another file was written last: clocks of machines
        may differ, and that of their file server sets the times of both files.

        Args:
            latest: the other file.
            deep: in the folders below, too.

        Raises:
            StorageError: a folder could not be read.
        """
        for path in self._backend.abandoned(self.path, latest.path, deep=deep):
            yield replace(self, uri=path)

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

    def read_bytes(self, most: int | None = None) -> bytes:
        """Return the whole file.

        Args:
            most: bytes that it may have; no more are read.

        Raises:
            ObjectMissingError: it is not there.
            DamagedError: it has more bytes.
            StorageError: it could not be read.
        """
        data = self._backend.read_range(self.path, 0, most and most + 1, None)
        if most is not None and len(data) > most:
            raise DamagedError(f"it has more than {most} bytes, as no such file of spermseg's has")
        return data

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
            raise StorageError(f"{self.uri} ends before byte {start + size}, which is needed; was it cut off?")
        return data

    def write_bytes(self, data: bytes, *, only_if_absent: bool = False, if_etag: str | None = None) -> None:
        """Write the whole file, or nothing: one PUT, or a temporary file, fsync and rename.

        Of several processes that write the same file under a condition, one does. On a folder they must all be of
        machines that share its file locks (`flock`).

        Args:
            data: the bytes.
            only_if_absent: write only where no file is.
            if_etag: write only over the file that has this etag.

        Raises:
            ObjectExistsError: `only_if_absent`, and it is there.
            ObjectChangedError: `if_etag`, and it has another one.
            ObjectMissingError: `if_etag`, and nothing is there.
            StorageError: it could not be written.
        """
        self._backend.write(self.path, data, only_if_absent, if_etag)

    def delete(self) -> None:
        """Remove this file; where none is, nothing happens.

        Raises:
            StorageError: it could not be removed.
        """
        self._backend.delete(self.path)

    def open(self, read_ahead: int = READ_AHEAD) -> BinaryIO:
        """Return a seekable file object that reads only the ranges asked for, all of the same version.

        Args:
            read_ahead: bytes of a request at least, whatever is asked for.

        Raises:
            ObjectMissingError: it is not there.
            StorageError: it could not be read, now or while reading; ObjectChangedError: it changed meanwhile.
        """
        found = self.stat()
        reader = RangeReader(self.uri, found.size, partial(self.read_range, etag=found.etag))
        return cast("BinaryIO", io.BufferedReader(reader, read_ahead))

    def create(self) -> PartWriter:
        """Return a file object to write, of any size: the file is there, or replaced, when that is closed.

        Left by an exception, it leaves nothing. At most some 16 MiB of it are in memory.

        Raises:
            StorageError: it could not be written, now or while writing.
        """
        return PartWriter(self.write_bytes, partial(self._backend.begin, self.path))

    def delete_folder(self) -> None:
        """Remove all below this place; where nothing is, nothing happens.

        Raises:
            StorageError: not all could be removed.
        """
        self._backend.delete_folder(self.path)
