"""Files in a table that spermseg did not write. Readers of the table could take such a file for a result."""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from spermseg.storage.filesystem import Location
from spermseg.storage.uris import EMPTY, is_partial
from spermseg.table.run_folder import is_note, is_unit


def name_foreign_files(out: Location, runs: Container[str]) -> Iterator[str]:
    """Yield one line with advice for each file or folder in `results` and `runs` that spermseg did not write.

    Args:
        out: the table.
        runs: the ids of its runs.

    Raises:
        StorageError: a folder could not be read.
    """
    for part in (_Results(out.child("results")), _Notes(out.child("runs"), runs)):
        for path in sorted(set(_foreign_paths(part))):
            yield f"{part.root.uri}/{path} is no file of spermseg's{part.advice}"


@dataclass(frozen=True)
class _Results:
    """`OUT/results`: a folder `run=<run_id>` for each run, with unit files."""

    root: Location
    advice = "; readers of the table may take it for one: move it away"

    def is_run_folder(self, folder: str) -> bool:
        """Whether a folder has the name of the folder of a run. The run may be lost."""
        return "/" not in folder and folder.startswith("run=") and folder != "run="

    def is_ours(self, folder: str, name: str) -> bool:
        """Whether a file is one of spermseg's."""
        return self.is_run_folder(folder) and is_unit(name)

    def may_be_empty(self, folder: str) -> bool:
        """Whether a folder may be left behind by a run that was moved away."""
        return self.is_run_folder(folder)


@dataclass(frozen=True)
class _Notes:
    """`OUT/runs`: a folder `<run_id>` for each run, with its plan, receipt, forecast and starts."""

    root: Location
    runs: Container[str]
    advice = ": move it away"

    def is_run_folder(self, folder: str) -> bool:
        """Whether a folder is that of a run of the table."""
        return folder in self.runs

    def is_ours(self, folder: str, name: str) -> bool:
        """Whether a file is one of spermseg's. A run that was deleted may have left notes behind."""
        return folder != "" and "/" not in folder and is_note(name)

    def may_be_empty(self, folder: str) -> bool:
        """Whether a folder may be left behind by a run that was moved away."""
        return "/" not in folder


def _foreign_paths(part: _Results | _Notes) -> Iterator[str]:
    """Yield the paths below a part of the table that are not ours; of a foreign folder, only its own path."""
    for item in part.root.list():
        folder, _, name = item.key.rpartition("/")
        if not part.is_ours(folder, name) and not is_partial(name):
            yield _first_foreign(part, item.key)
    for path, kind in part.root.no_files():
        if kind != EMPTY or not part.may_be_empty(path):
            yield _first_foreign(part, path)


def _first_foreign(part: _Results | _Notes, path: str) -> str:
    """Return the first folder of a foreign path that is not the folder of a run; the path itself if all are."""
    first, _, rest = path.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if rest and part.is_run_folder(first) else first
