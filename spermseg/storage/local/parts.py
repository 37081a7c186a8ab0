"""Write a local file in parts, with retries for each part."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tenacity import Retrying

from spermseg.errors import ObjectMissingError
from spermseg.storage.local.errors import local_errors
from spermseg.storage.local.folders import make_folder, open_folder, open_partial


class LocalParts:
    """A partial file in the same folder, which is renamed at the end.

    Each part is synced before the next one. A part that failed is still in memory, and is written again as a whole.

    Args:
        path: the path of the file.
        retrying: returns a new tenacity controller.
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
        """Append a part."""
        self._retrying()(self._write, part)
        self._size += len(part)

    def _write(self, part: bytes) -> None:
        with local_errors(str(self._target), "written"), self._partial.open("r+b") as file:
            file.seek(self._size)
            file.write(part)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Rename the file durably. A rename by an earlier attempt of this same call is a success."""
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
        """Remove the partial file."""
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)
