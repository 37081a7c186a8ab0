"""The table as readers want it: whole units, without the rejected rows that a later try replaced."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from spermseg.batch.plan import Plan
from spermseg.batch.receipt import list_runs, plan_location
from spermseg.batch.results import SCHEMA, list_units, read_unit, run_of
from spermseg.errors import RunError
from spermseg.storage.filesystem import Location


def read_current(
    out: Location, columns: Sequence[str] | None = None, *, finished_only: bool = False
) -> Iterator[pa.Table]:
    """Yield the current rows of each unit file, one file at a time, so that memory does not grow with the archive.

    A row that was tried again is left out as soon as the run that tried again is finished.

    Args:
        out: the folder that `spermseg segment` wrote to.
        columns: which columns; None reads all. Leaving out `mask` and `cells` makes it light.
        finished_only: whether runs that have not finished are left out.

    Raises:
        RunError: there is no run, or a file is damaged.
    """
    runs = list_runs(out)
    if not runs:
        raise RunError(f"{out.uri} holds no run; a folder that `spermseg segment` wrote to is needed")
    replaced = replaced_ids(out)
    wanted = list(SCHEMA.names if columns is None else columns)
    for place in list_units(out):
        if runs.get(run_of(place)) or not finished_only:
            table = read_unit(place, [*wanted, *{"image_id"}.difference(wanted)])
            kept = [image_id not in replaced for image_id in table["image_id"].to_pylist()]
            yield table.filter(pa.array(kept, pa.bool_())).select(wanted)


def replaced_ids(out: Location) -> set[str]:
    """Return the image ids of the rows that the rows of a finished run replace. Plans tell: they are small."""
    finished = (run_id for run_id, is_finished in list_runs(out).items() if is_finished)
    return {image_id for run_id in finished for image_id in Plan(plan_location(out, run_id)).replaced_ids()}


def count_replaced(out: Location) -> Counter[str]:
    """Return run -> rows of it that are replaced."""
    replaced = replaced_ids(out)
    if not replaced:
        return Counter()
    plans = {run_id: Plan(plan_location(out, run_id)) for run_id in list_runs(out)}
    return Counter(
        {run_id: sum(image_id in replaced for image_id in plan.image_ids()) for run_id, plan in plans.items()}
    )
