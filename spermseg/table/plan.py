"""The plan: one line per micrograph, stored before the first unit runs. A million lines take 60 MB."""

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
"""Largest number of micrographs in a unit of work, by default."""
UNIT_BYTES = 64 * 2**20
"""Largest size of a unit of work, in bytes. A file counts with its packed or unpacked size, whichever is larger. A
larger file is a unit of its own."""
ROWS_AT_ONCE = 1 << 16
"""Number of values that are in memory while a column is read."""
MOST_BYTES = 1 << 31
"""Limit on the bytes of a plan that is read as a whole: thirty million micrographs."""
READ_AHEAD = 1 << 23
"""Bytes in one request while a column is read."""

PASSED_OVER = "passed_over"
"""Key in the metadata of a plan: the number of listed files that are no uploads, by kind, as JSON."""
CHANGED = "changed since planned"
GONE = "not found: removed since planned"
DENIED = "access denied: the storage does not let this file be read"

ADDED = {"retry_of"}
"""Columns that plans of earlier versions lack."""
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
"""Metadata of the plan of a run that tries rejected uploads again."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One micrograph to segment: a line of the plan."""

    image_id: str
    """Digest of the model, the settings, and the place, size and etag of the upload (`Identity.image_id`)."""
    uri: str
    """The file, or the archive that holds the micrograph."""
    member: str | None = None
    """Name of the micrograph in the archive; None for a plain file."""
    group: str | None = None
    """The first folder below the input: patient, slide or session."""
    packing: str = ""
    """How the archive packs the micrograph; empty for a plain file."""
    offset: int = 0
    """First byte to fetch."""
    size: int
    """Number of bytes to fetch."""
    data_size: int
    """Number of bytes after unpacking."""
    crc32: int | None = None
    """Checksum of the unpacked bytes; None if the archive has none."""
    etag: str
    """ETag of the file or the archive."""
    reason: str | None = None
    """Why the upload is rejected, if planning has found a reason already."""
    retry_of: str | None = None
    """Image id of the rejected row that the row of this micrograph replaces."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The model and the settings of a run. A second run with the same identity over the same uploads does nothing."""

    model_sha256: str
    recipe_sha256: str

    def image_id(self, item: StoredObject, member: Member | None = None, number: int = 0) -> str:
        """Return the id of an upload for this model and these settings.

        Args:
            item: the file, or the archive.
            member: the member of the archive; None for a plain file.
            number: the position of the member. A hostile archive may list one name twice, and both need an id.
        """
        place = (item.uri, str(item.size), item.etag)
        inside = (member.name, str(number)) if member else ()
        return digest((self.model_sha256, self.recipe_sha256, *place, *inside))


def retry_id(image_id: str) -> str:
    """Return the new id with which a rejected upload is tried again, so that both ids have exactly one row."""
    return digest((image_id, "retry"))


def split_units(planned: Iterable[Planned], most: int = UNIT_MICROGRAPHS) -> Iterator[list[Planned]]:
    """Yield units of work: consecutive micrographs, `most` of them at most, and up to `UNIT_BYTES`."""
    unit: list[Planned] = []
    unit_bytes = 0
    for one in planned:
        one_bytes = 0 if one.reason else max(one.size, one.data_size)
        if unit and (len(unit) == most or unit_bytes + one_bytes > UNIT_BYTES):
            yield unit
            unit, unit_bytes = [], 0
        unit.append(one)
        unit_bytes += one_bytes
    if unit:
        yield unit


