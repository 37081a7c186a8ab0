"""What a listing and the directories of its archives show -> what is planned. Nothing is skipped in silence."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from spermseg.batch.plan import CHANGED, DENIED, GONE, Identity, Planned
from spermseg.errors import ArchiveError, ObjectChangedError, ObjectDeniedError, ObjectMissingError
from spermseg.storage.ahead import map_ahead, threads_ahead
from spermseg.storage.archives import Member, archive_kind, list_members, unsupported_archive
from spermseg.storage.filesystem import Location, StoredObject

ARCHIVES_AT_ONCE = 4
"""Archives whose directories are read at once; those of so many may lie in memory."""
FILES_AT_ONCE = 1000
"""Plain files that are taken together, where no archive is among them."""


def list_uploads(source: Location, identity: Identity) -> Iterator[Planned]:
    """Yield every micrograph below `source`: each file, and each member of each archive, in the order of the paths.

    What cannot be a micrograph is yielded as well, with its reason: nothing is skipped in silence.

    Raises:
        StorageError: `source` could not be listed, or the storage failed where an archive was to be read.
    """

    def read(group: list[StoredObject]) -> tuple[list[StoredObject], list[Member], str | None]:
        return group, *_members(group[-1], source.endpoint_url)

    with threads_ahead(ARCHIVES_AT_ONCE) as pool:
        for group, members, reason in map_ahead(pool, read, _groups(source.list()), count=ARCHIVES_AT_ONCE):
            yield from (_plain(item, identity, reason=unsupported_archive(item.uri)) for item in group[:-1])
            last = group[-1]
            if reason or archive_kind(last.uri) is None:
                yield _plain(last, identity, reason=reason or unsupported_archive(last.uri))
            yield from (_inside(last, member, number, identity) for number, member in enumerate(members))


def _groups(items: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    """Yield listed files, some at a time; an archive is the last of its group."""
    group: list[StoredObject] = []
    for item in items:
        group.append(item)
        if len(group) == FILES_AT_ONCE or archive_kind(item.uri) is not None:
            yield group
            group = []
    if group:
        yield group


def _members(item: StoredObject, endpoint_url: str | None) -> tuple[list[Member], str | None]:
    """Return (the members of an archive, why there are none). A storage that fails is not the archive's fault."""
    kind = archive_kind(item.uri)
    if kind is None:
        return [], None
    try:
        with Location(item.uri, endpoint_url).open() as file:
            return list_members(file, kind), None
    except ArchiveError as error:
        return [], error.message
    except ObjectChangedError:
        return [], CHANGED
    except ObjectMissingError:
        return [], GONE
    except ObjectDeniedError:
        return [], DENIED


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
