"""Run folders that were copied or renamed: `verify` names them, and `segment --check-files` puts them right."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.damaged_tables import first_run, flip, rows_of
from support.dark_cells import PLANNED

from spermseg.batch.run import segment_night
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import list_runs
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")

OTHERS = ["20200101T000000Z-0a0a0a", "20300101T000000Z-0b0b0b", "{}-copy"]
"""Names of a copy: before and after the run's own, and one that no run can have."""


def nothing(progress: object) -> None:
    pass


def folders(out: Location, run_id: str) -> tuple[str, str]:
    return RunFolder(out, run_id).notes.path, RunFolder(out, run_id).results.path


def copied(out: Location, name: str, *, both: bool = True, times: bool = True) -> None:
    """Copy a run's rows, or all of it, under another id, as `cp -a` or as `cp -r` does."""
    for number, (source, target) in enumerate(zip(folders(out, first_run(out)), folders(out, name), strict=True)):
        if both or number:
            shutil.copytree(source, target, copy_function=shutil.copy2 if times else shutil.copyfile)


def renamed(out: Location, name: str, *, which: int) -> None:
    """Rename the folder of a run's plan (1), that of its rows (2), or both (3)."""
    for number, (source, target) in enumerate(zip(folders(out, first_run(out)), folders(out, name), strict=True)):
        if which >> number & 1:
            shutil.move(source, target)


KINDS: dict[str, Callable[[Location, str], object]] = {
    "a copy with its times": copied,
    "a copy": lambda out, name: copied(out, name, times=False),
    "a copy of its rows": lambda out, name: copied(out, name, both=False),
    "a copy of its plan and its receipt": lambda out, name: shutil.copytree(
        folders(out, first_run(out))[0], folders(out, name)[0]
    ),
    "a copy of an unfinished run": lambda out, name: [
        RunFolder(out, first_run(out)).receipt.delete(),
        copied(out, name),
    ],
    "a copy without a receipt": lambda out, name: [copied(out, name), RunFolder(out, name).receipt.delete()],
    "a copy of a run that lost its plan": lambda out, name: [
        copied(out, name),
        RunFolder(out, original(out, name)).plan.delete(),
    ],
    "a copy whose plan is damaged": lambda out, name: [copied(out, name), flip(RunFolder(out, name).plan)],
    "another name for its plan": lambda out, name: renamed(out, name, which=1),
    "another name for its rows": lambda out, name: renamed(out, name, which=2),
    "another name for all of it": lambda out, name: renamed(out, name, which=3),
}


def original(out: Location, name: str) -> str:
    return next(run_id for run_id in list_runs(out) if run_id != name)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_under_another_name_is_named_and_put_right_without_segmenting(night, kind, name, monkeypatch, caplog):
    runs, before, name = list(list_runs(night.out)), rows_of(night.out), name.format(first_run(night.out))
    KINDS[kind](night.out, name)
    assert any(name in line for line in verify(night.out)[1])
    monkeypatch.setattr("spermseg.batch.run.run_pipeline", None)  # nothing is lost, so nothing is segmented
    segment_night(replace(night, check_files=True), nothing)
    assert verify(night.out) == (PLANNED + 1, [])
    assert rows_of(night.out) == before
    assert list(list_runs(night.out)) == runs
    assert segment_night(replace(night, check_files=True), nothing) == []
    assert "--check-files" not in caplog.text


@pytest.mark.parametrize("name", OTHERS[:2])
def test_what_is_whole_in_the_copy_replaces_what_is_not_in_the_run(night, name, monkeypatch):
    before = rows_of(night.out)
    copied(night.out, name)
    first, second, *_ = RunFolder(night.out, original(night.out, name)).units()
    flip(first)
    second.delete()
    monkeypatch.setattr("spermseg.batch.run.run_pipeline", None)
    segment_night(replace(night, check_files=True), nothing)
    assert verify(night.out) == (PLANNED + 1, [])
    assert rows_of(night.out) == before


def test_a_copy_is_kept_outside_of_the_table(night):
    name = OTHERS[1]
    copied(night.out, name)
    held = {path.name: path.read_bytes() for folder in folders(night.out, name) for path in Path(folder).iterdir()}
    segment_night(replace(night, check_files=True), nothing)
    aside = Path(night.out.child("damaged", name).path)
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == held


def test_a_copy_of_a_run_of_another_model_is_left(night):
    stricter = replace(night.settings, cells=replace(night.settings.cells, min_area=300))
    copied(night.out, OTHERS[1])
    copied(night.out, OTHERS[0], both=False)
    held = {item.uri: item.etag for item in night.out.list()}
    segment_night(replace(night, settings=stricter, check_files=True), nothing)
    assert held.items() <= {item.uri: item.etag for item in night.out.list()}.items()
