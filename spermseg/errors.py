"""The exceptions of this project. Each takes one string, and is also a subclass of the builtin exception beside it.

SpermsegError
  ConfigError(ValueError)         a setting, or a combination of settings, that cannot be used
  ShapeError(ValueError)          an array or tensor of the wrong shape
  StorageError(OSError)           an object or file could not be listed, read or written
    ObjectMissingError            the object or file does not exist (also a FileNotFoundError)
    ObjectExistsError             the object or file exists, and must not be replaced (also a FileExistsError)
    ObjectChangedError            the object or file has another etag than planned
    ObjectDeniedError             this single object or file may not be read (also a PermissionError)
    StorageRefusedError           the storage does not exist, or refuses the credentials (also a PermissionError)
  ArchiveError(ValueError)        a .zip or .tar, or one member of it, that cannot be used
  MicrographError(ValueError)     bytes that are not a usable micrograph
  AnnotationError(ValueError)     an annotation that cannot be used
  DatasetError(ValueError)        a dataset folder that cannot be used
  ModelFileError(ValueError)      a model file that cannot be used
  RunError(RuntimeError)          a run that did not end with one row for each planned micrograph
    DamagedError                  a file of a table that differs from what was written
    LockedError                   another job works on this table
    TooManyRejectedError          a run that ended as planned, but rejected more uploads than allowed

A message is one line: what was found, what is needed and what to do. An exception takes one string only, because
exceptions with other arguments do not survive pickling between Ray workers.
"""


class SpermsegError(Exception):
    """The base of every error raised by spermseg."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """The message for users, in one line."""
        return str(self.args[0])


class ConfigError(SpermsegError, ValueError):
    """A setting, or a combination of settings, that cannot be used."""


class ShapeError(SpermsegError, ValueError):
    """An array or tensor of the wrong shape."""


class StorageError(SpermsegError, OSError):
    """An object or file could not be listed, read or written."""


class ObjectMissingError(StorageError, FileNotFoundError):
    """The object or file does not exist."""


class ObjectExistsError(StorageError, FileExistsError):
    """The object or file exists already, and must not be replaced."""


class ObjectChangedError(StorageError):
    """The object or file has another etag than planned."""


class ObjectDeniedError(StorageError, PermissionError):
    """This single object or file may not be read. Credentials that the storage refuses are a `StorageRefusedError`."""


class StorageRefusedError(StorageError, PermissionError):
    """The storage does not exist, or refuses the credentials. Retries do not help; the user must correct the cause."""


class ArchiveError(SpermsegError, ValueError):
    """A .zip, .tar or .tar.gz, or one member of it, that cannot be used."""


class MicrographError(SpermsegError, ValueError):
    """Bytes that are not a usable micrograph."""


class AnnotationError(SpermsegError, ValueError):
    """An annotation that cannot be used."""


class DatasetError(SpermsegError, ValueError):
    """A dataset folder that cannot be used."""


class ModelFileError(SpermsegError, ValueError):
    """A model file that cannot be used."""


class RunError(SpermsegError, RuntimeError):
    """A run that did not end with one row for each planned micrograph."""


class DamagedError(RunError):
    """A file of a table that differs from what was written: changed, cut off or replaced."""


class LockedError(RunError):
    """Another job works on this table."""


class TooManyRejectedError(RunError):
    """A run that ended as planned, but rejected more uploads than allowed, as after a failure of a camera."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's text, or its type if it has none, for the message of another error.

    >>> first_line(ValueError("no pixels\nat all"))
    'no pixels'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    r"""Return the whole text of an error as one line, or its type if it has none.

    >>> one_line(ValueError("no pixels\nat all"))
    'no pixels at all'
    """
    return " ".join(str(error).split()) or type(error).__name__
