"""A folder that strangers write to: listed and read without following any link that lies in it.

What is reached by its own path below the folder is an upload. A link in there is none: where it leads to something in
the same folder, that has its row under its own path, which does not change when a link comes or goes; so nothing is
listed twice and nothing goes round in circles. Where it leads out of the folder, it is refused, and so is what a link
was put in the place of since it was listed: every part of a path is opened by itself, from the folder on, as a folder
or file and never as a link.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from spermseg.errors import ObjectChangedError, ObjectMissingError, StorageError

LONGEST_PATH = 4096
"""Bytes of a path that the system takes in one piece (Linux's PATH_MAX, its zero included)."""
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
LIST_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe that was put in a file's place does not block

LINKED = "links to other uploads"
"""What is passed over, in the words of a receipt."""
LEADS_OUT = (
    "a link that leads out of the uploads, and is not followed: copy or mount there what it leads to, or segment that "
    "as an input of its own"
)
LEADS_NOWHERE = "a link that leads nowhere, or where nobody may look: what it leads to was moved or removed"
LEADS_IN_CIRCLES = "a link that leads round in circles: put the file itself there"
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
"""Why a folder is not listed, which says nothing of the others; every other error is one of the disk."""


UNREAD_LINKS = {
    errno.ELOOP: LEADS_IN_CIRCLES,
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG), LEADS_NOWHERE),
}
"""Why a link leads to nothing that can be looked at; every other error is one of the disk."""


class Listed(NamedTuple):
    """What a listing shows."""

    path: str
    """Where it is; that of a folder which is not listed ends in a slash."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does."""
    reason: str | None = None
    """Why it cannot be read; None where nothing speaks against it."""
    passed_over: str | None = None
    """What it is, where it is no upload at all."""


class Entry(NamedTuple):
    """What a folder shows."""

    order: str
    """Its name; that of a folder ends in a slash."""
    path: str
    mode: int
    """0 where it was removed since its folder was read."""
    size: int
    etag: str


Ask = Callable[..., Any]
"""Calls a function that asks the system about a path: (path, function, arguments) -> what it returns."""


def list_uploads(root: str, ask: Ask) -> Iterator[Listed]:
    """Yield all that lies below a folder, in the order of the paths as S3 has it; a file yields itself.

    Args:
        root: the folder, or the file.
        ask: makes every call of the system, again where that may help.

    Raises:
        OSError: the folder itself is not there, or its disk failed; or what `ask` makes of it.
    """
    status = ask(root, os.stat, native(root))
    if stat.S_ISREG(status.st_mode):
        yield Listed(root, status.st_size, etag_of(status))
    if not stat.S_ISDIR(status.st_mode):
        return
    real_root = ask(root, real_path, native(root))
    pending = [Entry("/", root, status.st_mode, 0, "")]  # a stack: folders can be nested deeper than calls
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
    """Return what is in a folder of uploads, last first, or why it cannot be listed, which says nothing of the others.

    Raises:
        OSError: a disk failed, or the folder is all of the uploads.
    """
    try:
        with _opened(root, folder, LIST_FOLDER) as handle, os.scandir(handle) as listing:
            found = [_entry(folder, entry) for entry in listing]
    except OSError as error:
        reason = REMOVED if isinstance(error, StorageError) else UNREAD_FOLDERS.get(error.errno or 0)
        if reason is None or folder == root:
            raise
        return reason
    return sorted(found, reverse=True)  # with the slash, a folder sorts where its files do


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
    """Return where a path leads, through all links.

    Raises:
        OSError: that is not there, or could not be asked: what a link on the way is, would be a guess.
    """
    return os.path.realpath(path, strict=True)


@contextmanager
def open_upload(root: str, path: str) -> Iterator[int]:
    """Open a regular file at or below a folder, through no link below that folder, to read from the handle.

    Raises:
        ObjectChangedError: a link, or something else, is where a folder or the file was.
        ObjectMissingError: it is no file, or does not lie below the folder.
        OSError: it could not be opened.
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
            raise ObjectChangedError(f"{path} changed since planned: it is a link by now")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a device may do something
            raise ObjectMissingError(f"{path} is not a file")
        return os.open(last, how | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        raise ObjectChangedError(f"{path} changed since planned: it lies behind a link, or a file, by now") from error
    finally:
        os.close(folder)


def etag_of(status: os.stat_result) -> str:
    """Return the size and modification time of a file as its etag."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def native(path: str) -> bytes:
    """Return a path as the system stores it. A stored name is text, which not every locale can encode."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape")
