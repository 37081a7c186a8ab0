"""The messages of the pipeline, and its first stages. Without Ray.

Without PyTorch too: processes that fetch and decode start often, and have to start fast.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Literal, TypedDict

import numpy as np

from spermseg.batch.worker.decode import Decoded, Decoder
from spermseg.batch.worker.fetch import Fetched, fetch_all
from spermseg.batch.worker.process_limits import Limits, Watch, limit_memory
from spermseg.batch.worker.timing import Spent
from spermseg.errors import ConfigError, StorageError, StorageRefusedError, first_line
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import be_patient, patience
from spermseg.table.plan import Plan

Tell = Callable[[str], None]
SpentTimes = dict[str, Any]
"""`asdict` of a `Spent`."""


class UnitNumbers(TypedDict):
    """Units to fetch, one after the other."""

    units: list[int]


class FetchedUnit(TypedDict):
    """A unit whose bytes are read."""

    kind: Literal["fetched"]
    unit: int
    spent: SpentTimes
    data: list[bytes]
    """The bytes of each micrograph."""
    reasons: list[str]
    """Why a micrograph could not be read; empty where it was."""


class PackedPicture(TypedDict):
    """A decoded micrograph as text, numbers and bytes."""

    row: str
    height: int
    width: int
    pixels: bytes


class DecodedUnit(TypedDict):
    """A unit whose pictures are decoded."""

    kind: Literal["decoded"]
    unit: int
    spent: SpentTimes
    decoded: list[PackedPicture]


class FailedUnit(TypedDict):
    """A unit that failed. Later stages pass it on unchanged."""

    kind: Literal["failed"]
    unit: int
    failure: str
    outage: bool
    """The storage failed."""
    refused: bool
    """The storage refused the credentials."""
    unusable: bool
    """The process cannot segment any unit."""


class IsolatedPicture(TypedDict):
    """A micrograph of a unit in isolation, before the unit is written."""

    kind: Literal["isolated"]
    unit: int
    reason: str
    """Why it is rejected; empty where it is not."""


class WrittenUnit(TypedDict):
    """A unit whose rows are written."""

    kind: Literal["written"]
    unit: int
    ok: int
    rejected: int
    worker: str
    spent: SpentTimes


@dataclass(frozen=True, kw_only=True)
class UnitDone:
    """A unit whose rows are written."""

    ok: int
    rejected: int
    worker: str
    """The process that segmented the unit: host name and process id."""
    spent: Spent
    """Time and memory that the unit took."""


def unit_done(row: WrittenUnit) -> UnitDone:
    """Return the message of the last stage as a `UnitDone`."""
    return UnitDone(ok=row["ok"], rejected=row["rejected"], worker=row["worker"], spent=Spent(**row["spent"]))


def failure(unit: int, error: Exception) -> FailedUnit:
    """Return the message of a unit that failed. Raised, the error would stop the units in progress."""
    outage, unusable = isinstance(error, StorageError), isinstance(error, ConfigError)
    said = first_line(error) if outage or unusable else f"{type(error).__name__}: {first_line(error)}"
    refused = isinstance(error, StorageRefusedError)
    return FailedUnit(kind="failed", unit=unit, failure=said, outage=outage, refused=refused, unusable=unusable)


@lru_cache(maxsize=1)
def open_plan(location: Location) -> Plan:
    """Open the plan of a run. A process opens it once, since it never changes and a worker does many units."""
    return Plan(location)


class FetchUnits:
    """First stage: the numbers of units -> the bytes of their micrographs.

    A message holds one number, or several if their units are read in one pass over an archive.

    Args:
        plan: the plan of the run.
        source: where the uploads were listed.
        tell: receives lines for the user while this process waits for the storage.
    """

    def __init__(self, plan: Location, source: Location, tell: Tell | None = None) -> None:
        self.plan, self.source = plan, source
        self.patience = replace(patience(), tell=tell)  # made in the job: a worker does not know its settings

    def __call__(self, row: UnitNumbers) -> Iterator[FetchedUnit | FailedUnit]:
        """Fetch the units of a message, one after the other."""
        be_patient(self.patience)
        number = row["units"][0]
        try:
            plan = open_plan(self.plan)
            planned = chain.from_iterable(map(plan.unit, row["units"]))
            fetched = fetch_all(planned, self.source)
            for number in row["units"]:
                started = time.perf_counter()
                unit = list(islice(fetched, plan.unit_sizes[number]))
                spent = Spent(fetch_s=time.perf_counter() - started, fetched_bytes=sum(len(one.data) for one in unit))
                reasons = [one.reason or "" for one in unit]
                data = [one.data for one in unit]
                yield FetchedUnit(kind="fetched", unit=number, spent=asdict(spent), data=data, reasons=reasons)
        except Exception as error:  # noqa: BLE001 (the message carries the error)
            yield failure(number, error)


def unpack_fetched(row: FetchedUnit) -> list[Fetched]:
    """Return the bytes and reasons of a fetched unit."""
    return [Fetched(data=data, reason=reason or None) for data, reason in zip(row["data"], row["reasons"], strict=True)]


class DecodeUnits:
    """Optional stage: the bytes of a unit's micrographs -> their pixels at the working resolution.

    Args:
        plan: the plan of the run.
        decoder: decodes the micrographs.
        limits: time limits of a step. A step that takes longer ends the process.
        memory: bytes that the process may allocate beside what it has.
        tell: receives lines for the user while this process waits for the storage.
    """

    def __init__(self, plan: Location, decoder: Decoder, limits: Limits, memory: int, tell: Tell | None = None) -> None:
        self.plan, self.decoder, self.limits, self.memory = plan, decoder, limits, memory
        self.patience = replace(patience(), tell=tell)  # made in the job: a worker does not know its settings

    def __call__(self, row: FetchedUnit | FailedUnit) -> DecodedUnit | FailedUnit:
        """Decode one unit."""
        if row["kind"] == "failed":
            return row
        _limit_memory_once(self.memory)
        be_patient(self.patience)
        try:
            # Read before the watch starts: a wait for the storage is no picture that hangs.
            unit = open_plan(self.plan).unit(row["unit"])
            with Watch(self.limits) as watch:
                decoded = []
                for one, fetched in zip(unit, unpack_fetched(row), strict=True):
                    watch.decoding()
                    decoded.append(pack_decoded(self.decoder.decode(one, fetched)))
        except Exception as error:  # noqa: BLE001 (the message carries the error)
            return failure(row["unit"], error)
        return DecodedUnit(kind="decoded", unit=row["unit"], spent=row["spent"], decoded=decoded)


@lru_cache(maxsize=1)
def _limit_memory_once(more: int) -> None:
    limit_memory(more)


def pack_decoded(one: Decoded) -> PackedPicture:
    """Return a decoded micrograph as text, numbers and bytes, which travel between processes. Takes its pixels."""
    height, width = (0, 0) if one.pixels is None else one.pixels.shape[:2]
    pixels = b"" if one.pixels is None else one.take_pixels().tobytes()
    return {"row": json.dumps(one.row), "height": height, "width": width, "pixels": pixels}


def unpack_decoded(packed: list[PackedPicture]) -> Iterator[Decoded]:
    """Yield the micrographs of `pack_decoded`. Their pixels are views of the packed bytes."""
    for one in packed:
        shape = (one["height"], one["width"], 3)
        pixels = np.frombuffer(one["pixels"], np.uint8).reshape(shape) if one["height"] else None
        yield Decoded(row=json.loads(one["row"]), pixels=pixels)
