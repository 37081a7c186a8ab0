"""A job that lost its lease changes nothing any more, however long it waited for the storage meanwhile."""

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.damaged_tables import DAMAGE, first_run, flip
from support.held_tables import foreign

from spermseg.batch.misplaced_files import tidy_run
from spermseg.batch.run import segment_night
from spermseg.errors import RunError, StorageError
from spermseg.storage.filesystem import Location
from spermseg.storage.local import backend as local
from spermseg.storage.patience import Patience
from spermseg.table.counting import count_rows
from spermseg.table.lease import hold_lease
from spermseg.table.plan import Plan
from spermseg.table.receipt import list_runs
from spermseg.table.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_ray")

IS_GONE = r"now belongs to process 77 on head-2\.clinic.*this job stops"


def shown(out: Location) -> dict[str, str]:
    """Return what lies in a table, but for its lease."""
    return {item.key: item.etag for item in out.list() if item.key != "lock.json"}


def at_changes(monkeypatch, act: Callable[[Callable[[], None]], None]) -> list[str]:
    """Have something done in place of each change of a file but the lease; return the names, as they come."""
    changed: list[str] = []

    def spy(do: Callable[..., None]) -> Callable[..., None]:
        def spied(path: str, *arguments) -> None:
            if path.endswith("lock.json"):
                return do(path, *arguments)
            changed.append(path)
            return act(lambda: do(path, *arguments))

        return spied

    for name in ("_write", "_delete"):
        monkeypatch.setattr(local, name, spy(getattr(local, name)))
    return changed


def lost_after(out: Location, number: int) -> Callable[[Callable[[], None]], None]:
    """Return what takes the lease over once so many changes are made."""
    left = [number]

    def act(do: Callable[[], None]) -> None:
        do()
        left[0] -= 1
        if not left[0]:
            foreign(out, number=2)

    return act


@pytest.mark.parametrize("made", [1, 3])
@pytest.mark.parametrize("kind", ["a plan of each run", "all units of a run", "all of a run", "a unit of each run"])
def test_a_lease_that_is_taken_over_between_two_repairs_stops_the_second(night, kind, made, monkeypatch):
    more = {
        "a plan of each run": lambda out: [flip(RunFolder(out, run_id).plan) for run_id in list_runs(out)],
        "all of a run": lambda out: [
            flip(place) for place in (RunFolder(out, first_run(out)).plan, *RunFolder(out, first_run(out)).units())
        ],
    }
    (DAMAGE | more)[kind](night.out)
    changed = at_changes(monkeypatch, lost_after(night.out, made))
    with pytest.raises(RunError, match=IS_GONE):
        segment_night(replace(night, check_files=True), lambda _: None)
    later = [path for path in changed[made:] if "/results/run=" not in path]  # a unit of a worker harms nobody
    assert not later
    assert len(changed) <= made + 1


def test_a_change_that_waited_until_the_lease_was_lost_is_not_made(night, monkeypatch):
    foreign_from = [3]

    def away(do: Callable[[], None]) -> None:
        foreign_from[0] -= 1
        if foreign_from[0] == 0:
            foreign(night.out, number=2)
        error = OSError(errno.EIO, "the file server is away")
        raise StorageError("it could not be written: the file server is away") from error

    run_id = first_run(night.out)
    broken = [*RunFolder(night.out, run_id).units()][:2]
    for place in broken:
        flip(place)
    before = shown(night.out)
    out = replace(night.out, patience=Patience(total_s=5, longest_wait_s=0.01))
    with hold_lease(night.out) as lease:
        changed = at_changes(monkeypatch, away)
        run = RunFolder(out, run_id)
        with pytest.raises(RunError, match=IS_GONE):
            tidy_run(run, Plan(run.plan), count_rows(run), lease)
    assert changed == [broken[0].path] * 3
    assert shown(night.out) == before
