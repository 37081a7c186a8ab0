"""What there is to do tonight: the runs to go on with, and the plan of a new one."""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain

import pyarrow.compute as pc

import spermseg
from spermseg.batch.group_limit import within_group_limit
from spermseg.batch.ids import ImageIds
from spermseg.batch.lease import Lease
from spermseg.batch.listing import list_uploads
from spermseg.batch.night import Night
from spermseg.batch.plan import PASSED_OVER, Plan, Planned, encode_plan, retry_id, split_units
from spermseg.batch.receipt import list_runs, plan_location, read_receipt
from spermseg.batch.results import REJECTED, read_units
from spermseg.errors import ConfigError, ObjectExistsError

RETRY = {"retry": "yes"}
"""What the plan of a run over rejected uploads says."""
SHOWN_EVERY = 1000
"""Uploads that are listed between two words on how many there are."""

OnListed = Callable[[int], None]
"""Called with the number of uploads that were listed so far."""


def unfinished_runs(night: Night) -> dict[str, Plan]:
    """Return the runs over the same input, model and settings that have no receipt, oldest first."""
    wanted = {"input": night.source.uri, **night.model_and_settings}
    plans = {run_id: _plan(night, run_id) for run_id, finished in list_runs(night.out).items() if not finished}
    return {run_id: plan for run_id, plan in plans.items() if wanted.items() <= plan.metadata.items()}


def is_retry(plan: Plan) -> bool:
    """Whether a plan is of uploads that were rejected before."""
    return RETRY.items() <= plan.metadata.items()


def plan_run(night: Night, started: datetime, lease: Lease, on_listed: OnListed = lambda _: None) -> str | None:
    """Store the plan of what has no row yet, or of what is to be tried again, before anything else is done.

    Nothing here grows with the uploads but the ids that are done, the directory of the plan, and the plan as stored.

    Args:
        night: what is to be done.
        started: when.
        lease: of the table.
        on_listed: called now and then while uploads are listed.

    Returns:
        The id of the new run; None where nothing is to do.

    Raises:
        ConfigError: the input holds no file, or an upload is planned by an unfinished run over another input.
        RunError: the table is another job's by now.
    """
    finished, unfinished = _planned_already(night)
    passed_over: Counter[str] = Counter()
    listed = _counted(list_uploads(night.source, night.identity, passed_over, night.max_unpacked), on_listed)
    if night.retry_rejected:
        todo = _to_retry(listed, finished, _rejected(night) if finished else finished)
    else:
        todo = (one for one in listed if one.image_id not in finished)
    limits = night.max_megapixels_per_group, night.settings.max_megapixels
    todo = within_group_limit(_free(todo, unfinished), night.source, *limits)
    said, notes = _metadata(night, started), lambda: {PASSED_OVER: json.dumps(passed_over)}
    data, planned = encode_plan(split_units(todo), said, notes)
    if planned == 0:
        if not finished and not night.retry_rejected:
            beside = "".join(f" ({count} {kind} were passed over)" for kind, count in sorted(passed_over.items()))
            raise ConfigError(
                f"got {night.source.uri}, which holds no file{beside}; a folder with micrographs is needed"
            )
        return None
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    lease.check()
    _write_once(night, run_id, data)
    return run_id


def _metadata(night: Night, started: datetime) -> dict[str, str]:
    """Return what a plan says of its run, so that it can be continued, proved and done again."""
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


def _write_once(night: Night, run_id: str, data: bytes) -> None:
    """Store a plan. A storage that answered too late is asked again, and finds the plan that it has just stored."""
    place = plan_location(night.out, run_id)
    try:
        place.write_bytes(data, only_if_absent=True)
    except ObjectExistsError:
        if place.read_bytes() != data:
            raise


def _plan(night: Night, run_id: str) -> Plan:
    return Plan(plan_location(night.out, run_id))


def _counted(planned: Iterable[Planned], on_listed: OnListed) -> Iterator[Planned]:
    number = 0
    for number, one in enumerate(planned, start=1):
        if number % SHOWN_EVERY == 0:
            on_listed(number)
        yield one
    on_listed(number)


def _planned_already(night: Night) -> tuple[ImageIds, dict[str, ImageIds]]:
    """Return (image ids that finished runs have, unfinished run over another input -> its image ids), of this model.

    Their plans tell: they are small, and a finished run has a row for each line of its own.
    """
    finished: list[Plan] = []
    unfinished: dict[str, ImageIds] = {}
    for run_id, is_finished, plan in _comparable_runs(night):
        if is_finished:
            finished.append(plan)
        else:
            unfinished[run_id] = ImageIds(plan.column("image_id"))
    return ImageIds(chain.from_iterable(plan.column("image_id") for plan in finished)), unfinished


def _comparable_runs(night: Night) -> Iterator[tuple[str, bool, Plan]]:
    """Yield (run, whether it is finished, its plan) of this model and these settings; the ids of others all differ."""
    for run_id, is_finished in list_runs(night.out).items():
        plan = _plan(night, run_id)
        if night.model_and_settings.items() <= plan.metadata.items():
            yield run_id, is_finished, plan


def _free(planned: Iterable[Planned], unfinished: dict[str, ImageIds]) -> Iterator[Planned]:
    """Yield what is planned, and see that no unfinished run has planned it too."""
    for one in planned:
        for run_id, ids in unfinished.items():
            if one.image_id in ids:
                raise ConfigError(
                    f"{one.uri} is planned by run {run_id}, which has not finished; segment the input of that run "
                    f"again, or delete runs/{run_id} and results/run={run_id}"
                )
        yield one


def _rejected(night: Night) -> ImageIds:
    """Return the image ids of the rejected rows of finished runs, of this model and these settings."""
    runs = [run_id for run_id, is_finished, _ in _comparable_runs(night) if is_finished]
    some = [run_id for run_id in runs if (read_receipt(night.out, run_id) or {}).get(REJECTED)]
    tables = chain.from_iterable(read_units(night.out, run_id, ("image_id", "status")) for run_id in some)
    return ImageIds(table.filter(pc.equal(table["status"], REJECTED))["image_id"].to_pylist() for table in tables)


def _to_retry(listed: Iterable[Planned], finished: ImageIds, rejected: ImageIds) -> Iterator[Planned]:
    """Yield the uploads whose latest row is rejected, under the id of their next try."""
    for one in listed:
        latest = one.image_id
        while (following := retry_id(latest)) in finished:
            latest = following
        if latest in finished and latest in rejected:
            yield replace(one, image_id=following, retry_of=latest)
