"""What travels through the pipeline, and its first stage. No Ray; no PyTorch either: its processes start often."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from spermseg.batch.fetch import fetch_all
from spermseg.batch.plan import Plan
from spermseg.errors import StorageError, first_line
from spermseg.storage.filesystem import Location

Row = dict[str, Any]
"""A unit on its way. Where `failure` says what failed, the stages that follow hand it on as it is."""


def failure(unit: int, error: Exception) -> Row:
    """Return the row of a unit that failed: with the error as data, what other units are doing is not lost."""
    outage = isinstance(error, StorageError)
    said = first_line(error) if outage else f"{type(error).__name__}: {first_line(error)}"
    return {"unit": unit, "failure": said, "outage": outage}


@lru_cache(maxsize=1)
def open_plan(location: Location) -> Plan:
    """Open a run's plan once a process: it never changes, and a worker does many units."""
    return Plan(location)


class FetchUnits:
    """Numbers of units -> the bytes of the micrographs of each. One number, but for archives read in one pass."""

    def __init__(self, plan: Location, endpoint_url: str | None) -> None:
        self.plan, self.endpoint_url = plan, endpoint_url

    def __call__(self, row: Row) -> Iterator[Row]:
        """Fetch some units, one after the other."""
        number = row["units"][0]
        try:
            plan = open_plan(self.plan)
            planned = chain.from_iterable(map(plan.unit, row["units"]))
            fetched = fetch_all(planned, self.endpoint_url)
            for number in row["units"]:
                unit = list(islice(fetched, plan.unit_sizes[number]))
                reasons = [one.reason or "" for one in unit]
                yield {"unit": number, "failure": "", "data": [one.data for one in unit], "reasons": reasons}
        except Exception as error:  # noqa: BLE001 (it is told as data)
            yield failure(number, error)
