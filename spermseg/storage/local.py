"""Files of this machine, or of a disk that all machines share."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from spermseg.errors import ObjectChangedError, ObjectExistsError, ObjectMissingError, StorageError


@dataclass(frozen=True)
class LocalBackend:
    """Local files; `path` is absolute."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every regular file at or below a path, in the order of the paths.

        Links to files count as files; links to folders are not followed, since they can go round in circles.
        """
        try:
            yield path, *self.stat(path)
        except ObjectMissingError:
            yield from self._walk(path)

    def _walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        try:
            with _local_errors(folder, "listed"), os.scandir(folder) as listing:
                # With the slash, a folder sorts where its files do: the order of S3.
                entries = sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
        except ObjectMissingError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path)
            elif entry.is_file():
                try:
                    yield entry.path, *self.stat(entry.path)
                except ObjectMissingError:  # removed since the folder was read
                    continue

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag) of a regular file."""
        with _local_errors(path, "read"):
            status = Path(path).stat()
            if not Path(path).is_file():
                raise ObjectMissingError(f"{path} is not a file")
        return status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}"

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start`, provided size and modification time still give this etag."""
        if etag not in (None, self.stat(path)[1]):
            raise ObjectChangedError(f"{path} changed since planned")
        with _local_errors(path, "read"), Path(path).open("rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)

    def write(self, path: str, data: bytes, only_if_absent: bool) -> None:
        """Write to a temporary file beside it, fsync, and give it its name in one step."""
        target = Path(path)
        temporary = target.with_name(f".partial-{secrets.token_hex(8)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file in the way is not the object that is there already
            raise StorageError(f"{target.parent} could not be made: {error.strerror}") from error
        with _local_errors(path, "written"):
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

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        with suppress(ObjectMissingError), _local_errors(path, "removed"):
            Path(path).unlink()

    def filesystem(self, path: str) -> pafs.FileSystem:  # noqa: ARG002 (S3 needs to know the bucket)
        """Return pyarrow's local filesystem."""
        return pafs.LocalFileSystem()


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
        raise StorageError(f"{path} could not be {verb}: {error.strerror}") from error
