"""The plan of a new run: which uploads it segments."""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

import spermseg
from spermseg.batch.group_limit import within_group_limit
from spermseg.batch.listing import list_uploads
from spermseg.batch.night import Night
from spermseg.batch.repair import KnownRun
from spermseg.batch.worker.loss_limits import Tried, how_far
from spermseg.errors import ConfigError, ObjectExistsError
from spermseg.storage.filesystem import Location
from spermseg.table.image_ids import ImageIds
from spermseg.table.lease import Lease
from spermseg.table.plan import PASSED_OVER, RETRY, Planned, encode_plan, retry_id, split_units
from spermseg.table.results import REJECTED, read_unit
from spermseg.table.run_folder import RunFolder

SHOWN_EVERY = 1000
"""Uploads between two calls of `OnListed`."""

OnListed = Callable[[int], None]
"""Called with the number of uploads listed so far."""


def plan_run(
    night: Night, started: datetime, lease: Lease, known: Sequence[KnownRun], on_listed: OnListed = lambda _: None
) -> str | None:
    """Store the plan of a new run: over the uploads without a row, or on request over those whose row is rejected.

    Memory grows with the uploads only by the ids that are done, the directory of the plan, and the plan as stored.

    Args:
        night: what is to be done.
        started: when the command started.
        lease: of the table.
        known: the runs of this model and these settings, from `survey_runs`.
        on_listed: called now and then while uploads are listed.

    Returns:
        The id of the new run; None if there is nothing to do.

    Raises:
        ConfigError: the input holds no file, or an unfinished run over another input has planned one of the uploads.
        RunError: another job has taken the table over.
    """
    todo = _Todo(night, known)
    units = split_units(todo.uploads(on_listed), night.unit_micrographs)
    data, planned = encode_plan(units, _metadata(night, started), todo.notes)
    if planned == 0:
        todo.check_input()
        return None
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    _write_once(RunFolder(lease.fenced(night.out), run_id).plan, data)
    return run_id


class _Todo:
    """The uploads that a new run has to segment.

    Args:
        night: what is to be done.
        known: the runs of this model and these settings.
    """

    def __init__(self, night: Night, known: Sequence[KnownRun]) -> None:
        self._night, self._known = night, known
        self._finished = ImageIds.union(run.ids for run in known if run.finished)
        self._unfinished = {run.run_id: run.ids for run in known if not run.finished}
        self._passed_over: Counter[str] = Counter()

    def uploads(self, on_listed: OnListed) -> Iterator[Planned]:
        """Return the uploads in the order of the plan. Those beyond the limit of their group have a reject reason."""
        night = self._night
        found = list_uploads(night.source, night.identity, self._passed_over, night.max_unpacked)
        listed = _counted(found, on_listed)
        if night.retry_rejected:
            todo = _to_retry(listed, self._finished, _rejected(night, self._known))
        else:
            todo = (one for one in listed if one.image_id not in self._finished)
        limits = night.max_megapixels_per_group, night.settings.max_megapixels
        return within_group_limit(_free(todo, self._unfinished), night.source, *limits)

    def notes(self) -> dict[str, str]:
        """Return the metadata that is known once all uploads are listed: the files that were passed over."""
        return {PASSED_OVER: json.dumps(self._passed_over)}

    def check_input(self) -> None:
        """Check, where nothing was planned, that the input holds a file. Only later nights may find nothing new.

        Raises:
            ConfigError: the input holds no file, and no run is finished.
        """
        if self._finished or self._night.retry_rejected:
            return
        beside = "".join(f" ({count} {kind} were passed over)" for kind, count in sorted(self._passed_over.items()))
        raise ConfigError(
            f"got {self._night.source.uri}, which holds no file{beside}; a folder with micrographs is needed"
        )


def _metadata(night: Night, started: datetime) -> dict[str, str]:
    """Return the metadata of a plan, with which its run can be continued, verified and reproduced."""
    return {
        "input": night.source.uri,
        **night.model_and_settings,
        "version": spermseg.__version__,
        "started": started.isoformat(timespec="seconds"),
        "settings": night.settings.text,
        "model": night.model_uri,
        "predict": night.predict.text,
        "arguments": json.dumps(night.arguments),
        **(RETRY if night.retry_rejected else {}),
    }


def _write_once(place: Location, data: bytes) -> None:
    """Store a plan. A repeated request, after an answer that came too late, may find the same plan already stored."""
    try:
        place.write_bytes(data, only_if_absent=True)
    except ObjectExistsError:
        if place.read_bytes() != data:
            raise


def _counted(planned: Iterable[Planned], on_listed: OnListed) -> Iterator[Planned]:
    number = 0
    for number, one in enumerate(planned, start=1):
        if number % SHOWN_EVERY == 0:
            on_listed(number)
        yield one
    on_listed(number)


def _free(planned: Iterable[Planned], unfinished: dict[str, ImageIds]) -> Iterator[Planned]:
    """Yield the planned uploads.

    Raises:
        ConfigError: an unfinished run over another input has planned one of them too.
    """
    for one in planned:
        for run_id, ids in unfinished.items():
            if one.image_id in ids:
                raise ConfigError(
                    f"{one.uri} is planned by run {run_id}, which has not finished; segment the input of that run "
                    f"again, or delete runs/{run_id} and results/run={run_id}"
                )
        yield one


def _rejected(night: Night, known: Sequence[KnownRun]) -> list[ImageIds]:
    """Return the image ids of the rejected rows of finished runs: one set for each value of `Tried`."""
    some = [run.run_id for run in known if run.finished and run.rejected]
    places = chain.from_iterable(RunFolder(night.out, run_id).units() for run_id in some)
    tables = (read_unit(place, ("image_id", "status", "reason")) for place in places)
    found: list[list[pa.ChunkedArray]] = [[] for _ in Tried]
    for table in tables:
        rejected = table.filter(pc.equal(table["status"], REJECTED))
        far = pa.array([how_far(reason or "") for reason in rejected["reason"].to_pylist()], pa.int8())
        for tried in Tried:
            found[tried].append(rejected.filter(pc.equal(far, int(tried)))["image_id"])
    return [ImageIds(ids.to_pylist() for ids in batches) for batches in found]


def _to_retry(listed: Iterable[Planned], finished: ImageIds, rejected: Sequence[ImageIds]) -> Iterator[Planned]:
    """Yield the uploads whose latest row is rejected, under the id of their next try.

    Those that ended their process come last. Otherwise the same uploads would use up the time of their group on every
    retry, and those behind them would never be tried. Only they are held in memory, and that time limits their number.
    """
    anyhow = ImageIds.union(rejected)
    later: list[list[Planned]] = [[] for _ in Tried]
    for one in listed:
        latest = one.image_id
        while (following := retry_id(latest)) in finished:
            latest = following
        if latest in finished and latest in anyhow:
            again = replace(one, image_id=following, retry_of=latest)
            tried = next(tried for tried in Tried if latest in rejected[tried])
            if tried is Tried.NEVER:
                yield again
            else:
                later[tried].append(again)
    yield from chain.from_iterable(later)
