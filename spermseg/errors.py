"""The error tree. Every error of this project is one of these, takes one string, and also is the builtin it refines.

SpermsegError
  ConfigError(ValueError)         a setting, or a combination of settings, that cannot be used
  ShapeError(ValueError)          an array or tensor of the wrong shape
  StorageError(OSError)           an object or file could not be listed, read or written
    ObjectMissingError            it is not there (also a FileNotFoundError)
    ObjectExistsError             it is there already, and was to be written only once (also a FileExistsError)
    ObjectChangedError            it is not the one that was planned: its etag differs
    ObjectDeniedError             this one may not be read, whatever else may (also a PermissionError)
    StorageRefusedError           the storage lets nobody in with this name or these rights (also a PermissionError)
  ArchiveError(ValueError)        a .zip or .tar, or one member of it, that cannot be used
  MicrographError(ValueError)     bytes that are not a usable micrograph
  AnnotationError(ValueError)     an annotation that cannot be used
  DatasetError(ValueError)        a dataset folder that cannot be used
  ModelFileError(ValueError)      a model file that cannot be used
  RunError(RuntimeError)          a run that did not end with one row for each planned micrograph
    DamagedError                  a file of a table that is not what was written
    LockedError                   another job works on this table
    TooManyRejectedError          a run that ended as planned, and rejected more than it may

A message is one line that says what we got, what is needed and what to do. One string only, because an exception
with other arguments does not survive the pickling between Ray workers.
"""


class SpermsegError(Exception):
    """The base of every error raised by spermseg."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """The one line to show to a person."""
        return str(self.args[0])


class ConfigError(SpermsegError, ValueError):
    """A setting, or a combination of settings, that cannot be used."""


class ShapeError(SpermsegError, ValueError):
    """An array or tensor of the wrong shape."""


class StorageError(SpermsegError, OSError):
    """An object or file could not be listed, read or written."""


class ObjectMissingError(StorageError, FileNotFoundError):
    """The object or file is not there."""


class ObjectExistsError(StorageError, FileExistsError):
    """The object or file is there already, and was to be written only once."""


class ObjectChangedError(StorageError):
    """The object or file is not the one that was planned."""


class ObjectDeniedError(StorageError, PermissionError):
    """This one object or file may not be read. Credentials that are good for nothing are a `StorageRefusedError`."""


class StorageRefusedError(StorageError, PermissionError):
    """The storage is not there under this name, or does not accept who asks: nothing passes until that is mended."""


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
    """A file of a table that is not what was written: bytes changed, cut off, or somebody else's."""


class LockedError(RunError):
    """Another job works on this table."""


class TooManyRejectedError(RunError):
    """A run that ended as planned, and rejected more uploads than it may: a broken camera, or a broken key."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's text, or its type where it has none: for the message of an error of ours.

    >>> first_line(ValueError("no pixels\nat all"))
    'no pixels'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    r"""Return all of an error's text as one line, or its type where it has none.

    >>> one_line(ValueError("no pixels\nat all"))
    'no pixels at all'
    """
    return " ".join(str(error).split()) or type(error).__name__
