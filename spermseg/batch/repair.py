"""The repair of a table at the start of a night: compare its files with its receipts, and prepare damaged runs.

A receipt has a digest of the listing of its files. One listing of all results shows which runs differ from their
receipts. Files are read only in these runs, or in all runs if the user asks for it. No sound file is lost: a file under
a wrong name is moved to the run of its rows, and a lost plan is written again from the rows of its run.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import spermseg
from spermseg.batch.misplaced_files import (
    ASIDE,
    MADE_WITH,
    find_copies,
    is_run_id,
    rename_run,
    send_home,
    set_aside,
    whole_units,
)
from spermseg.batch.night import Night
from spermseg.errors import DamagedError, ObjectMissingError
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.table.counting import count_rows
from spermseg.table.image_ids import ImageIds
from spermseg.table.lease import Lease
from spermseg.table.plan import PASSED_OVER, RETRY, Plan, Planned, encode_plan
from spermseg.table.receipt import (
    files_digest,
    list_runs,
    read_receipt,
    store_receipt,
)
from spermseg.table.results import (
    REJECTED,
    SCHEMA_VERSION,
    list_results,
    without_advice,
)
from spermseg.table.run_folder import RunFolder, is_unit
from spermseg.table.verify import contradictions, differences, makers

logger = logging.getLogger(__name__)

REBUILT = {"rebuilt": "yes"}
"""Metadata of a plan that was written again from rows. Rows do not say how to fetch their uploads."""


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run with the model and settings of this night, as found in the table."""

    run_id: str
    plan: dict[str, str]
    """The metadata of its plan."""
    differs: bool
    """Whether its files differ from its receipt."""
    ids: ImageIds
    """Image ids of the planned micrographs."""
    finished: bool
    """Whether each planned micrograph has its row, and the receipt says so."""
    here: bool
    """Whether this night can complete it: it is over the input of this night, or lacks only its receipt."""
    rejected: bool
    """Whether it may have rejected rows."""

    @property
    def is_retry(self) -> bool:
        """Whether the run is over uploads that were rejected before."""
        return self.plan.items() >= RETRY.items()


def survey_runs(night: Night, lease: Lease) -> list[KnownRun]:
    """Repair what needs no new rows, and return the runs with the model and settings of this night, oldest first.

    Damaged files of other models or settings are only named in a warning.

    Raises:
        StorageError: the table could not be read.
        RunError: another job has taken the table over, or a later version wrote it.
    """
    return _Survey(night, lease).runs()


