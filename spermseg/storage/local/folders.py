"""Local folders: make them durably, open them for fsync, create partial files in them, remove them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spermseg.errors import ObjectMissingError
from spermseg.storage.local.errors import local_errors, storage_error
from spermseg.storage.permissions import file_mode, folder_mode
from spermseg.storage.uris import partial_name


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and fsync the parents, which hold the names."""
    try:
        missing = [made for made in (folder, *folder.parents) if not made.exists()]
        for made in missing[::-1] or [folder]:
            made.mkdir(mode=folder_mode(), exist_ok=True)
        for made in missing:
            with open_folder(made.parent) as above:
                os.fsync(above)
    except OSError as error:  # a file in the way is no `ObjectExistsError`
        raise storage_error(str(folder), "made", error) from error


def delete_folder(folder: Path) -> None:
    """Remove a folder with its content, if it exists. Links in it are removed, and not followed."""
    with suppress(ObjectMissingError), local_errors(str(folder), "removed"):
        shutil.rmtree(folder)


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """Open a folder to fsync or lock it; yield the file descriptor."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def open_partial(target: Path) -> tuple[Path, int]:
    """Create a partial file in the folder of `target`; return (its path, its file descriptor for writing).

    Raises:
        StorageError: the file could not be created.
    """
    partial = target.with_name(partial_name())
    try:
        return partial, os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode=file_mode())
    except OSError as error:  # a FileNotFoundError of /proc or /sys is no `ObjectMissingError`
        raise storage_error(str(target), "written", error) from error
