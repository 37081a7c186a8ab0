"""Errors of the operating system as errors of this project: transient, of one file, or of the whole storage."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from spermseg.errors import (
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    StorageRefusedError,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)
PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO),
    *(errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENOLINK),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
)
"""Error numbers when the server of a network file system is away."""


def is_passing(error: BaseException) -> bool:
    """Whether an error is transient, so that the same call may soon succeed."""
    return isinstance(error, OSError) and (error.errno or getattr(error.__cause__, "errno", None)) in PASSING


@contextmanager
def local_errors(path: str, verb: str) -> Iterator[None]:
    """Convert `OSError` to errors of this project."""
    try:
        yield
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectMissingError(f"{path} is not there") from error
    except FileExistsError as error:
        raise ObjectExistsError(f"{path} is there already") from error
    except OSError as error:
        raise storage_error(path, verb, error) from error


def storage_error(path: str, verb: str, error: OSError) -> StorageError:
    """Return our error for an `OSError`. `verb` is the failed operation: listed, read, written, made or removed."""
    if error.errno in FULL:
        advice = f"no space left on its disk ({error.strerror}): make room, and the same command goes on"
        return StorageError(f"{path} could not be {verb}: {advice}")
    if error.errno == errno.EACCES and verb == "read":
        return ObjectDeniedError(f"{path} may not be read by this user ({error.strerror})")
    if error.errno == errno.ELOOP:
        return ObjectMissingError(f"{path} is not there: its path has a cycle of links")
    refused = error.errno in REFUSED or (verb == "made" and error.errno in IN_THE_WAY)
    kind = StorageRefusedError if refused else StorageError
    return kind(f"{path} could not be {verb}: {error.strerror}")
