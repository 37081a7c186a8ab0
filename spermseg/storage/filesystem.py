"""Locations: a local folder or an S3 bucket, by its URI, with the same methods for both."""

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

READ_AHEAD = 1 << 16  # bytes; enough for a tar header, or for zipfile's search for the end of a zip, in one request
NOT_TEXT = "its name is no valid text: rename it"


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One file or object, as a listing shows it."""

    uri: str
    """An absolute path or `s3://bucket/key`."""
    key: str
    """Its path below the listed place, with `/` between the parts."""
    size: int
    """Bytes."""
    etag: str
    """Changes with the content: S3's ETag, or the size and modification time of a local file."""
    reason: str | None = None
    """Why an upload cannot be read, as far as the listing shows; None for a readable one."""
    passed_over: str | None = None
    """The kind of an entry that is no upload, such as a link; None for an upload."""


@dataclass(frozen=True)
class Location:
    """A folder or file, local or on S3. It pickles as strings, without credentials.

    >>> Location("s3://clinic/uploads/").child("2026", "a.jpg").uri
    's3://clinic/uploads/2026/a.jpg'
    """

    uri: str
    """A path, or `s3://bucket/prefix`."""
    endpoint_url: str | None = None
    """URL of an S3 server other than AWS; None takes `AWS_ENDPOINT_URL` from the environment."""
    root: str | None = field(default=None, kw_only=True)
    """The local folder of uploads in which this file was found. Links below it are not followed; see `upload`."""
    patience: Patience | None = field(default=None, compare=False, kw_only=True)
    """How long to retry transient errors; None takes the patience of the current process."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", complete(self.uri))
        if self.is_s3:
            resolve_endpoint(self.endpoint_url)  # an early error for a wrong URL

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
        """The URI without its scheme and without a slash at the end: `bucket/prefix`, or an absolute path."""
        return self.uri.removeprefix("s3://")

    @cached_property
    def _backend(self) -> Backend:
        if self.is_s3:
            return S3Backend(resolve_endpoint(self.endpoint_url), self.patience)
        return LocalBackend(self.root, self.patience)

    def __getstate__(self) -> tuple[str, str | None, str | None, Patience | None]:
        # Without the backend: its client does not pickle, and holds credentials.
        return self.uri, self.endpoint_url, self.root, self.patience

    def __setstate__(self, state: tuple[str, str | None, str | None, Patience | None]) -> None:
        for name, value in zip(("uri", "endpoint_url", "root", "patience"), state, strict=True):
            object.__setattr__(self, name, value)

    def child(self, *parts: str) -> "Location":
        """Return the location of `parts` below this one."""
        return replace(self, uri="/".join([self.uri.rstrip("/"), *parts]))

    def upload(self, uri: str) -> "Location":
        """Return the location of an upload that `list_uploads` yielded. Links below this folder are not followed.

        The URI is taken unchanged, since a key on S3 may end in a slash.

        Raises:
            ObjectDeniedError: the URI does not lie below this location, as in a plan that was tampered with.
        """
        if not self.holds(uri):
            raise ObjectDeniedError(f"{uri} does not lie in the input {self.uri}")
        place = object.__new__(Location)
        place.__setstate__((uri, self.endpoint_url, None if self.is_s3 else self.uri, self.patience))
        return place

    def holds(self, uri: str) -> bool:
        """Whether the text of a complete URI names this location or one below it."""
        return uri == self.uri or uri.startswith(self.uri.rstrip("/") + "/")

    def contains(self, other: "Location") -> bool:
        """Whether the other location is this one or below it, with links resolved."""
        if self._backend != other._backend:
            return False
        mine, its = (self._backend.real_path(place.path) for place in (self, other))
        return its == mine or its.startswith(mine.rstrip("/") + "/")

    def list(self) -> Iterator[StoredObject]:
        """Yield every file below this location, in the order of the paths.

        A file yields itself. A missing location yields nothing. A local name that is not valid text is shown with
        backslash escapes. Such a file can be reported, but not opened.

        Raises:
            StorageError: the listing was refused or broke off.
        """
        for path, size, etag in self._backend.list_objects(self.path):
            yield self._shown(Listed(path, size, etag))

    def list_uploads(self) -> Iterator[StoredObject]:
        """Yield everything below this location, in the order of the paths, including what `list` leaves out.

        An upload that cannot be read has a reason: a link out of the folder, a pipe, a folder that may not be listed, a
        name that is not valid text. The listing continues after it. A link to an upload in the same folder has
        `passed_over` set, since the upload is listed under its own path.

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
        """Yield (path below this folder, kind) of everything that `list` does not show. On S3, yield nothing.

        These are broken links, links to folders, pipes and empty folders.

        Raises:
            StorageError: a folder could not be read.
        """
        for path, kind in self._backend.no_files(self.path):
            yield storable(path[len(self.path) :].lstrip("/")), kind

    def abandoned(self, latest: "Location", *, deep: bool = True) -> Iterator["Location"]:
        """Yield the partial files in this folder whose writers were killed.

        On S3, yield nothing, since a PUT is atomic. A partial file counts as abandoned if it is at least a day older
        than the file `latest`. The clock of the file server sets both times, so the clocks of the machines may differ.

        Args:
            latest: the file to compare with.
            deep: whether to search the folders below, too.

        Raises:
            StorageError: a folder could not be read.
        """
        for path in self._backend.abandoned(self.path, latest.path, deep=deep):
            yield replace(self, uri=path)

    def stat(self) -> StoredObject:
        """Return the size and etag of this file.

        Raises:
            ObjectMissingError: there is no such file.
        """
        size, etag = self._backend.stat(self.path)
        return StoredObject(uri=self.uri, key=self.name, size=size, etag=etag)

    def exists(self) -> bool:
        """Whether this file exists; False for a folder."""
        try:
            self.stat()
        except ObjectMissingError:
            return False
        return True

    def read_bytes(self, most: int | None = None) -> bytes:
        """Return the whole file.

        Args:
            most: limit on the size of the file, bytes; None sets no limit.

        Raises:
            ObjectMissingError: there is no such file.
            DamagedError: the file is larger than `most`.
            StorageError: the file could not be read.
        """
        data = self._backend.read_range(self.path, 0, most and most + 1, None)
        if most is not None and len(data) > most:
            raise DamagedError(f"it has more than {most} bytes, more than any such file of spermseg has")
        return data

    def read_range(self, start: int, size: int, *, etag: str | None = None) -> bytes:
        """Return exactly `size` bytes from byte `start`.

        Args:
            start: the first byte.
            size: how many bytes.
            etag: the etag that the file must still have, such as the one in the plan.

        Raises:
            ObjectMissingError: there is no such file.
            ObjectChangedError: the file has another etag.
            StorageError: the file could not be read, or ends before the range.
        """
        data = self._backend.read_range(self.path, start, size, etag)
        if len(data) != size:
            raise StorageError(f"{self.uri} ends before byte {start + size}, which is needed; was it cut off?")
        return data

    def write_bytes(self, data: bytes, *, only_if_absent: bool = False, if_etag: str | None = None) -> None:
        """Write the whole file atomically: with one PUT, or with a temporary file, fsync and rename.

        If several processes write the same file under a condition, exactly one succeeds. In a shared folder this needs
        file locks (`flock`) that work across the machines.

        Args:
            data: the bytes.
            only_if_absent: write only if there is no such file.
            if_etag: replace only a file with this etag.

        Raises:
            ObjectExistsError: `only_if_absent` is set, and the file exists.
            ObjectChangedError: `if_etag` is set, and the file has another etag.
            ObjectMissingError: `if_etag` is set, and there is no such file.
            StorageError: the file could not be written.
        """
        self._backend.write(self.path, data, only_if_absent, if_etag)

    def delete(self) -> None:
        """Remove this file. A missing file is no error.

        Raises:
            StorageError: the file could not be removed.
        """
        self._backend.delete(self.path)

    def open(self, read_ahead: int = READ_AHEAD) -> BinaryIO:
        """Return a seekable file object that requests only the ranges that are read.

        Args:
            read_ahead: least number of bytes of a request.

        Raises:
            ObjectMissingError: there is no such file.
            ObjectChangedError: on reading, the file has changed since it was opened.
            StorageError: the file could not be opened or, later, read.
        """
        found = self.stat()
        reader = RangeReader(self.uri, found.size, partial(self.read_range, etag=found.etag))
        return cast("BinaryIO", io.BufferedReader(reader, read_ahead))

    def create(self) -> PartWriter:
        """Return a file object to write a file of any size. The file appears, or is replaced, on `close`.

        If an exception leaves its `with` block, nothing is written. About 16 MiB of the file are in memory.

        Raises:
            StorageError: on writing or closing, the file could not be written.
        """
        return PartWriter(self.write_bytes, partial(self._backend.begin, self.path))

    def delete_folder(self) -> None:
        """Remove everything below this location. A missing folder is no error.

        Raises:
            StorageError: a file could not be removed.
        """
        self._backend.delete_folder(self.path)
