"""What there is to do tonight: the runs to go on with, and the plan of a new one."""

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime

import spermseg
from spermseg.batch.lock import Lock
from spermseg.batch.night import Night
from spermseg.batch.plan import Plan, Planned, encode_plan, list_uploads, retry_id, split_units
from spermseg.batch.receipt import list_runs, plan_location, read_receipt
from spermseg.batch.results import REJECTED, read_units
from spermseg.errors import ConfigError, ObjectExistsError

RETRY = {"retry": "yes"}
"""What the plan of a run over rejected uploads says."""


def unfinished_runs(night: Night) -> dict[str, Plan]:
    """Return the runs over the same input, model and settings that have no receipt, oldest first."""
    wanted = {"input": night.source.uri, **night.model_and_settings}
    plans = {run_id: _plan(night, run_id) for run_id, finished in list_runs(night.out).items() if not finished}
    return {run_id: plan for run_id, plan in plans.items() if wanted.items() <= plan.metadata.items()}


def is_retry(plan: Plan) -> bool:
    """Whether a plan is of uploads that were rejected before."""
    return RETRY.items() <= plan.metadata.items()


def plan_run(night: Night, started: datetime, lock: Lock) -> str | None:
    """Store the plan of what has no row yet, or of what is to be tried again, before anything else is done.

    Returns:
        The id of the new run; None where nothing is to do.

    Raises:
        ConfigError: the input holds no file, or an upload is planned by an unfinished run over another input.
        RunError: the table is another job's by now.
    """
    finished, unfinished = _planned_already(night)
    listed = list_uploads(night.source, night.identity)
    if night.retry_rejected:
        todo = _to_retry(listed, finished, _rejected(night) if finished else set())
    else:
        todo = (one for one in listed if one.image_id not in finished)
    data, planned = encode_plan(split_units(_free(todo, unfinished)), _metadata(night, started))
    if planned == 0:
        if not finished and not night.retry_rejected:
            raise ConfigError(f"got {night.source.uri}, which holds no file; a folder with micrographs is needed")
        return None
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    lock.check()
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


def _planned_already(night: Night) -> tuple[set[str], dict[str, str]]:
    """Return (image ids that finished runs have, image id -> unfinished run over another input), of this model.

    Their plans tell: they are small, and a finished run has a row for each line of its own.
    """
    finished: set[str] = set()
    unfinished: dict[str, str] = {}
    for run_id, is_finished, plan in _comparable_runs(night):
        if is_finished:
            finished.update(plan.image_ids())
        else:
            unfinished.update(dict.fromkeys(plan.image_ids(), run_id))
    return finished, unfinished


def _comparable_runs(night: Night) -> Iterator[tuple[str, bool, Plan]]:
    """Yield (run, whether it is finished, its plan) of this model and these settings; the ids of others all differ."""
    for run_id, is_finished in list_runs(night.out).items():
        plan = _plan(night, run_id)
        if night.model_and_settings.items() <= plan.metadata.items():
            yield run_id, is_finished, plan


def _free(planned: Iterable[Planned], unfinished: dict[str, str]) -> Iterator[Planned]:
    """Yield what is planned, and see that no unfinished run has planned it too."""
    for one in planned:
        if one.image_id in unfinished:
            run_id = unfinished[one.image_id]
            raise ConfigError(
                f"{one.uri} is planned by run {run_id}, which has not finished; segment the input of that run again, "
                f"or delete runs/{run_id} and results/run={run_id}"
            )
        yield one


def _rejected(night: Night) -> set[str]:
    """Return the image ids of the rejected rows of finished runs, of this model and these settings."""
    found: set[str] = set()
    for run_id, is_finished, _ in _comparable_runs(night):
        if is_finished and (read_receipt(night.out, run_id) or {}).get(REJECTED):
            for table in read_units(night.out, run_id, ("image_id", "status")):
                found.update(row["image_id"] for row in table.to_pylist() if row["status"] == REJECTED)
    return found


def _to_retry(listed: Iterable[Planned], finished: set[str], rejected: set[str]) -> Iterator[Planned]:
    """Yield the uploads whose latest row is rejected, under the id of their next try."""
    for one in listed:
        latest = one.image_id
        while (following := retry_id(latest)) in finished:
            latest = following
        if latest in finished and latest in rejected:
            yield replace(one, image_id=following, retry_of=latest)
