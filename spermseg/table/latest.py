"""The current rows of a table: all rows except rejected ones that a later run replaced."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from spermseg.errors import DamagedError, ObjectMissingError
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Plan
from spermseg.table.receipt import list_runs, require_runs
from spermseg.table.results import MEND, SCHEMA, list_units, read_unit, right_name, run_of
from spermseg.table.run_folder import RunFolder

OnDamage = Callable[[str], object]
"""Called with one line for each file that is left out, instead of an exception, so that the other files are read."""


def read_current(
    out: Location,
    columns: Sequence[str] | None = None,
    *,
    finished_only: bool = False,
    on_damage: OnDamage | None = None,
) -> Iterator[pa.Table]:
    """Yield the current rows of each unit file. One file is in memory at a time.

    A rejected row is left out once a finished run has tried its upload again.

    Args:
        out: the folder that `spermseg segment` wrote to.
        columns: the columns to return; None returns all. `mask` and `cells` take most of the memory.
        finished_only: whether to leave out the runs that have not finished.
        on_damage: called for each file that is left out because it is damaged or a copy; None raises an error.

    Raises:
        RunError: the table has no run, or a file has a later schema version.
        DamagedError: a file is damaged or a copy, and `on_damage` is None.
        StorageError: a file could not be read.
    """
    runs = require_runs(out)
    on_damage = on_damage or _raise
    replaced = replaced_ids(out, on_damage)
    wanted = list(SCHEMA.names if columns is None else columns)
    needed = [*wanted, *(name for name in ("image_id", "run_id") if name not in wanted)]
    for place in list_units(out):
        is_left_out = finished_only and not runs.get(run_of(place))
        table = None if is_left_out else _read(place, needed, on_damage)
        if table is not None:
            kept = [image_id not in replaced for image_id in table["image_id"].to_pylist()]
            yield table.filter(pa.array(kept, pa.bool_())).select(wanted)


def _raise(line: str) -> None:
    raise DamagedError(line)


def _read(place: Location, columns: Sequence[str], on_damage: OnDamage) -> pa.Table | None:
    """Return a unit; None if it is damaged, or a copy whose rows belong to another file and would appear twice."""
    try:
        table = read_unit(place, columns)
    except DamagedError as error:
        on_damage(error.message)
        return None
    home = (right_name(table["image_id"].to_pylist()), set(table["run_id"].to_pylist()))
    if home == (place.name, {run_of(place)}):
        return table
    on_damage(f"{place.uri} holds rows that belong to another file or run, and is left out; {MEND}")
    return None


def replaced_ids(out: Location, on_damage: OnDamage = _raise) -> set[str]:
    """Return the image ids of the rows that a finished run has replaced. They are read from the plans."""
    finished = [run_id for run_id, is_finished in list_runs(out).items() if is_finished]
    return {image_id for _, plan in _plans(out, finished, on_damage) for image_id in plan.replaced_ids()}


def count_replaced(out: Location, on_damage: OnDamage = _raise) -> Counter[str]:
    """Return run id -> number of its rows that a finished run has replaced."""
    replaced = replaced_ids(out, on_damage)
    if not replaced:
        return Counter()
    plans = _plans(out, list_runs(out), on_damage)
    return Counter({run_id: sum(image_id in replaced for image_id in plan.image_ids()) for run_id, plan in plans})


def _plans(out: Location, runs: Iterable[str], on_damage: OnDamage) -> Iterator[tuple[str, Plan]]:
    """Yield (run id, plan) for each run whose plan can be read. One plan is in memory at a time."""
    for run_id in runs:
        try:
            plan = Plan(RunFolder(out, run_id).plan, whole=True)
        except DamagedError as error:
            on_damage(error.message)
        except ObjectMissingError:
            on_damage(f"run {run_id} has no plan; {MEND}")
        else:
            yield run_id, plan
