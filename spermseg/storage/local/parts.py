"""A file of this machine, or of a shared disk, in many parts, each of which is tried with patience."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tenacity import Retrying

from spermseg.errors import ObjectMissingError
from spermseg.storage.local.errors import local_errors
from spermseg.storage.local.folders import make_folder, open_folder, open_partial


class LocalParts:
    """Parts of a file, in a temporary one beside it that is renamed at the end.

    Each part is on the disk before the next: of a part that failed nothing is known, and it is still at hand.

    Args:
        path: of the file.
        retrying: returns a fresh caller of functions.
    """

    def __init__(self, path: str, retrying: Callable[[], Retrying]) -> None:
        self._target, self._retrying = Path(path), retrying
        self._partial = retrying()(self._make)
        self._size = 0

    def _make(self) -> Path:
        make_folder(self._target.parent)
        partial, handle = open_partial(self._target)
        os.close(handle)
        return partial

    def add(self, part: bytes) -> None:
        """Write what follows."""
        self._retrying()(self._write, part)
        self._size += len(part)

    def _write(self, part: bytes) -> None:
        with local_errors(str(self._target), "written"), self._partial.open("r+b") as file:
            file.seek(self._size)
            file.write(part)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Give it its name, to last. That an earlier attempt of this very call did so is a success."""
        retrying = self._retrying()
        try:
            retrying(self._rename)
        except ObjectMissingError:
            if retrying.statistics["attempt_number"] == 1 or self._retrying()(self._target.stat).st_size != self._size:
                raise

    def _rename(self) -> None:
        with local_errors(str(self._target), "written"), open_folder(self._target.parent) as folder:
            self._partial.replace(self._target)
            os.fsync(folder)

    def discard(self) -> None:
        """Remove what is written."""
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)
