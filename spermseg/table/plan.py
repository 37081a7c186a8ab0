"""The plan: one line a micrograph, stored before the first unit runs. A million lines are 60 MB."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, islice
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa

from spermseg.errors import DamagedError
from spermseg.storage.archives.directory import Member
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.storage.parquet import (
    VERSION,
    check_seal,
    open_again,
    open_parquet,
    reading,
    said_metadata,
    said_seal,
    seal_parquet,
    sealed_writer,
)
from spermseg.table.image_ids import digest
from spermseg.table.results import MEND, SCHEMA_VERSION
from spermseg.table.run_folder import unit_name

UNIT_MICROGRAPHS = 64
"""Most micrographs of a unit of work."""
UNIT_BYTES = 64 * 2**20
"""Most bytes of a unit of work, unpacked; one larger file makes a unit of its own."""
ROWS_AT_ONCE = 1 << 16
"""Of one column, in memory while it is read from the first unit to the last."""
MOST_BYTES = 1 << 31
"""Of a plan that is read at once: thirty million micrographs."""
READ_AHEAD = 1 << 23
"""Bytes; what is read of a plan from end to end, in one request."""

PASSED_OVER = "passed_over"
"""Key of what a plan says was listed and is no upload."""
CHANGED = "changed since planned"
GONE = "not found: removed since planned"
DENIED = "access denied: the storage does not let this file be read"

ADDED = {"retry_of"}
"""What plans of earlier versions lack."""
PLAN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("group", pa.string()),
        pa.field("packing", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("data_size", pa.int64(), nullable=False),
        pa.field("crc32", pa.int64()),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("retry_of", pa.string()),
    ]
)
_TYPES = {field.name: field.type for field in PLAN_SCHEMA}
RETRY = {"retry": "yes"}
"""What the plan of a run over rejected uploads says."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One micrograph to segment: a line of the plan."""

    image_id: str
    """Digest of where it lies, its size and etag, the model and the settings."""
    uri: str
    """The file, or the archive that holds it."""
    member: str | None = None
    """Its name inside the archive."""
    group: str | None = None
    """The first folder below the input: patient, slide or session."""
    packing: str = ""
    """How its bytes are packed in the archive; empty for a plain file."""
    offset: int = 0
    """First byte to fetch."""
    size: int
    """Bytes to fetch."""
    data_size: int
    """Bytes once unpacked."""
    crc32: int | None = None
    """Checksum of the unpacked bytes, where the archive has one."""
    etag: str
    """Of the file, or of the archive."""
    reason: str | None = None
    """Why it is rejected, where planning could see it already."""
    retry_of: str | None = None
    """The image id of the rejected row that its row is to replace."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a second run over the same uploads a no-op."""

    model_sha256: str
    settings_sha256: str

    def image_id(self, item: StoredObject, member: Member | None = None, number: int = 0) -> str:
        """Return the id of an upload under this model and these settings.

        Args:
            item: the file, or the archive.
            member: the member of the archive.
            number: its place among the members; a hostile archive may list one member twice.
        """
        place = (item.uri, str(item.size), item.etag)
        inside = (member.name, str(number)) if member else ()
        return digest((self.model_sha256, self.settings_sha256, *place, *inside))


def retry_id(image_id: str) -> str:
    """Return the id under which a rejected upload is tried again: another one, so that either has one row."""
    return digest((image_id, "retry"))


def split_units(planned: Iterable[Planned]) -> Iterator[list[Planned]]:
    """Yield units of work: neighbours in the plan, bounded in number and bytes."""
    unit: list[Planned] = []
    size = 0
    for one in planned:
        more = 0 if one.reason else max(one.size, one.data_size)
        if unit and (len(unit) == UNIT_MICROGRAPHS or size + more > UNIT_BYTES):
            yield unit
            unit, size = [], 0
        unit.append(one)
        size += more
    if unit:
        yield unit


def encode_plan(
    units: Iterable[list[Planned]], metadata: dict[str, str], notes: Callable[[], dict[str, str]] = dict
) -> tuple[bytes, int]:
    """Return (the bytes of `plan.parquet`, micrographs planned); a unit is a row group, so a worker reads its own.

    Units are written as they come, to a temporary file: in memory is one unit, and what the directory says of each.

    Args:
        units: of work.
        metadata: what the plan says of its run.
        notes: returns what else it says, which is known when all units are.
    """
    planned = 0
    schema = PLAN_SCHEMA.with_metadata({**metadata, VERSION: str(SCHEMA_VERSION)})
    with TemporaryFile() as file:
        with sealed_writer(file, schema) as writer:
            for unit in units:
                planned += len(unit)
                writer.write_table(_columns(unit, schema), row_group_size=len(unit))
            writer.add_key_value_metadata(notes())
        file.seek(0)
        return seal_parquet(file.read()), planned


