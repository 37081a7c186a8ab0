"""Where the files of a run lie in a table. All paths below OUT that belong to a run are here."""

from dataclasses import dataclass, replace

from spermseg.storage.filesystem import Location

FORECAST = "forecast.json"
RECEIPT = "receipt.json"
PLAN = "plan.parquet"


@dataclass(frozen=True)
class RunFolder:
    """One run of a table: its notes in `OUT/runs/<run_id>/`, and its rows in `OUT/results/run=<run_id>/`."""

    table: Location
    """OUT, the folder that `spermseg segment` writes to."""
    run_id: str

    def within(self, table: Location) -> "RunFolder":
        """Return the same run of a table that is reached another way, as through a lease."""
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
        """The receipt, which is there once the run is finished."""
        return self.notes.child(RECEIPT)

    @property
    def forecast(self) -> Location:
        """The forecast, where one was made."""
        return self.notes.child(FORECAST)

    @property
    def results(self) -> Location:
        """The folder of the unit files."""
        return self.table.child("results", f"run={self.run_id}")

    def unit(self, unit_id: str) -> Location:
        """The result file of a unit."""
        return self.results.child(unit_name(unit_id))

    def units(self) -> list[Location]:
        """Return the unit files that are there, in the order of their names."""
        return [Location(item.uri, self.table.endpoint_url) for item in self.results.list() if is_unit(item.key)]


def unit_name(unit_id: str) -> str:
    """Return the name of a unit's result file."""
    return f"unit-{unit_id}.parquet"


def is_unit(name: str) -> bool:
    """Whether this is how a unit's result file is named, in the folder of its run."""
    return name.startswith("unit-") and name.endswith(".parquet") and "/" not in name


def is_note(name: str) -> bool:
    """Whether a file of this name lies in the folder of a run's notes."""
    is_start = name.startswith("start-") and name.endswith(".json")
    return is_start or name in (PLAN, RECEIPT, FORECAST)
