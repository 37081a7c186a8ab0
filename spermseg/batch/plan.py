"""The plan: one line a micrograph, made from listings and archive directories before the first unit runs."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spermseg.errors import ArchiveError, ObjectChangedError, ObjectMissingError, RunError, first_line
from spermseg.storage.archives import Member, archive_kind, list_members, unsupported_archive
from spermseg.storage.filesystem import Location, StoredObject

UNIT_MICROGRAPHS = 64
"""Most micrographs of a unit of work."""
UNIT_BYTES = 64 * 2**20
"""Most bytes of a unit of work, unpacked; one larger file makes a unit of its own."""
ID_LENGTH = 32
"""Hexadecimal digits of an image or unit id: 128 bits."""

CHANGED = "changed since planned"
GONE = "not found: removed since planned, or its name is not valid text"

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


def list_uploads(source: Location, identity: Identity) -> Iterator[Planned]:
    """Yield every micrograph below `source`: each file, and each member of each archive, in the order of the paths.

    What cannot be a micrograph is yielded as well, with its reason: nothing is skipped in silence.

    Raises:
        StorageError: `source` could not be listed, or an archive that is there could not be read.
    """
    for item in source.list():
        kind = archive_kind(item.uri)
        if kind is None:
            yield _plain(item, identity, reason=unsupported_archive(item.uri))
            continue
        members, reason = _members(Location(item.uri, source.endpoint_url), kind)
        if reason:
            yield _plain(item, identity, reason=reason)
        for number, member in enumerate(members):
            yield _inside(item, member, number, identity)


def _members(archive: Location, kind: str) -> tuple[list[Member], str | None]:
    """Return (the members of an archive, why there are none). A storage that fails is not the archive's fault."""
    try:
        with archive.open() as file:
            return list_members(file, kind), None
    except ArchiveError as error:
        return [], error.message
    except ObjectChangedError:
        return [], CHANGED
    except ObjectMissingError:
        return [], GONE


def _plain(item: StoredObject, identity: Identity, *, reason: str | None) -> Planned:
    return Planned(
        image_id=identity.image_id(item),
        uri=item.uri,
        group=_group(item.key),
        size=item.size,
        data_size=item.size,
        etag=item.etag,
        reason=reason,
    )


def _inside(item: StoredObject, member: Member, number: int, identity: Identity) -> Planned:
    return Planned(
        image_id=identity.image_id(item, member, number),
        uri=item.uri,
        member=member.name,
        group=_group(item.key) or _group(member.name) or PurePosixPath(item.key).stem,
        packing=member.packing,
        offset=member.offset,
        size=member.size,
        data_size=member.data_size,
        crc32=member.crc32,
        etag=item.etag,
        reason=member.reason,
    )


def _group(key: str) -> str | None:
    """Return the first folder of a path; `tar cf` of a folder's content begins each with `./`."""
    parts = [part for part in key.split("/") if part not in ("", ".", "..")]
    return parts[0] if len(parts) > 1 else None


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


def encode_plan(units: Iterable[list[Planned]], metadata: dict[str, str]) -> tuple[bytes, int]:
    """Return (the bytes of `plan.parquet`, micrographs planned); a unit is a row group, so a worker reads its own."""
    sink, planned = pa.BufferOutputStream(), 0
    schema = PLAN_SCHEMA.with_metadata(metadata)
    # statistics would only make the directory larger, which every worker reads
    with pq.ParquetWriter(sink, schema, compression="zstd", write_statistics=False) as writer:
        for unit in units:
            planned += len(unit)
            writer.write_table(
                pa.Table.from_pylist([vars(one) for one in unit], schema=schema), row_group_size=len(unit)
            )
    return bytes(sink.getvalue()), planned


class Plan:
    """A stored plan, of which only the directory and the units asked for are read.

    Raises:
        ObjectMissingError: it is not there.
        RunError: it is damaged.
    """

    def __init__(self, location: Location) -> None:
        try:
            self._file = pq.ParquetFile(location.open())
        except pa.ArrowException as error:
            raise RunError(
                f"{location.uri} is damaged ({first_line(error)}); delete this run's folders in runs/ and results/, "
                "and segment again"
            ) from error

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
        stored: dict[bytes, bytes] = self._file.schema_arrow.metadata or {}
        return {key.decode(): value.decode() for key, value in stored.items() if not key.startswith(b"ARROW:")}

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
        return _digest(self._image_ids(number))

    def image_ids(self) -> Iterator[str]:
        """Yield the ids of all micrographs planned, in their order."""
        for number in range(self.units):
            yield from self._image_ids(number)

    def replaced_ids(self) -> Iterator[str]:
        """Yield the image ids of the rejected rows that this run's rows are to replace."""
        if "retry_of" in self._file.schema_arrow.names:  # not in a plan of an earlier version
            for number in range(self.units):
                yield from filter(None, self._column(number, "retry_of"))

    def _image_ids(self, number: int) -> list[str]:
        return self._column(number, "image_id")

    def _column(self, number: int, name: str) -> list[str]:
        return list(self._file.read_row_group(number, columns=[name], use_threads=False)[name].to_pylist())


def _digest(parts: Iterable[str]) -> str:
    """Return the id of a list of texts; JSON, so that no text can pass for two."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:ID_LENGTH]
