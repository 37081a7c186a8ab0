"""What lies in a table and is not ours is named, in every place, with advice that works."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.damaged_tables import first_run, unit
from support.dark_cells import PLANNED

from spermseg.batch.run import segment_night
from spermseg.errors import StorageError
from spermseg.table.results import list_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")

PLACES = ["results", "results/run=RUN", "runs", "runs/RUN"]
FOREIGN: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a folder that holds something": lambda path: (path.mkdir(), (path / "unit-a.parquet").write_bytes(b"a")),
    "a file": lambda path: path.write_bytes(b"mine"),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a folder": lambda path: path.symlink_to("/"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["notes.txt", "unit-x.parquet", ".DS_Store"])
def test_what_is_not_ours_is_named_once_and_moving_it_away_is_all(night, place, kind, name):
    if kind == "a file" and (name, place) == ("unit-x.parquet", "results/run=RUN"):
        return  # a damaged unit
    if (kind, place) == ("a folder", "runs"):
        return  # where a run was moved from, and nothing that anybody takes for one
    path = Path(night.out.path, place.replace("RUN", first_run(night.out)), name)
    before = list_units(night.out)
    FOREIGN[kind](path)
    rows, (line,) = verify(night.out)
    assert line.startswith(f"{path} is no file of spermseg's")
    assert line.endswith("move it away")
    assert (rows, list_units(night.out)) == (PLANNED + 1, before)
    path.rename(Path(night.out.path, "moved"))
    assert verify(night.out) == (PLANNED + 1, [])


@pytest.mark.parametrize("kind", ["a folder", "a folder that holds something"])
@pytest.mark.parametrize(
    "place",
    [unit, lambda out: RunFolder(out, first_run(out)).plan, lambda out: RunFolder(out, first_run(out)).receipt],
    ids=["unit", "plan", "receipt"],
)
def test_what_has_the_name_of_a_file_that_is_needed_is_named_and_once_moved_away_all_is_mended(night, kind, place):
    path = Path(place(night.out).path)
    path.unlink()
    FOREIGN[kind](path)
    assert any(line.startswith(f"{path} is no file") for line in verify(night.out)[1])
    with pytest.raises((StorageError, RuntimeError), match=f"{path.name} could not be written: .*move that away"):
        segment_night(replace(night, check_files=True), lambda _: None)
    path.rename(Path(night.out.path, "moved"))
    segment_night(replace(night, check_files=True), lambda _: None)
    assert verify(night.out) == (PLANNED + 1, [])


def test_a_folder_in_the_place_of_the_lock_is_one_line(night):
    night.out.child("lock.json", "a").write_bytes(b"a")
    with pytest.raises(StorageError, match=r"lock\.json could not be written: .*move that away"):
        segment_night(night, lambda _: None)