@dataclass
class _Survey:
    night: Night
    lease: Lease
    files: dict[str, list[StoredObject]] = field(init=False)
    """Files in the results folder of each run."""
    ids: set[str] = field(init=False)
    """Ids of all runs that have a file in the table, whatever their model."""

    @property
    def table(self) -> Location:
        """The table for changes: each first checks the lease."""
        return self.lease.fenced(self.night.out)

    def _run(self, run_id: str) -> RunFolder:
        """Return a run for reading."""
        return RunFolder(self.night.out, run_id)

    def _own(self, run_id: str) -> RunFolder:
        """Return a run for changes: each first checks the lease."""
        return RunFolder(self.table, run_id)

    def runs(self) -> list[KnownRun]:
        self.files = list_results(self.night.out)
        found = list_runs(self.night.out)
        without = {run_id: False for run_id, files in self.files.items() if any(is_unit(item.key) for item in files)}
        self.ids = {run_id for run_id in (*without, *found) if run_id}
        known = [self._know(run_id, found.get(run_id, False)) for run_id in sorted(self.ids)]
        kept = self._without_copies([run for run in known if run])
        for run in kept:
            if run.differs:
                advice = "it is completed again" if run.here else "segment its own input to mend it"
                logger.warning("run %s: its files differ from its receipt; %s", run.run_id, advice)
        return kept

    def _without_copies(self, known: list[KnownRun]) -> list[KnownRun]:
        copies = find_copies(self.night.out, {run.run_id: run.ids for run in known})
        for run_id, origin in copies.items():
            self._drop_copy(run_id, origin)
        return [run for run in known if run.run_id not in copies]

    def _drop_copy(self, run_id: str, origin: str) -> None:
        send_home(self._own(run_id), self.ids)
        set_aside(self._own(run_id))
        aside = self.night.out.child(ASIDE, run_id).uri
        logger.warning("run %s: it is a copy of run %s; it was moved to %s", run_id, origin, aside)

    def _know(self, run_id: str, has_receipt: bool) -> KnownRun | None:
        """Return a run, repaired; None if it has another model or other settings, or was moved out of the table."""
        receipt = self._receipt(run_id) if has_receipt else None
        if receipt and _is_of(self.night, receipt) and (home := self._free_home(run_id, {str(receipt.get("run_id"))})):
            return self._renamed(run_id, home)
        try:
            plan = self._plan(run_id, receipt)
        except (DamagedError, ObjectMissingError) as error:
            _tell(run_id, error)
            return self._rebuilt(run_id, receipt)
        if plan is None:
            return None
        finished = receipt is not None and self._is_as_it_says(run_id, plan, receipt)
        if not finished and plan.metadata.items() >= REBUILT.items():
            return self._rebuilt(run_id, receipt)
        return self._known(run_id, plan, receipt, finished=finished)

    def _plan(self, run_id: str, receipt: dict[str, Any] | None) -> Plan | None:
        """Read the whole plan of a run. Return None if the run has another model or other settings.

        If its receipt has other ones too, only the directory of the plan is read.
        """
        place = self._run(run_id).plan
        if receipt and not self.night.check_files and not _is_of(self.night, receipt):
            brief = Plan(place)
            if not _is_of(self.night, brief.metadata):
                return None
        plan = Plan(place, whole=True)
        return plan if _is_of(self.night, plan.metadata) else None

    def _known(self, run_id: str, plan: Plan, receipt: dict[str, Any] | None, *, finished: bool) -> KnownRun:
        said = plan.metadata
        return KnownRun(
            run_id=run_id,
            plan=said,
            differs=receipt is not None and not finished,
            ids=ImageIds(plan.column("image_id")),
            finished=finished,
            here=self._is_here(said),
            rejected=not receipt or bool(receipt.get(REJECTED)),
        )

    def _is_here(self, said: dict[str, str]) -> bool:
        return said.get("input") == self.night.source.uri or said.items() >= REBUILT.items()

    def _receipt(self, run_id: str) -> dict[str, Any] | None:
        try:
            return read_receipt(self._run(run_id))
        except DamagedError as error:
            _tell(run_id, error)
            return None

    def _is_as_it_says(self, run_id: str, plan: Plan, receipt: dict[str, Any]) -> bool:
        """Whether a run has all its rows. The files are read only if the listing does not prove it."""
        files = [item for item in self.files.get(run_id, ()) if is_unit(item.key)]
        if not self.night.check_files and _fits(files, plan, receipt):
            return True
        count = count_rows(self._run(run_id))
        wrong = (differences(plan, count), makers(run_id, plan, count))
        if [*chain(*wrong), *contradictions(receipt, plan, count, renewed=True)]:
            return False
        shown = {"files_sha256": files_digest(files), "plan_sha256": plan.seal}
        if any(receipt.get(name) != value for name, value in shown.items()):  # in a copy of the table, for example
            store_receipt(self._own(run_id), {**receipt, **shown, "schema_version": SCHEMA_VERSION})
        return True

    def _free_home(self, run_id: str, named: set[str]) -> str | None:
        """Return the right id of a run whose folder has a wrong one. None if the id is right, or another run has it."""
        home = next(iter(named)) if len(named) == 1 else run_id
        return home if home != run_id and is_run_id(home) and home not in self.ids else None

    def _renamed(self, run_id: str, home: str) -> KnownRun | None:
        rename_run(self._own(run_id), self._own(home))
        logger.warning("run %s: it is run %s under a wrong name; it was moved back to its own", run_id, home)
        self.ids.add(home)
        self.files[home] = list(self._run(home).results.list())
        return self._know(home, list_runs(self.night.out).get(home, False))

    def _rebuilt(self, run_id: str, receipt: dict[str, Any] | None) -> KnownRun | None:
        """Write the plan of a run again from its rows. A new run plans the uploads that have no row."""
        found = whole_units(self._run(run_id))
        if receipt:
            found.runs.add(str(receipt.get("run_id")))
            found.makers.add(tuple(str(receipt.get(name)) for name in MADE_WITH))
        if found.makers - {tuple(self.night.model_and_settings[name] for name in MADE_WITH)}:
            logger.warning("run %s was left, as it is of another model or other settings: segment with these", run_id)
            return None
        if not found.own:
            return self._given_up(run_id, receipt, found.runs)
        units = list(found.own.values())
        data, planned = encode_plan(units, self._metadata(run_id, receipt, units))
        self._own(run_id).plan.write_bytes(data)
        logger.warning(
            "run %s: its plan is written again from its %d rows; it had planned %s; what has no row is planned anew",
            *(run_id, planned, _planned(receipt)),
        )
        plan = Plan(self._run(run_id).plan, whole=True)
        return self._known(run_id, plan, None, finished=False)

    def _given_up(self, run_id: str, receipt: dict[str, Any] | None, named: set[str]) -> KnownRun | None:
        """Rename a run without a plan and without rows of its own, or move it out of the table.

        Args:
            run_id: id of its folder.
            receipt: its receipt, if that can be read.
            named: the runs that its rows and its receipt name.
        """
        if home := self._free_home(run_id, named):
            return self._renamed(run_id, home)
        if named and named <= self.ids - {run_id}:
            self._drop_copy(run_id, ", ".join(sorted(named)))
            return None
        send_home(self._own(run_id), self.ids)
        set_aside(self._own(run_id))
        logger.warning(
            "run %s: neither its plan nor one of its rows can be read; what is left of it was moved to %s. It had "
            "planned %s: uploads that are still there are planned anew, and rows of others are lost",
            *(run_id, self.night.out.child(ASIDE).uri, _planned(receipt)),
        )
        return None

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


def _tell(run_id: str, error: DamagedError | ObjectMissingError) -> None:
    """Log what is wrong with a file, without the advice to repair it: this command repairs it."""
    logger.warning("run %s: %s", run_id, without_advice(error.message))


def _planned(receipt: dict[str, Any] | None) -> object:
    return (receipt or {}).get("planned", "an unknown number")


def _is_of(night: Night, said: Mapping[str, Any]) -> bool:
    return night.model_and_settings.items() <= said.items()


def _fits(files: Sequence[StoredObject], plan: Plan, receipt: dict[str, Any]) -> bool:
    """Whether a listing proves that a run is as its receipt says. A receipt of an earlier version has no digest."""
    if receipt.get("files_sha256"):
        return (files_digest(files), plan.seal) == (receipt["files_sha256"], receipt.get("plan_sha256"))
    names, size = {item.key for item in files}, sum(item.size for item in files)
    return names == set(plan.unit_files()) and size == receipt.get("table_bytes")


def _moment_of(run_id: str) -> str:
    """Return the time at which a run was planned, from its id."""
    stamp = run_id.partition("-")[0]
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:15]}+00:00"
