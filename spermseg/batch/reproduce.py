"""A random sample of a table segmented again, and compared with what its rows say."""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

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
"""Why an upload cannot be compared."""
COMPARED = ("status", "content_sha256", "width_px", "height_px", "mask", "n_cells", "n_heads", "bits")
"""Columns that must be the same; of those in `ADDED`, where the row has a value."""
COMPARED_OF_CELLS = ("x", "y", "width", "height", "area", "touches_border", "mask")
"""Fields of each cell that must be; its confidence differs in rounding by what else was in the batch."""


@dataclass(frozen=True, kw_only=True, order=True)
class Sampled:
    """A row of the sample."""

    run_id: str
    unit: int
    """Its unit of work in the run's plan."""
    number: int
    """Its place in the unit."""


@dataclass(kw_only=True)
class DeepCheck:
    """What segmenting a sample again has shown."""

    same: int = 0
    """Rows whose masks are the same, bit for bit."""
    out_of_reach: int = 0
    """Rows of which nothing can be said: their uploads are gone, others by now, or not to be read."""
    differences: list[str] = field(default_factory=list)
    """A line for each row that is not the same."""


class DeepVerifier:
    """Segments rows of a table again, in this process, and compares.

    Args:
        out: the table.
        model: the model that segmented; None reads it where each run's plan says that it was.
        endpoint_url: the S3 server of the uploads and the models, where it is not AWS.

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
        """Return up to so many rows that are ok, drawn from all finished runs, each as likely as any other."""
        units = [(run_id, unit) for run_id, plan in self._plans.items() for unit in range(plan.units)]
        ends = list(accumulate(size for plan in self._plans.values() for size in plan.unit_sizes))
        statuses: dict[int, list[str]] = {}
        found: list[Sampled] = []
        for row in random.Random(seed).sample(range(ends[-1]), ends[-1]):  # noqa: S311 (no secret)
            at = bisect_right(ends, row)
            (run_id, unit), number = units[at], row - (ends[at - 1] if at else 0)
            if at not in statuses:
                rows = self._stored_unit(run_id, unit, ("image_id", "status"))
                statuses[at] = [rows[one.image_id]["status"] for one in self._plans[run_id].unit(unit)]
            if statuses[at][number] == OK:
                found.append(Sampled(run_id=run_id, unit=unit, number=number))
            if len(found) == size:
                break
        return sorted(found)

    def check(self, sample: Sequence[Sampled], on_row: Callable[[], object]) -> DeepCheck:
        """Segment a sample again and compare.

        Args:
            sample: from `draw`.
            on_row: called for each row that is done.

        Raises:
            ConfigError: a model file is not the one that segmented, or a plan is of a version that did not name it.
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
            raise ConfigError(f"run {run_id} is of a version that did not note its settings, which --deep needs")
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
        """Segment a row by itself and, where that differs, in the company that it had.

        A network's last bits depend on what else is in the batch, and a pixel that lies at the threshold on them.
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
            company = self._fetch_company(unit, stored, source)
            different = _different(wanted, _segmented(segmenter, unit, company, one.number))
        if different:
            result.differences.append(f"run {one.run_id}: image {planned.image_id} now has another {different}")
        else:
            result.same += 1

    def _fetch_company(self, unit: Sequence[Planned], stored: dict[str, ResultRow], source: Location) -> list[Fetched]:
        """Return the bytes of the unit's rows that are ok. The others were in no batch, and may be hostile."""
        ok = [one for one in unit if stored[one.image_id]["status"] == OK]
        there = dict(zip((one.image_id for one in ok), fetch_all(ok, source), strict=True))
        return [there.get(one.image_id, Fetched(reason="rejected before")) for one in unit]

    def _source(self, run_id: str) -> Location:
        """Return where the uploads of a run were listed."""
        source = self._plans[run_id].metadata.get("input")
        if not source:
            raise RunError(f"the plan of run {run_id} does not say where its uploads lay, which --deep needs")
        return Location(source, self._endpoint_url)

    def _stored_unit(self, run_id: str, unit: int, columns: Sequence[str] | None = None) -> dict[str, ResultRow]:
        """Return image id -> row of a unit."""
        place = RunFolder(self._out, run_id).unit(self._plans[run_id].unit_id(unit))
        return {row["image_id"]: row for row in read_unit(place, columns).to_pylist()}


def _segmented(segmenter: UnitSegmenter, unit: Sequence[Planned], fetched: Sequence[Fetched], number: int) -> ResultRow:
    """Return a row of a unit as its file would hold it."""
    row: ResultRow = results_table(segmenter.segment(unit, fetched)[number : number + 1]).to_pylist()[0]
    return row


def _different(stored: ResultRow, again: ResultRow) -> str:
    """Return the names of the columns in which two rows differ, and must not."""
    told = [name for name in COMPARED if stored[name] is not None or name not in ADDED]
    found = [name for name in told if stored[name] != again[name]]
    if _outlines(stored) != _outlines(again):
        found.append("cells")
    return ", ".join(found)


def _outlines(row: ResultRow) -> list[list[Any]]:
    return [[cell[name] for name in COMPARED_OF_CELLS] for cell in row["cells"] or ()]
