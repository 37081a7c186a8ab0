"""A table as a night finds it: what lies there compared with what its runs say, and made ready to be completed.

A receipt says what a listing showed of its files. One listing of all results tells where that is so no more; only
there, or where a person asks for it, files are read. Nothing that is whole is lost: a file under a wrong name is moved
to where its rows belong, and a plan that is lost is written again from the rows of its run.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import spermseg
from spermseg.batch.counting import Count, count_rows
from spermseg.batch.ids import ImageIds
from spermseg.batch.lease import Lease
from spermseg.batch.night import Night
from spermseg.batch.plan import MOST_BYTES, PASSED_OVER, RETRY, Plan, Planned, encode_plan
from spermseg.batch.receipt import (
    files_digest,
    list_runs,
    plan_location,
    read_receipt,
    run_folder,
    store_receipt,
)
from spermseg.batch.results import (
    REJECTED,
    SCHEMA_VERSION,
    is_unit,
    list_results,
    list_units,
    read_unit,
    right_name,
    run_results,
    unit_name,
)
from spermseg.batch.verify import contradictions, differences, makers
from spermseg.errors import DamagedError, ObjectExistsError, ObjectMissingError
from spermseg.storage.filesystem import Location, StoredObject

logger = logging.getLogger(__name__)

REBUILT = {"rebuilt": "yes"}
"""What a plan says that was written again from rows, which do not tell how to fetch their uploads."""
OF_A_PLAN = ("image_id", "uri", "member", "group", "retry_of")
MADE_WITH = ("model_sha256", "recipe_sha256")
ASIDE = "damaged"
"""Folder of the table with what could not be read of runs that are lost; nothing reads it, and it may be deleted."""


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run of this night's model and settings, as it was found."""

    run_id: str
    plan: dict[str, str]
    """What its plan says of itself."""
    ids: ImageIds
    """Of the micrographs that it planned."""
    finished: bool
    """Each of them has its row, and the receipt says so."""
    here: bool
    """What it lacks can be done now: it is over this night's input, or lacks a receipt only."""
    rejected: bool
    """It may have rejected rows."""

    @property
    def is_retry(self) -> bool:
        """Whether it is over uploads that were rejected before."""
        return self.plan.items() >= RETRY.items()


def survey_runs(night: Night, lease: Lease) -> list[KnownRun]:
    """Return the runs of this night's model and settings, oldest first, and whether each is as its receipt says.

    Of other models and settings, a damaged file is named in a warning, and left.

    Raises:
        StorageError: the table could not be read.
        RunError: it is another job's by now, or of a later version.
    """
    return list(_Survey(night, lease).runs())