def _columns(unit: list[Planned], schema: pa.Schema) -> pa.Table:
    """Return a unit as a table; by columns, which takes a twentieth of the time that a dictionary a row takes."""
    columns = [pa.array([getattr(one, field.name) for one in unit], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class Plan:
    """A stored plan, of which only the directory and the units asked for are read.

    Args:
        location: where it lies.
        whole: read all of it at once, and prove that its bytes are those that were written.

    Raises:
        ObjectMissingError: it is not there.
        DamagedError: it is damaged.
    """

    def __init__(self, location: Location, *, whole: bool = False) -> None:
        self._location = location
        with self._reading():
            self._bytes = location.read_bytes(MOST_BYTES) if whole else None
            if self._bytes is not None:
                check_seal(self._bytes)
            self._file = open_parquet(self._open(), _TYPES, SCHEMA_VERSION)
            lacking = {field.name for field in PLAN_SCHEMA}.difference(ADDED, self._file.schema_arrow.names)
            if lacking:
                raise DamagedError(f"it lacks the columns {', '.join(sorted(lacking))}")
            self.metadata = said_metadata(self._file)
            """What the run said of itself when it was planned."""

    def _open(self, *ahead: int) -> Any:
        return self._location.open(*ahead) if self._bytes is None else pa.BufferReader(self._bytes)

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self._location.uri, MEND)

    def __len__(self) -> int:
        """Return the number of micrographs planned."""
        return int(self._file.metadata.num_rows)

    @property
    def units(self) -> int:
        """Units of work."""
        return int(self._file.num_row_groups)

    @property
    def seal(self) -> str:
        """The digest of its own bytes that it says; empty for one of an earlier version."""
        return said_seal(self._file)

    @property
    def passed_over(self) -> dict[str, int]:
        """What was listed and is no upload, by kind, and how much of it; plans of earlier versions do not say."""
        with self._reading():
            return {
                str(kind): int(count) for kind, count in dict(json.loads(self.metadata.get(PASSED_OVER, "{}"))).items()
            }

    @property
    def unit_sizes(self) -> list[int]:
        """Micrographs of each unit."""
        directory = self._file.metadata
        return [int(directory.row_group(number).num_rows) for number in range(self.units)]

    def unit(self, number: int) -> list[Planned]:
        """Return the micrographs of a unit."""
        with self._reading():
            names = [name for name in PLAN_SCHEMA.names if name in self._file.schema_arrow.names]
            rows = self._file.read_row_group(number, columns=names, use_threads=False).to_pylist()
            return [Planned(**row) for row in rows]

    def unit_id(self, number: int) -> str:
        """Return the name of a unit: the digest of its image ids, which hold model and settings."""
        with self._reading():
            ids = self._file.read_row_group(number, columns=["image_id"], use_threads=False)["image_id"]
            return digest(ids.to_pylist())

    def unit_files(self) -> Iterator[str]:
        """Yield the names of the result files of all units, in their order."""
        return map(unit_name, self.unit_ids())

    def unit_ids(self) -> Iterator[str]:
        """Yield the names of all units, in their order; many times as quickly as one by one."""
        ids = self.image_ids()
        yield from (digest(islice(ids, size)) for size in self.unit_sizes)

    def image_ids(self) -> Iterator[str]:
        """Yield the ids of all micrographs planned, in their order."""
        return chain.from_iterable(self.column("image_id"))

    def replaced_ids(self) -> Iterator[str]:
        """Yield the image ids of the rejected rows that this run's rows are to replace."""
        if "retry_of" in self._file.schema_arrow.names:  # not in a plan of an earlier version
            yield from filter(None, chain.from_iterable(self.column("retry_of")))

    def column(self, name: str) -> Iterator[list[Any]]:
        """Yield a column from the first line to the last, some lines at a time."""
        with self._reading():
            file = open_again(self._open(READ_AHEAD), self._file.metadata)
            batches = file.iter_batches(ROWS_AT_ONCE, columns=[name], use_threads=False)
        while True:
            with self._reading():
                batch = next(batches, None)
                values = None if batch is None else batch.column(0).to_pylist()
            if values is None:
                return
            yield values