def encode_plan(
    units: Iterable[list[Planned]], metadata: dict[str, str], notes: Callable[[], dict[str, str]] = dict
) -> tuple[bytes, int]:
    """Return (the bytes of `plan.parquet`, number of planned micrographs).

    A unit is a row group, so a worker reads only its own units. Units are written to a temporary file as they come, so
    only one unit and the Parquet footer are in memory.

    Args:
        units: the units of work.
        metadata: metadata of the plan about its run.
        notes: returns further metadata. It is called after the last unit.
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
    """Return a unit as a table. It is built by columns, which takes a twentieth of the time of one dictionary a row."""
    columns = [pa.array([getattr(one, field.name) for one in unit], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class Plan:
    """A stored plan. Only its Parquet footer and the requested units are read.

    Args:
        location: the file.
        whole: whether to read the whole file at once, and to verify its seal.

    Raises:
        ObjectMissingError: the plan does not exist.
        DamagedError: the plan is damaged. The methods raise this error, too, since they read further bytes.
        RunError: the plan has a later schema version.
        StorageError: the plan could not be read.
    """

    def __init__(self, location: Location, *, whole: bool = False) -> None:
        self._location = location
        with self._reading():
            self._bytes = location.read_bytes(MOST_BYTES) if whole else None
            if self._bytes is not None:
                check_seal(self._bytes)
            self._file = open_parquet(self._open(), _TYPES, SCHEMA_VERSION)
            self._columns = [name for name in PLAN_SCHEMA.names if name in self._file.schema_arrow.names]
            if lacking := set(PLAN_SCHEMA.names) - ADDED - set(self._columns):
                raise DamagedError(f"it lacks the columns {', '.join(sorted(lacking))}")
            self.metadata = said_metadata(self._file)
            """Key -> text about the run, as it was known when the plan was made."""

    def _open(self, *ahead: int) -> Any:
        return self._location.open(*ahead) if self._bytes is None else pa.BufferReader(self._bytes)

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self._location.uri, MEND)

    def __len__(self) -> int:
        """Return the number of planned micrographs."""
        return int(self._file.metadata.num_rows)

    @property
    def units(self) -> int:
        """Number of units of work."""
        return int(self._file.num_row_groups)

    @property
    def seal(self) -> str:
        """The seal that the plan holds, without verification; empty for a plan of an earlier version."""
        return said_seal(self._file)

    @property
    def passed_over(self) -> dict[str, int]:
        """Kind -> number of listed files that are no uploads; empty for a plan of an earlier version."""
        with self._reading():
            stored = dict(json.loads(self.metadata.get(PASSED_OVER, "{}")))
            return {str(kind): int(count) for kind, count in stored.items()}

    @property
    def unit_sizes(self) -> list[int]:
        """Number of micrographs in each unit."""
        directory = self._file.metadata
        return [int(directory.row_group(number).num_rows) for number in range(self.units)]

    def unit(self, number: int) -> list[Planned]:
        """Return the micrographs of a unit."""
        with self._reading():
            rows = self._file.read_row_group(number, columns=self._columns, use_threads=False).to_pylist()
            return [Planned(**row) for row in rows]

    def unit_id(self, number: int) -> str:
        """Return the id of a unit: the digest of its image ids, which depend on model and settings."""
        with self._reading():
            ids = self._file.read_row_group(number, columns=["image_id"], use_threads=False)["image_id"]
            return digest(ids.to_pylist())

    def unit_files(self) -> Iterator[str]:
        """Yield the names of the result files of all units, in the order of the plan."""
        return map(unit_name, self.unit_ids())

    def unit_ids(self) -> Iterator[str]:
        """Yield the ids of all units, in the order of the plan. This is many times faster than `unit_id` for each."""
        ids = self.image_ids()
        for size in self.unit_sizes:
            yield digest(islice(ids, size))

    def image_ids(self) -> Iterator[str]:
        """Yield the ids of all planned micrographs, in the order of the plan."""
        return chain.from_iterable(self.column("image_id"))

    def replaced_ids(self) -> Iterator[str]:
        """Yield the image ids of the rejected rows that the rows of this run replace."""
        if "retry_of" in self._columns:
            yield from filter(None, chain.from_iterable(self.column("retry_of")))

    def column(self, name: str) -> Iterator[list[Any]]:
        """Yield the values of a column in lists of up to `ROWS_AT_ONCE`, in the order of the plan."""
        with self._reading():
            file = open_again(self._open(READ_AHEAD), self._file.metadata)
            batches = file.iter_batches(ROWS_AT_ONCE, columns=[name], use_threads=False)
        while (values := self._next_values(batches)) is not None:
            yield values

    def _next_values(self, batches: Iterator[pa.RecordBatch]) -> list[Any] | None:
        with self._reading():
            batch = next(batches, None)
            return None if batch is None else list(batch.column(0).to_pylist())