@dataclass
class _Survey:
    night: Night
    lease: Lease
    files: dict[str, list[StoredObject]] = field(init=False)
    """Run -> what lies in its folder of results."""

    @property
    def table(self) -> Location:
        """The table, to change it."""
        return self.lease.fenced(self.night.out)

    def runs(self) -> Iterator[KnownRun]:
        self.files = list_results(self.night.out)
        found = list_runs(self.night.out)
        without = {run_id: False for run_id, files in self.files.items() if any(is_unit(item.key) for item in files)}
        for run_id, has_receipt in sorted({**without, **found}.items()):
            if run_id and (known := self._know(run_id, has_receipt)):
                yield known

    def _know(self, run_id: str, has_receipt: bool) -> KnownRun | None:
        try:
            plan = Plan(plan_location(self.night.out, run_id), whole=True)
        except (DamagedError, ObjectMissingError) as error:
            logger.warning("run %s: %s", run_id, error.message)
            return self._rebuilt(run_id, self._receipt(run_id))
        if not _is_of(self.night, plan.metadata):
            return None
        receipt = self._receipt(run_id) if has_receipt else None
        finished = receipt is not None and self._is_as_it_says(run_id, plan, receipt)
        if not finished and plan.metadata.items() >= REBUILT.items():
            return self._rebuilt(run_id, receipt)
        return self._known(run_id, plan, finished=finished, rejected=not receipt or bool(receipt.get(REJECTED)))

    def _known(self, run_id: str, plan: Plan, *, finished: bool, rejected: bool = True) -> KnownRun:
        said = plan.metadata
        return KnownRun(
            run_id=run_id,
            plan=said,
            ids=ImageIds(plan.column("image_id")),
            finished=finished,
            here=self._is_here(said),
            rejected=rejected,
        )

    def _is_here(self, said: dict[str, str]) -> bool:
        return said.get("input") == self.night.source.uri or said.items() >= REBUILT.items()

    def _receipt(self, run_id: str) -> dict[str, Any] | None:
        try:
            return read_receipt(self.night.out, run_id)
        except DamagedError as error:
            logger.warning("run %s: %s", run_id, error.message)
            return None

    def _is_as_it_says(self, run_id: str, plan: Plan, receipt: dict[str, Any]) -> bool:
        """Whether a finished run has its rows; where the listing does not say so, its files are read."""
        files = [item for item in self.files.get(run_id, ()) if is_unit(item.key)]
        if not self.night.check_files and _fits(files, plan, receipt):
            return True
        count = count_rows(self.night.out, run_id)
        wrong = (differences(plan, count), makers(run_id, plan, count))
        if [*chain(*wrong), *contradictions(receipt, plan, count, renewed=True)]:
            again = "it is completed again" if self._is_here(plan.metadata) else "segment its own input to mend it"
            logger.warning("run %s: what lies there is not what its receipt says; %s", run_id, again)
            return False
        shown = {"files_sha256": files_digest(files), "plan_sha256": plan.seal}
        if any(receipt.get(name) != value for name, value in shown.items()):  # a copy of the table, say
            store_receipt(self.table, run_id, {**receipt, **shown, "schema_version": SCHEMA_VERSION})
        return True

    def _rebuilt(self, run_id: str, receipt: dict[str, Any] | None) -> KnownRun | None:
        """Write the plan of a run again from its rows; what it planned and has no row is planned anew tonight."""
        units, makers = _whole_units(self.night.out, run_id)
        makers |= {tuple(str(receipt.get(name)) for name in MADE_WITH)} if receipt else set()
        if makers - {tuple(self.night.model_and_settings[name] for name in MADE_WITH)}:
            logger.warning("run %s is of another model or other settings, with which segment mends it; left", run_id)
            return None
        if not units:
            _set_aside(self.table, run_id)
            logger.warning(
                "run %s: neither its plan nor one of its rows can be read; what is left of it was moved to %s. It had "
                "planned %s: uploads that are still there are planned anew, and rows of others are lost",
                *(run_id, self.night.out.child(ASIDE).uri, (receipt or {}).get("planned", "an unknown number")),
            )
            return None
        data, planned = encode_plan(units, self._metadata(run_id, receipt, units))
        plan_location(self.table, run_id).write_bytes(data)
        wanted = (receipt or {}).get("planned", "an unknown number")
        logger.warning(
            "run %s: its plan is written again from its %d rows; it had planned %s; what has no row is planned anew",
            *(run_id, planned, wanted),
        )
        return self._known(run_id, Plan(plan_location(self.night.out, run_id), whole=True), finished=False)

    def _metadata(self, run_id: str, receipt: dict[str, Any] | None, units: Sequence[list[Planned]]) -> dict[str, str]:
        night, said = self.night, receipt or {}
        inside = all(night.source.holds(one.uri) for unit in units for one in unit)
        return {
            "input": str(said.get("input") or (night.source.uri if inside else "")),
            **night.model_and_settings,
            "version": str(said.get("version") or spermseg.__version__),
            "started": str(said.get("started") or _moment_of(run_id)),
            "settings": night.settings.text,
            "model": str(said.get("model") or night.model_uri),
            "predict": night.predict.text,
            "arguments": json.dumps(night.arguments),
            PASSED_OVER: json.dumps(said.get(PASSED_OVER) or {}),
            **(RETRY if any(one.retry_of for unit in units for one in unit) else {}),
            **REBUILT,
        }


