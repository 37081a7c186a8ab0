"""The bytes of planned micrographs. What is wrong with an upload becomes its reason; a storage that fails is raised.

Objects, and members that are byte ranges, are read several at a time: each alone waits for the server most of the time.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from spermseg.errors import ArchiveError, ObjectChangedError, ObjectDeniedError, ObjectMissingError, SpermsegError
from spermseg.storage.archives.directory import TAR_GZ, stream_members, unpack_member
from spermseg.storage.filesystem import Location
from spermseg.storage.prefetch import map_ahead
from spermseg.storage.s3.backend import client, resolve_endpoint
from spermseg.table.plan import CHANGED, DENIED, GONE, Plan, Planned

LARGEST_FILE = 2**30
"""Bytes; a larger file is rejected before it is fetched: no micrograph is that large, and memory is finite."""
READ_AT_ONCE, BYTES_AT_ONCE = 8, 64 * 2**20
"""Files of a unit that are read at the same time, and how large they may be together; a larger one is read alone."""
READING = "reading"
"""Name of the threads that read."""
FAULTS_OF_AN_UPLOAD = (ObjectChangedError, ObjectMissingError, ObjectDeniedError, ArchiveError)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The bytes of a planned micrograph, or why there are none."""

    data: bytes = b""
    reason: str | None = None


def fetch_jobs(plan: Plan, units: Iterable[int]) -> Iterator[list[int]]:
    """Yield the units that one worker fetches: one, or all that share an archive which can only be read in order."""
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
    """Yield the bytes of micrographs, in order; an archive that can only be read in order is read once for that.

    All else is read several files at a time. Reasons are the same words for all that is wrong alike, without names or
    places, since they are counted.

    Args:
        planned: what is planned; neighbours in an archive are best given together. Where the members of a compressed
            one go back, it is read once more from its start.
        source: where they were listed. Nothing else is read, and nothing through a link that lies there.

    Raises:
        StorageError: the storage failed or refused. That says nothing of the upload, which can be read another time.
    """
    for archive, group in groupby(planned, key=_streamed):
        if archive is None:
            yield from _fetch_ahead(group, source)
        else:
            for ascending in _split_where_it_goes_back(group):
                yield from _fetch_streamed(source, archive, ascending)


def _fetch_ahead(group: Iterable[Planned], source: Location) -> Iterator[Fetched]:
    """Yield the bytes of files that can be reached by themselves, in order."""
    pool = ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix=READING)
    fetch, known = partial(_fetch_one, source=source), _with_client(group, source)
    try:
        yield from map_ahead(pool, fetch, known, count=READ_AT_ONCE, size=_bytes_of, total=BYTES_AT_ONCE)
    finally:  # where the storage failed, those under way are awaited, and no other is begun
        pool.shutdown(cancel_futures=True)


def _with_client(group: Iterable[Planned], source: Location) -> Iterator[Planned]:
    """Yield what is given, when the client of its server is made: else several threads would each make one."""
    for one in group:
        if source.is_s3:
            client(resolve_endpoint(source.endpoint_url))
        yield one


def _bytes_of(one: Planned) -> int:
    return 0 if _refusal(one) else max(one.size, one.data_size)


def _streamed(one: Planned) -> str | None:
    """Return the archive of a member that can only be reached by reading all that comes before it."""
    return one.uri if one.packing == TAR_GZ else None


def _split_where_it_goes_back(group: Iterable[Planned]) -> Iterator[list[Planned]]:
    """Yield members of a compressed archive in parts that one pass can read: a retry plans some of them last."""
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
    """Yield the members of a compressed archive; where reading it fails, all that follows has the same reason."""
    refusals = [_refusal(one) for one in group]
    wanted = [(one.offset, one.size) for one, refusal in zip(group, refusals, strict=True) if not refusal]
    done, fault = 0, ""
    try:
        archive = source.upload(uri)
        with archive.open() as file:  # holds on to the version that it finds, and that is the one to compare
            if archive.stat().etag != group[0].etag:
                raise ObjectChangedError(f"{archive.uri} changed since planned")
            members = stream_members(file, wanted)
            for refusal in refusals:
                fetched = Fetched(reason=refusal) if refusal else Fetched(data=next(members))
                done += 1
                yield fetched
    except FAULTS_OF_AN_UPLOAD as error:
        fault = _reason(error)
    yield from (Fetched(reason=refusal or fault) for refusal in refusals[done:])


def _refusal(one: Planned) -> str | None:
    """Return why an upload is not even read."""
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
