"""The plan: one line a micrograph, stored before the first unit runs. A million lines are 60 MB."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spermseg.batch.ids import ID_LENGTH
from spermseg.errors import RunError, first_line
from spermseg.storage.archives import Member
from spermseg.storage.filesystem import Location, StoredObject

UNIT_MICROGRAPHS = 64
"""Most micrographs of a unit of work."""
UNIT_BYTES = 64 * 2**20
"""Most bytes of a unit of work, unpacked; one larger file makes a unit of its own."""
ROWS_AT_ONCE = 1 << 16
"""Of one column, in memory while it is read from the first unit to the last."""
READ_AHEAD = 1 << 23
"""Bytes; what is read of a plan from end to end, in one request."""

PASSED_OVER = "passed_over"
"""Key of what a plan says was listed and is no upload."""
CHANGED = "changed since planned"
GONE = "not found: removed since planned"
DENIED = "access denied: the storage does not let this file be read"

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
        return _digest((self.model_sha256, self.settings_sha256, *place, *inside))


def retry_id(image_id: str) -> str:
    """Return the id under which a rejected upload is tried again: another one, so that either has one row."""
    return _digest((image_id, "retry"))


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
    schema = PLAN_SCHEMA.with_metadata(metadata)
    with TemporaryFile() as file:
        # statistics and dictionaries would only make the directory larger, which every worker reads
        with pq.ParquetWriter(file, schema, compression="zstd", write_statistics=False, use_dictionary=False) as writer:
            for unit in units:
                planned += len(unit)
                writer.write_table(_columns(unit, schema), row_group_size=len(unit))
            writer.add_key_value_metadata(notes())
        file.seek(0)
        return file.read(), planned


def _columns(unit: list[Planned], schema: pa.Schema) -> pa.Table:
    """Return a unit as a table; by columns, which takes a twentieth of the time that a dictionary a row takes."""
    columns = [pa.array([getattr(one, field.name) for one in unit], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class Plan:
    """A stored plan, of which only the directory and the units asked for are read.

    Raises:
        ObjectMissingError: it is not there.
        RunError: it is damaged.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        try:
            self._file = pq.ParquetFile(location.open())
        except pa.ArrowException as error:
            raise _damaged(location, error) from error

    def __len__(self) -> int:
        """Return the number of micrographs planned."""
        return int(self._file.metadata.num_rows)

    @property
    def units(self) -> int:
        """Units of work."""
        return int(self._file.num_row_groups)

    @property
    def metadata(self) -> dict[str, str]:
        """What the run said of itself when it was planned."""
        stored: dict[bytes, bytes] = self._file.metadata.metadata or {}
        return {key.decode(): value.decode() for key, value in stored.items() if not key.startswith(b"ARROW:")}

    @property
    def passed_over(self) -> dict[str, int]:
        """What was listed and is no upload, by kind, and how much of it; plans of earlier versions do not say."""
        try:
            return {str(kind): int(count) for kind, count in json.loads(self.metadata.get(PASSED_OVER, "{}")).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise _damaged(self._location, error) from error

    @property
    def unit_sizes(self) -> list[int]:
        """Micrographs of each unit."""
        directory = self._file.metadata
        return [int(directory.row_group(number).num_rows) for number in range(self.units)]

    def unit(self, number: int) -> list[Planned]:
        """Return the micrographs of a unit."""
        rows: list[dict[str, Any]] = self._file.read_row_group(number, use_threads=False).to_pylist()
        return [Planned(**row) for row in rows]

    def unit_id(self, number: int) -> str:
        """Return the name of a unit: the digest of its image ids, which hold model and settings."""
        return _digest(
            self._file.read_row_group(number, columns=["image_id"], use_threads=False)["image_id"].to_pylist()
        )

    def unit_ids(self) -> Iterator[str]:
        """Yield the names of all units, in their order; many times as quickly as one by one."""
        ids = self.image_ids()
        yield from (_digest(islice(ids, size)) for size in self.unit_sizes)

    def image_ids(self) -> Iterator[str]:
        """Yield the ids of all micrographs planned, in their order."""
        return chain.from_iterable(self.column("image_id"))

    def replaced_ids(self) -> Iterator[str]:
        """Yield the image ids of the rejected rows that this run's rows are to replace."""
        if "retry_of" in self._file.schema_arrow.names:  # not in a plan of an earlier version
            yield from filter(None, chain.from_iterable(self.column("retry_of")))

    def column(self, name: str) -> Iterator[list[Any]]:
        """Yield a column from the first line to the last, some lines at a time."""
        file = pq.ParquetFile(self._location.open(READ_AHEAD), metadata=self._file.metadata)
        batches = file.iter_batches(ROWS_AT_ONCE, columns=[name], use_threads=False)
        try:
            yield from (batch.column(0).to_pylist() for batch in batches)
        except pa.ArrowException as error:
            raise _damaged(self._location, error) from error


def _damaged(location: Location, error: BaseException) -> RunError:
    return RunError(
        f"{location.uri} is damaged ({first_line(error)}); delete this run's folders in runs/ and results/, "
        "and segment again"
    )


def _digest(parts: Iterable[str]) -> str:
    """Return the id of a list of texts; JSON, so that no text can pass for two."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:ID_LENGTH]
