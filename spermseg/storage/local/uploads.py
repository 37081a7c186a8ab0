"""A folder of uploads that untrusted people write to. It is listed and read without following any link in it.

A file in the folder is an upload. A link is not:

- A link to an upload in the same folder is passed over. The upload is listed once, under its own path, which does not
  change when links come or go. Cycles of links do no harm.
- A link out of the folder is refused.
- A file or folder that was replaced by a link after the listing is refused, too. To ensure this, every part of a path
  is opened by itself, from the folder on, with `O_NOFOLLOW`.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from spermseg.errors import ObjectChangedError, ObjectMissingError, StorageError

LONGEST_PATH = 4096
"""Bytes of the longest path in one system call (PATH_MAX of Linux, with the final zero)."""
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
LIST_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # does not block on a pipe that has replaced a file

LINKED = "links to other uploads"
"""The name of this kind in a receipt."""
LEADS_OUT = (
    "a link to a place outside the uploads, which is not followed: copy or mount its target there, or segment the "
    "target as an input of its own"
)
LEADS_NOWHERE = "a broken link: its target was moved or removed, or may not be read"
LEADS_IN_CIRCLES = "a link in a cycle of links: put the file itself there"
NO_FILE = "not a file but a pipe, a socket or a device: remove it"
REMOVED = "removed while the uploads were listed"
UNREAD_FOLDERS = {
    errno.EACCES: "a folder that may not be read: give the job's user the right to list it",
    errno.EPERM: "a folder that may not be read: give the job's user the right to list it",
    errno.ENAMETOOLONG: "a folder nested deeper than the system can name: move it up",
    errno.ENOENT: REMOVED,
    errno.ENOTDIR: REMOVED,
    errno.ELOOP: REMOVED,
}
"""Why one folder is not listed, by error number. Other errors are failures of the disk."""

UNREAD_LINKS = {
    errno.ELOOP: LEADS_IN_CIRCLES,
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG), LEADS_NOWHERE),
}
"""Why the target of a link is unknown, by error number. Other errors are failures of the disk."""


class Listed(NamedTuple):
    """One entry of a listing."""

    path: str
    """Its path. The path of a folder that could not be listed ends in a slash."""
    size: int
    """Bytes."""
    etag: str
    """Changes with the content."""
    reason: str | None = None
    """Why the entry cannot be read; None for a readable one."""
    passed_over: str | None = None
    """The kind of an entry that is no upload, such as a link; None for an upload."""


class Entry(NamedTuple):
    """One entry of a folder."""

    order: str
    """The key for sorting: its name, with a slash at the end for a folder."""
    path: str
    mode: int
    """The `st_mode`; 0 if the entry was removed after its folder was read."""
    size: int
    etag: str


Ask = Callable[..., Any]
"""Calls a function that accesses a path, with retries: (path, function, arguments) -> its return value."""


def list_uploads(root: str, ask: Ask) -> Iterator[Listed]:
    """Yield everything below a folder, in the order of S3. A file yields itself.

    Args:
        root: the folder, or the file.
        ask: makes every call that accesses the disk, with retries.

    Raises:
        OSError: the folder itself does not exist, or the disk failed; `ask` may convert the error.
    """
    status = ask(root, os.stat, native(root))
    if stat.S_ISREG(status.st_mode):
        yield Listed(root, status.st_size, etag_of(status))
    if not stat.S_ISDIR(status.st_mode):
        return
    real_root = ask(root, real_path, native(root))
    # A stack rather than recursion, since folders can be nested deeper than the recursion limit.
    pending = [Entry("/", root, status.st_mode, 0, "")]
    while pending:
        one = pending.pop()
        if stat.S_ISREG(one.mode):
            yield Listed(one.path, one.size, one.etag)
        elif not stat.S_ISDIR(one.mode):
            yield ask(one.path, _no_upload, one, real_root)
        elif isinstance(found := ask(one.path, read_folder, root, one.path), str):
            yield Listed(one.path + "/", 0, one.etag, found)
        else:
            pending += found


def read_folder(root: str, folder: str) -> list[Entry] | str:
    """Return the entries of a folder in reverse order, or the reason why this folder cannot be listed.

    Raises:
        OSError: the disk failed, or the folder is `root` itself.
    """
    try:
        with _opened(root, folder, LIST_FOLDER) as handle, os.scandir(handle) as listing:
            found = [_entry(folder, entry) for entry in listing]
    except OSError as error:
        reason = REMOVED if isinstance(error, StorageError) else UNREAD_FOLDERS.get(error.errno or 0)
        if reason is None or folder == root:
            raise
        return reason
    return sorted(found, reverse=True)  # a folder sorts as its name with a slash


def _entry(folder: str, entry: os.DirEntry[str]) -> Entry:
    path = f"{folder.rstrip('/')}/{entry.name}"
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return Entry(entry.name, path, 0, 0, "")
    is_folder = stat.S_ISDIR(status.st_mode)
    return Entry(entry.name + "/" * is_folder, path, status.st_mode, status.st_size, etag_of(status))


def _no_upload(one: Entry, real_root: bytes) -> Listed:
    if not stat.S_ISLNK(one.mode):
        return Listed(one.path, 0, one.etag, NO_FILE if one.mode else REMOVED)
    try:
        status = os.stat(native(one.path))  # noqa: PTH116 (a path in bytes)
        target = real_path(native(one.path))
    except OSError as error:
        if error.errno not in UNREAD_LINKS:
            raise
        return Listed(one.path, 0, one.etag, UNREAD_LINKS[error.errno])
    if target == real_root or target.startswith(real_root.rstrip(b"/") + b"/"):
        return Listed(one.path, 0, one.etag, passed_over=LINKED)
    return Listed(one.path + "/" * stat.S_ISDIR(status.st_mode), 0, one.etag, LEADS_OUT)


def real_path(path: bytes) -> bytes:
    """Return a path with all links resolved.

    Raises:
        OSError: the target does not exist, or a link on the way cannot be read.
    """
    return os.path.realpath(path, strict=True)


@contextmanager
def open_upload(root: str, path: str) -> Iterator[int]:
    """Open a regular file at or below a folder for reading; yield the file descriptor. Links are not followed.

    Raises:
        ObjectChangedError: a folder on the way, or the file, was replaced by a link or something else.
        ObjectMissingError: the path is not a regular file, or does not lie below the folder.
        OSError: the file could not be opened.
    """
    with _opened(root, path, FILE) as handle:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ObjectMissingError(f"{path} is not a file")
        yield handle


@contextmanager
def _opened(root: str, path: str, how: int) -> Iterator[int]:
    handle = _open(root, _parts_below(root, path), path, how)
    try:
        yield handle
    finally:
        os.close(handle)


def _parts_below(root: str, path: str) -> list[str]:
    inside = path == root or path.startswith(root.rstrip("/") + "/")
    parts = [part for part in path[len(root) :].split("/") if part]
    if not inside or {".", ".."} & set(parts):
        raise ObjectMissingError(f"{path} does not lie below {root}")
    if len(native(path)) >= LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    return parts


def _open(root: str, parts: list[str], path: str, how: int) -> int:
    if not parts:
        return os.open(native(root), how)
    folder = os.open(native(root), FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(native(part), FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        last = native(parts[-1])
        mode = os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise ObjectChangedError(f"{path} changed since planned: it is now a link")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a device can have side effects
            raise ObjectMissingError(f"{path} is not a file")
        return os.open(last, how | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        raise ObjectChangedError(f"{path} changed since planned: it now lies behind a link or a file") from error
    finally:
        os.close(folder)


def etag_of(status: os.stat_result) -> str:
    """Return the etag of a local file, from its size and modification time."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def native(path: str) -> bytes:
    """Return a path as the bytes that the file system stores. Not every locale can encode every name."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape")
