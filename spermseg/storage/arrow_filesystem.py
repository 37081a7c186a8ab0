"""The storage of this project as a `pyarrow.fs.FileSystem`, for libraries that need one. It retries with `Patience`.

pyarrow's own S3 filesystem retries a few times within some seconds, without a log line. Its local filesystem fails when
a network folder is away for a moment, and leaves partial files under their final names.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from spermseg.errors import ObjectMissingError
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import Patience, patience
from spermseg.storage.uris import is_partial


def arrow_filesystem(place: Location) -> tuple[PyFileSystem, str]:
    """Return (filesystem, path) of a place. The filesystem pickles, with the patience of this process."""
    scheme = "s3://" if place.is_s3 else ""
    return PyFileSystem(_PatientHandler(scheme, place.endpoint_url, place.patience or patience())), place.path


@dataclass(frozen=True)
class _PatientHandler(FileSystemHandler):  # type: ignore[misc]
    """One S3 server, or this machine. As on S3, a folder exists when a file is in it."""

    scheme: str
    endpoint_url: str | None
    patience: Patience = field(compare=False)

    def _place(self, path: str) -> Location:
        return Location(self.scheme + path, self.endpoint_url, patience=self.patience)

    def get_type_name(self) -> str:
        return "spermseg"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        try:
            return FileInfo(path, FileType.File, size=self._place(path).stat().size)
        except ObjectMissingError:
            is_folder = any(True for _ in self._place(path).list())
            return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        found = {info.path: info for info in self._below(selector.base_dir.rstrip("/"), selector.recursive)}
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(f"{self.scheme}{selector.base_dir} is not there")
        return list(found.values())

    def _below(self, folder: str, recursive: bool) -> Iterator[FileInfo]:
        for one in self._place(folder).list():
            if is_partial(one.key):
                continue
            *folders, _ = one.key.split("/")
            for depth in range(1, len(folders) + 1 if recursive else min(len(folders), 1) + 1):
                yield FileInfo("/".join([folder, *folders[:depth]]), FileType.Directory)
            if recursive or not folders:
                yield FileInfo(f"{folder}/{one.key}", FileType.File, size=one.size)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing, since writing a file makes its folder."""

    def delete_dir(self, path: str) -> None:
        self._place(path).delete_folder()

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:  # noqa: ARG002 (a missing folder is no error)
        self._place(path).delete_folder()

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("the root of a storage cannot be emptied")

    def delete_file(self, path: str) -> None:
        self._place(path).delete()

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        with self._place(src).open() as source, self._place(dest).create() as target:
            shutil.copyfileobj(source, target)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self._place(path).open(), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:  # noqa: ARG002 (our files have none)
        return pa.PythonFile(self._place(path).create(), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError(f"{self.scheme}{path} cannot be opened to append")
