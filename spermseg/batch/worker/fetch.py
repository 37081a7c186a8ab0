"""The bytes of planned micrographs.

A fault of an upload becomes its reject reason. A failure of the storage is raised.

Several files are read at the same time, because one read waits for the server most of its time.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby, repeat

from spermseg.errors import ArchiveError, ObjectChangedError, ObjectDeniedError, ObjectMissingError, SpermsegError
from spermseg.storage.archives.directory import TAR_GZ, stream_members, unpack_member
from spermseg.storage.filesystem import Location
from spermseg.storage.prefetch import map_ahead
from spermseg.storage.s3.backend import client, resolve_endpoint
from spermseg.table.plan import CHANGED, DENIED, GONE, Plan, Planned

LARGEST_FILE = 2**30
"""Bytes. A larger file is rejected before it is fetched: no micrograph is that large, and the memory has to hold it."""
READ_AT_ONCE, BYTES_AT_ONCE = 8, 64 * 2**20
"""Most files of a unit that are read at the same time, and most bytes of them all. A larger file is read alone."""
READING = "reading"
"""Start of the names of the threads that read."""
FAULTS_OF_AN_UPLOAD = (ObjectChangedError, ObjectMissingError, ObjectDeniedError, ArchiveError)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The bytes of a planned micrograph, or the reason why there are none."""

    data: bytes = b""
    reason: str | None = None


def fetch_jobs(plan: Plan, units: Iterable[int]) -> Iterator[list[int]]:
    """Group units by the task that fetches them.

    A task fetches one unit. Neighbouring units of one compressed archive go to one task, which reads the archive once.
    """
    job: list[int] = []
    before: str | None = None
    for number in units:
        unit = plan.unit(number)
        if job and (before is None or _streamed(unit[0]) != before):
            yield job
            job = []
        job.append(number)
        before = _streamed(unit[-1])
    if job:
        yield job


def fetch_all(planned: Iterable[Planned], source: Location) -> Iterator[Fetched]:
    """Yield the bytes of micrographs, in order.

    Members of a compressed archive (.tar.gz) are read in one pass over the archive. Other files are read several at a
    time. Uploads with the same fault get the same reason, without names or paths, since a receipt counts the reasons.

    Args:
        planned: the micrographs. Members of one compressed archive should be neighbours and in the order of the
            archive. Where their order goes back, the archive is read again from its start.
        source: where the uploads were listed. Only files below it are read, and no links.

    Raises:
        StorageError: the storage failed or refused. The uploads may be sound, and can be read another time.
    """
    for archive, group in groupby(planned, key=_streamed):
        if archive is None:
            yield from _fetch_ahead(group, source)
        else:
            for ascending in _split_where_it_goes_back(group):
                yield from _fetch_streamed(source, archive, ascending)


def _fetch_ahead(group: Iterable[Planned], source: Location) -> Iterator[Fetched]:
    """Yield the bytes of plain files and of members that are byte ranges, in order."""
    pool = ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix=READING)
    fetch, known = partial(_fetch_one, source=source), _with_client(group, source)
    try:
        yield from map_ahead(pool, fetch, known, count=READ_AT_ONCE, size=_bytes_of, total=BYTES_AT_ONCE)
    finally:  # if the storage failed, wait for the running reads, and start no others
        pool.shutdown(cancel_futures=True)


def _with_client(group: Iterable[Planned], source: Location) -> Iterator[Planned]:
    """Yield the micrographs, once the S3 client exists. Otherwise each thread would make a client of its own."""
    for one in group:
        if source.is_s3:
            client(resolve_endpoint(source.endpoint_url))
        yield one


def _bytes_of(one: Planned) -> int:
    return 0 if _refusal(one) else max(one.size, one.data_size)


def _streamed(one: Planned) -> str | None:
    """Return the archive of a member of a compressed archive: only reading all before the member reaches it."""
    return one.uri if one.packing == TAR_GZ else None


def _split_where_it_goes_back(group: Iterable[Planned]) -> Iterator[list[Planned]]:
    """Split members of a compressed archive into parts in ascending order. A retry plans some members last."""
    part: list[Planned] = []
    end = 0
    for one in group:
        if not _refusal(one):
            if one.offset < end:
                yield part
                part = []
            end = one.offset + one.size
        part.append(one)
    if part:
        yield part


def _fetch_one(one: Planned, source: Location) -> Fetched:
    if refusal := _refusal(one):
        return Fetched(reason=refusal)
    try:
        data = source.upload(one.uri).read_range(one.offset, one.size, etag=one.etag)
        if one.packing:
            data = unpack_member(data, one.packing, one.data_size, one.crc32, LARGEST_FILE)
    except FAULTS_OF_AN_UPLOAD as error:
        return Fetched(reason=_reason(error))
    return Fetched(data=data)


def _fetch_streamed(source: Location, uri: str, group: Sequence[Planned]) -> Iterator[Fetched]:
    """Yield the bytes of members of a compressed archive, in ascending order."""
    refusals = [_refusal(one) for one in group]
    wanted = [one for one, refusal in zip(group, refusals, strict=True) if not refusal]
    members = _read_in_one_pass(source, uri, wanted)
    for refusal in refusals:
        yield Fetched(reason=refusal) if refusal else next(members)


def _read_in_one_pass(source: Location, uri: str, wanted: Sequence[Planned]) -> Iterator[Fetched]:
    """Yield the bytes of members of a compressed archive. If reading fails, all that follow get the same reason."""
    done = 0
    try:
        archive = source.upload(uri)
        with archive.open() as file:  # opened before the comparison: a later change raises when it is read
            if archive.stat().etag != wanted[0].etag:
                raise ObjectChangedError(f"{archive.uri} changed since planned")
            for data in stream_members(file, [(one.offset, one.size) for one in wanted]):
                done += 1
                yield Fetched(data=data)
    except FAULTS_OF_AN_UPLOAD as error:
        yield from repeat(Fetched(reason=_reason(error)), len(wanted) - done)


def _refusal(one: Planned) -> str | None:
    """Return why an upload is rejected before it is read; None if it is read."""
    largest = max(one.size, one.data_size)
    if not one.reason and largest > LARGEST_FILE:
        return f"the file has {largest} bytes; at most {LARGEST_FILE} are read"
    return one.reason


def _reason(error: SpermsegError) -> str:
    reasons: dict[type[SpermsegError], str] = {
        ObjectChangedError: CHANGED,
        ObjectMissingError: GONE,
        ObjectDeniedError: DENIED,
    }
    return reasons.get(type(error), error.message)
