"""The paths of the files of a run in a table."""

from dataclasses import dataclass, replace

from spermseg.storage.filesystem import Location

FORECAST = "forecast.json"
RECEIPT = "receipt.json"
PLAN = "plan.parquet"


@dataclass(frozen=True)
class RunFolder:
    """The folders of one run: `OUT/runs/<run_id>/` for its notes, `OUT/results/run=<run_id>/` for its rows."""

    table: Location
    """`OUT`, the folder that `spermseg segment` writes to."""
    run_id: str

    def within(self, table: Location) -> "RunFolder":
        """Return the same run in another `Location` of its table, such as `Lease.fenced` returns."""
        return replace(self, table=table)

    @property
    def notes(self) -> Location:
        """The folder of plan, receipt, forecast and starts."""
        return self.table.child("runs", self.run_id)

    @property
    def plan(self) -> Location:
        """The plan."""
        return self.notes.child(PLAN)

    @property
    def receipt(self) -> Location:
        """The receipt. It exists once the run is finished."""
        return self.notes.child(RECEIPT)

    @property
    def forecast(self) -> Location:
        """The forecast. A small run has none."""
        return self.notes.child(FORECAST)

    @property
    def results(self) -> Location:
        """The folder of the unit files."""
        return self.table.child("results", f"run={self.run_id}")

    def unit(self, unit_id: str) -> Location:
        """Return the result file of a unit."""
        return self.results.child(unit_name(unit_id))

    def units(self) -> list[Location]:
        """Return the unit files that exist, in the order of their names."""
        return [Location(item.uri, self.table.endpoint_url) for item in self.results.list() if is_unit(item.key)]


def unit_name(unit_id: str) -> str:
    """Return the name of a unit's result file."""
    return f"unit-{unit_id}.parquet"


def is_unit(name: str) -> bool:
    """Whether a file of this name in the results folder of a run is a unit file."""
    return name.startswith("unit-") and name.endswith(".parquet") and "/" not in name


def is_note(name: str) -> bool:
    """Whether a file of this name in the notes folder of a run is one of its notes."""
    is_start = name.startswith("start-") and name.endswith(".json")
    return is_start or name in (PLAN, RECEIPT, FORECAST)
