"""Files and runs in a wrong place of a table: moved to the run of their rows, or moved out of the table.

A row names its run. Anyone who can write a file chooses that name. So a file is moved only to a run that the table has,
and a run is renamed only to a valid run id.
"""

import logging
import re
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from spermseg.errors import DamagedError, ObjectExistsError
from spermseg.storage.filesystem import Location
from spermseg.table.counting import Count
from spermseg.table.image_ids import ImageIds
from spermseg.table.lease import Lease
from spermseg.table.plan import MOST_BYTES, Plan, Planned
from spermseg.table.receipt import list_runs
from spermseg.table.results import read_unit, right_name
from spermseg.table.run_folder import RECEIPT, RunFolder

logger = logging.getLogger(__name__)

ASIDE = "damaged"
"""Folder for unreadable files of lost runs and for copies of runs. Nothing reads it, and it may be deleted."""
OF_A_PLAN = ("image_id", "uri", "member", "group", "retry_of")
MADE_WITH = ("model_sha256", "recipe_sha256")
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


@dataclass(kw_only=True)
class WholeUnits:
    """The readable units in the folder of a run."""

    own: dict[str, list[Planned]] = field(default_factory=dict)
    """Right file name -> plan, for each unit whose rows name this run. Rows hold only a part of the plan."""
    runs: set[str] = field(default_factory=set)
    """Ids of the runs that the rows name."""
    makers: set[tuple[str, ...]] = field(default_factory=set)
    """(Model, settings) pairs that the rows name."""


def whole_units(run: RunFolder) -> WholeUnits:
    """Read the units in the folder of a run, without the damaged ones."""
    found = WholeUnits()
    for place in run.units():
        with suppress(DamagedError):
            rows = read_unit(place, (*OF_A_PLAN, *MADE_WITH, "run_id"), thorough=True).to_pylist()
            runs = {row["run_id"] for row in rows}
            found.runs |= runs
            found.makers |= {tuple(row[name] for name in MADE_WITH) for row in rows}
            if runs == {run.run_id}:
                unit = [_planned(row) for row in rows]
                found.own[right_name(one.image_id for one in unit)] = unit
    return found


def tidy_run(run: RunFolder, plan: Plan, count: Count, lease: Lease) -> None:
    """Make room for the units that a run lacks: delete unreadable files, move others to the run that their rows name.

    A file is moved only to a run that the table has, since anyone who can write a file chooses which run its rows name.

    Args:
        run: the run.
        plan: its plan.
        count: of its files. Units that are moved back are added to it.
        lease: of the table, checked before each change.
    """
    run = run.within(lease.fenced(run.table))
    folder, planned = run.results, set(plan.unit_files())
    known = {run.run_id, *list_runs(run.table)}
    for name in count.damaged:
        folder.child(name).delete()
    for name, (maker, right) in count.homes.items():
        if maker == run.run_id and name in planned and name == right:
            continue
        count.units.discard(name)
        if maker in known:
            bring_home(folder.child(name), RunFolder(run.table, maker).results.child(right))
            if maker == run.run_id:
                count.units.add(right)
        elif name in planned:
            put_aside(run, folder.child(name), name)
            logger.warning(
                "run %s: %s holds rows of a run that the table does not have; it was moved to %s",
                *(run.run_id, name, run.table.child(ASIDE).uri),
            )


def _planned(row: dict[str, Any]) -> Planned:
    return Planned(**{name: row[name] for name in OF_A_PLAN}, size=0, data_size=0, etag="")


def is_run_id(text: str) -> bool:
    """Whether a text is a valid run id."""
    return bool(_RUN_ID.fullmatch(text))


def find_copies(out: Location, planned: dict[str, ImageIds]) -> dict[str, str]:
    """Return copy -> original, for runs that are copies. Either may be the finished one.

    No two runs plan the same uploads. If two do, a folder was copied. The rows name the original.

    Args:
        out: the table.
        planned: run id -> image ids of its plan. All runs have the same model and settings.
    """
    if len(ImageIds.union(planned.values())) == sum(map(len, planned.values())):
        return {}
    copies: dict[str, str] = {}
    kept: list[str] = []
    for run_id in planned:
        for other in kept:
            copy = _copy_of_two(out, other, run_id, planned)
            if copy:
                copies[copy] = other if copy == run_id else run_id
        kept = [one for one in [*kept, run_id] if one not in copies]
    return copies


def _copy_of_two(out: Location, first: str, second: str, planned: dict[str, ImageIds]) -> str | None:
    """Return which of two runs is a copy of the other; None if each has uploads of its own."""
    together = len(ImageIds.union((planned[first], planned[second])))
    if together == len(planned[first]) + len(planned[second]):
        return None
    runs = whole_units(RunFolder(out, first)).runs | whole_units(RunFolder(out, second)).runs
    if (first in runs) != (second in runs):
        return second if first in runs else first
    if together == len(planned[first]):
        return second
    return first if together == len(planned[second]) else None


def send_home(run: RunFolder, known: Container[str]) -> None:
    """Copy units of other runs from a folder to these runs, if they are missing or damaged there.

    Args:
        run: the run of the folder. Its files stay.
        known: ids of the runs of the table.
    """
    for place in run.units():
        with suppress(DamagedError):
            rows = read_unit(place, ("image_id", "run_id"), thorough=True)
            runs = set(rows["run_id"].to_pylist())
            home = runs.pop() if len(runs) == 1 else run.run_id
            if home != run.run_id and home in known:
                _give(place, RunFolder(run.table, home).results.child(right_name(rows["image_id"].to_pylist())))


def bring_home(place: Location, home: Location) -> None:
    """Move a unit to its right place. A sound file there stays."""
    if place.uri != home.uri:
        _give(place, home)
        place.delete()


def _give(place: Location, home: Location) -> None:
    data = place.read_bytes(MOST_BYTES)
    try:
        home.write_bytes(data, only_if_absent=True)
    except ObjectExistsError:
        try:
            read_unit(home, ("image_id",), thorough=True)
        except DamagedError:
            home.write_bytes(data)


def rename_run(run: RunFolder, home: RunFolder) -> None:
    """Move all files of a run to an id that no run has. The receipt is last, since it vouches for the others."""
    for folder, target in ((run.results, home.results), (run.notes, home.notes)):
        for item in _receipt_last(folder):
            target.child(item).write_bytes(folder.child(item).read_bytes(MOST_BYTES))
            folder.child(item).delete()


def set_aside(run: RunFolder) -> None:
    """Move a run out of the table. The receipt is first, since it vouches for the others."""
    for folder in (run.notes, run.results):
        for item in _receipt_last(folder)[::-1]:
            put_aside(run, folder.child(item), item)


def put_aside(run: RunFolder, place: Location, name: str) -> None:
    """Move a file of a run out of the table."""
    with suppress(DamagedError):  # a file of this size is not from spermseg
        run.table.child(ASIDE, run.run_id, name).write_bytes(place.read_bytes(MOST_BYTES))
    place.delete()


def _receipt_last(folder: Location) -> list[str]:
    return sorted((item.key for item in folder.list()), key=lambda name: name == RECEIPT)
