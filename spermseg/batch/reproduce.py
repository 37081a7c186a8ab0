"""Segment a random sample of a table again, and compare the new rows with the stored ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby, islice
from typing import Any

from spermseg.batch.random_rows import draw_rows
from spermseg.batch.worker.fetch import Fetched, fetch_all
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.settings import read_settings
from spermseg.errors import ConfigError, RunError
from spermseg.model.predict import read_predict_config
from spermseg.model.saved import SavedModel, load_model
from spermseg.storage.filesystem import Location
from spermseg.table.plan import CHANGED, DENIED, GONE, Plan, Planned
from spermseg.table.receipt import list_runs
from spermseg.table.results import ADDED, OK, ResultRow, read_unit, results_table
from spermseg.table.run_folder import RunFolder

OUT_OF_REACH = (CHANGED, GONE, DENIED)
"""Reject reasons of uploads that cannot be compared."""
COMPARED = ("status", "content_sha256", "width_px", "height_px", "mask", "n_cells", "n_heads", "bits")
"""Columns that must be equal. A column in `ADDED` is compared only if the stored row has a value."""
COMPARED_OF_CELLS = ("x", "y", "width", "height", "area", "touches_border", "mask")
"""Fields of each cell that must be equal. Its confidence may differ in rounding, with the rest of the batch."""


@dataclass(frozen=True, kw_only=True, order=True)
class Sampled:
    """A row of the sample."""

    run_id: str
    unit: int
    """Number of its unit in the plan."""
    number: int
    """Its place in the unit, from 0."""


@dataclass(kw_only=True)
class DeepCheck:
    """The result of a deep check."""

    same: int = 0
    """Rows that are equal, masks bit for bit."""
    out_of_reach: int = 0
    """Rows that cannot be compared: their uploads were removed, were changed, or may not be read."""
    differences: list[str] = field(default_factory=list)
    """A line for each row that is not equal."""


class DeepVerifier:
    """Segments rows of a table again in this process, and compares them.

    Args:
        out: the table.
        model: the model that segmented the rows. None reads the model from where the plan of each run says it is.
        endpoint_url: the S3 server of the uploads and the models, if it is not AWS.

    Raises:
        ConfigError: no finished run was segmented with this model.
        RunError: there is no finished run.
    """

    def __init__(self, out: Location, model: Location | None, endpoint_url: str | None) -> None:
        self._out, self._endpoint_url = out, endpoint_url
        self._plans = {
            run_id: Plan(RunFolder(out, run_id).plan) for run_id, finished in list_runs(out).items() if finished
        }
        if not self._plans:
            raise RunError(f"{out.uri} holds no finished run; finish one with `spermseg segment`")
        self._model = load_model(model) if model else None
        if self._model:
            digest = self._model.sha256
            self._plans = {
                run: plan for run, plan in self._plans.items() if plan.metadata.get("model_sha256") == digest
            }
            if not self._plans:
                raise ConfigError(f"got the model {digest}; no finished run of {out.uri} was segmented with it")

    def draw(self, size: int, seed: int) -> list[Sampled]:
        """Draw up to `size` rows that are ok from all finished runs. All rows are equally likely."""
        units = [(run_id, unit) for run_id, plan in self._plans.items() for unit in range(plan.units)]
        sizes = [rows for plan in self._plans.values() for rows in plan.unit_sizes]
        statuses = cache(self._stored_statuses)
        ok = (
            Sampled(run_id=units[at][0], unit=units[at][1], number=place)
            for at, place in draw_rows(sizes, sum(sizes), seed)
            if statuses(*units[at])[place] == OK
        )
        return sorted(islice(ok, size))

    def _stored_statuses(self, run_id: str, unit: int) -> list[str]:
        """Return the statuses of the rows of a unit, in the order of the plan."""
        rows = self._stored_unit(run_id, unit, ("image_id", "status"))
        return [rows[one.image_id]["status"] for one in self._plans[run_id].unit(unit)]

    def check(self, sample: Sequence[Sampled], on_row: Callable[[], object]) -> DeepCheck:
        """Segment a sample again and compare.

        Args:
            sample: from `draw`.
            on_row: called after each row.

        Raises:
            ConfigError: a model file is not the one that segmented, or a plan does not name its model or settings.
            StorageError: the storage failed.
        """
        result = DeepCheck()
        for run_id, rows in groupby(sample, key=lambda one: one.run_id):
            segmenter = self._segmenter(run_id)
            for one in rows:
                self._check_row(one, segmenter, result)
                on_row()
        return result

    def _segmenter(self, run_id: str) -> UnitSegmenter:
        said = self._plans[run_id].metadata
        if not said.get("settings"):
            raise ConfigError(
                f"the plan of run {run_id} is of a version that noted no settings, which --deep needs; give no --deep"
            )
        saved = self._model or self._noted_model(run_id, said)
        config = read_predict_config(said.get("predict", "{}"))
        return UnitSegmenter(saved, read_settings(said["settings"]), config, run_id=run_id)

    def _noted_model(self, run_id: str, said: dict[str, str]) -> SavedModel:
        if not said.get("model"):
            raise ConfigError(f"the plan of run {run_id} does not say where its model is; give it with --model")
        saved = load_model(Location(said["model"], self._endpoint_url))
        if saved.sha256 != said["model_sha256"]:
            raise ConfigError(
                f"run {run_id} was segmented with the model {said['model_sha256']}, and {said['model']} now is "
                f"{saved.sha256}; give the one that segmented with --model"
            )
        return saved

    def _check_row(self, one: Sampled, segmenter: UnitSegmenter, result: DeepCheck) -> None:
        """Segment a row by itself. If it differs, segment it again with the rest of its unit.

        The last bits of the network's output depend on the rest of the batch. They decide a pixel at the threshold.
        """
        unit = self._plans[one.run_id].unit(one.unit)
        planned, stored = unit[one.number], self._stored_unit(one.run_id, one.unit)
        wanted = stored[planned.image_id]
        source = self._source(one.run_id)
        (fetched,) = fetch_all([planned], source)
        if fetched.reason in OUT_OF_REACH:
            result.out_of_reach += 1
            return
        different = _different(wanted, _segmented(segmenter, [planned], [fetched], 0))
        if different:
            whole_unit = self._fetch_unit(unit, stored, source)
            different = _different(wanted, _segmented(segmenter, unit, whole_unit, one.number))
        if different:
            result.differences.append(f"run {one.run_id}: image {planned.image_id} differs now in: {different}")
        else:
            result.same += 1

    def _fetch_unit(self, unit: Sequence[Planned], stored: dict[str, ResultRow], source: Location) -> list[Fetched]:
        """Return the bytes of a unit. Rows that are not ok are left out: they were in no batch, and may be hostile."""
        ok = [one for one in unit if stored[one.image_id]["status"] == OK]
        there = dict(zip((one.image_id for one in ok), fetch_all(ok, source), strict=True))
        return [there.get(one.image_id, Fetched(reason="rejected before")) for one in unit]

    def _source(self, run_id: str) -> Location:
        """Return where the uploads of a run were listed."""
        source = self._plans[run_id].metadata.get("input")
        if not source:
            raise RunError(
                f"the plan of run {run_id} does not say where its uploads are, which --deep needs; give no --deep"
            )
        return Location(source, self._endpoint_url)

    def _stored_unit(self, run_id: str, unit: int, columns: Sequence[str] | None = None) -> dict[str, ResultRow]:
        """Return the stored rows of a unit by image id."""
        place = RunFolder(self._out, run_id).unit(self._plans[run_id].unit_id(unit))
        return {row["image_id"]: row for row in read_unit(place, columns).to_pylist()}


def _segmented(segmenter: UnitSegmenter, unit: Sequence[Planned], fetched: Sequence[Fetched], number: int) -> ResultRow:
    """Segment a unit, and return one row as its file would hold it."""
    row: ResultRow = results_table(segmenter.segment(unit, fetched)[number : number + 1]).to_pylist()[0]
    return row


def _different(stored: ResultRow, again: ResultRow) -> str:
    """Return the names of the compared columns in which two rows differ."""
    told = [name for name in COMPARED if stored[name] is not None or name not in ADDED]
    found = [name for name in told if stored[name] != again[name]]
    if _outlines(stored) != _outlines(again):
        found.append("cells")
    return ", ".join(found)


def _outlines(row: ResultRow) -> list[list[Any]]:
    return [[cell[name] for name in COMPARED_OF_CELLS] for cell in row["cells"] or ()]