def tidy_run(out: Location, run_id: str, plan: Plan, count: Count, lease: Lease) -> None:
    """Make room for the units that a run lacks: what cannot be read is deleted, what lies wrong goes where it belongs.

    That is only ever a run that the table has: which one rows name is the word of whoever wrote the file.

    Args:
        out: the table.
        run_id: the run.
        plan: its plan.
        count: of its files; afterwards it has the units that were brought back.
        lease: of the table; it is looked at before each change.
    """
    out = lease.fenced(out)
    folder, planned = run_results(out, run_id), {unit_name(unit_id) for unit_id in plan.unit_ids()}
    known = {run_id, *list_runs(out)}
    for name in count.damaged:
        folder.child(name).delete()
    for name, (maker, right) in count.homes.items():
        if maker == run_id and name in planned and name == right:
            continue
        count.units.discard(name)
        if maker in known:
            _bring_home(folder.child(name), run_results(out, maker).child(right))
            count.units.update({right} if maker == run_id else ())
        elif name in planned:
            logger.warning("run %s: %s holds rows of a run that the table does not have; it is deleted", run_id, name)
            folder.child(name).delete()


def _bring_home(place: Location, home: Location) -> None:
    if place.uri != home.uri:
        with suppress(ObjectExistsError):  # it is a copy of what lies there
            home.write_bytes(place.read_bytes(), only_if_absent=True)
        place.delete()


def _is_of(night: Night, said: dict[str, str]) -> bool:
    return night.model_and_settings.items() <= said.items()


def _fits(files: Sequence[StoredObject], plan: Plan, receipt: dict[str, Any]) -> bool:
    """Whether a listing shows what a receipt says; one of an earlier version says how many bytes there are."""
    if receipt.get("files_sha256"):
        return (files_digest(files), plan.seal) == (receipt["files_sha256"], receipt.get("plan_sha256"))
    names, size = {item.key for item in files}, sum(item.size for item in files)
    return names == set(map(unit_name, plan.unit_ids())) and size == receipt.get("table_bytes")


def _whole_units(out: Location, run_id: str) -> tuple[list[list[Planned]], set[tuple[str, ...]]]:
    """Return (the units of a run that can be read, as far as rows tell how they were planned; what made them)."""
    units: dict[str, list[Planned]] = {}
    makers: set[tuple[str, ...]] = set()
    for place in list_units(out, run_id):
        with suppress(DamagedError):
            rows = read_unit(place, (*OF_A_PLAN, *MADE_WITH, "run_id"), thorough=True).to_pylist()
            if {row["run_id"] for row in rows} != {run_id}:  # a copy of another run's, which has its home there
                continue
            makers |= {tuple(row[name] for name in MADE_WITH) for row in rows}
            unit = [Planned(**{name: row[name] for name in OF_A_PLAN}, size=0, data_size=0, etag="") for row in rows]
            units[right_name(one.image_id for one in unit)] = unit
    return list(units.values()), makers


def _set_aside(out: Location, run_id: str) -> None:
    """Move a run of which nothing can be read out of the table; its receipt first: it stands for what is not there."""
    for folder in (run_folder(out, run_id), run_results(out, run_id)):
        for item in sorted(folder.list(), key=lambda item: not item.key.endswith("receipt.json")):
            place = folder.child(item.key)
            with suppress(DamagedError):  # so large that it is none of ours
                out.child(ASIDE, run_id, item.key).write_bytes(place.read_bytes(MOST_BYTES))
            place.delete()


def _moment_of(run_id: str) -> str:
    """Return when a run was planned, as its id says."""
    stamp = run_id.partition("-")[0]
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:15]}+00:00"
