"""What a listing and the directories of its archives show -> what is planned. Nothing is skipped in silence."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from spermseg.errors import ArchiveError, ObjectChangedError, ObjectDeniedError, ObjectMissingError
from spermseg.micrograph.diagnose import picture_format
from spermseg.storage.archives.directory import (
    MAX_UNPACKED,
    TAR_GZ,
    Member,
    is_archive_name,
    list_members,
    stored_kind,
)
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.storage.prefetch import map_ahead, threads_ahead
from spermseg.storage.system_files import SYSTEM_FILES, is_system_file
from spermseg.table.plan import CHANGED, DENIED, GONE, Identity, Planned
from spermseg.texts import composed

ARCHIVES_AT_ONCE = 4
"""Archives whose directories are read at once; those of so many may lie in memory."""
FILES_AT_ONCE = 1000
"""Plain files that are taken together, where no archive is among them."""
DRIVE = re.compile("[A-Za-z]:")
"""What a name begins with that was packed with its whole path on Windows."""
NO_FILE = "the archive holds no file"
SYSTEM_FILES_ONLY = f"the archive holds no file but {SYSTEM_FILES}"


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What was found in an upload."""

    members: list[Member] | None = None
    """Of an archive that can be read; None where the upload is one by itself."""
    reason: str | None = None
    """Why it is rejected."""
    streamed: bool = False
    """Whether its members can only be reached by reading all that comes before them."""


PLAIN = _Contents()


def list_uploads(
    source: Location, identity: Identity, passed_over: Counter[str] | None = None, max_unpacked: int = MAX_UNPACKED
) -> Iterator[Planned]:
    """Yield every micrograph below `source`: each file, and each member of each archive, in the order of the paths.

    What cannot be a micrograph is yielded as well, with its reason: nothing is skipped in silence. What nobody uploaded
    is counted: files of operating systems, and links to what is listed under its own path.

    Args:
        source: the uploads.
        identity: what their ids are made of.
        passed_over: counts, by kind, what is no upload.
        max_unpacked: bytes that one archive may unpack to; what is in it beyond is rejected.

    Raises:
        StorageError: `source` could not be listed, or the storage failed where an archive was to be read.
    """
    counts: Counter[str] = Counter() if passed_over is None else passed_over

    def read(group: list[StoredObject]) -> tuple[list[StoredObject], _Contents]:
        return group, _contents(source, group[-1], max_unpacked)

    with threads_ahead(ARCHIVES_AT_ONCE) as pool:
        items = _uploads(source.list_uploads(), counts)
        for group, contents in map_ahead(pool, read, _groups(items), count=ARCHIVES_AT_ONCE):
            yield from (_plain(item, identity, item.reason) for item in group[:-1])
            if contents.members is None:
                yield _plain(group[-1], identity, contents.reason)
            else:
                yield from _inside_all(group[-1], contents, identity, counts)


def _uploads(items: Iterable[StoredObject], counts: Counter[str]) -> Iterator[StoredObject]:
    """Yield what somebody uploaded, and count what nobody did."""
    for item in items:
        kind = item.passed_over or (SYSTEM_FILES if is_system_file(item.key) else None)
        if kind is None:
            yield item
        else:
            counts[kind] += 1


def _groups(items: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    """Yield listed files, some at a time; an archive is the last of its group."""
    group: list[StoredObject] = []
    for item in items:
        group.append(item)
        if len(group) == FILES_AT_ONCE or is_archive_name(item.uri):
            yield group
            group = []
    if group:
        yield group


def _contents(source: Location, item: StoredObject, max_unpacked: int) -> _Contents:
    """Return what is in an upload. A storage that fails is not the upload's fault."""
    if item.reason or not is_archive_name(item.uri):
        return _Contents(reason=item.reason)
    try:
        with source.upload(item.uri).open() as file:
            try:
                kind = stored_kind(file, item.uri)
                members = list_members(file, kind, max_unpacked)
            except ArchiveError as error:
                file.seek(0)
                return PLAIN if picture_format(file.read(64)) else _Contents(reason=error.message)
    except ObjectChangedError:
        return _Contents(reason=CHANGED)
    except ObjectMissingError:
        return _Contents(reason=GONE)
    except ObjectDeniedError:
        return _Contents(reason=DENIED)
    return _Contents(members=members, streamed=kind == "tar.gz") if members else _Contents(reason=NO_FILE)


def _inside_all(item: StoredObject, contents: _Contents, identity: Identity, counts: Counter[str]) -> Iterator[Planned]:
    """Yield the members of an archive that somebody packed on purpose, or the archive itself where there are none."""
    members = list(enumerate(contents.members or ()))
    meant = [(number, member) for number, member in members if member.reason or not is_system_file(member.name)]
    if len(meant) < len(members):
        counts[SYSTEM_FILES] += len(members) - len(meant)
    if not meant:
        yield _plain(item, identity, SYSTEM_FILES_ONLY)
    packing = TAR_GZ if contents.streamed else ""  # also of what is rejected: all of it is one pass
    yield from (_inside(item, member, number, identity, member.packing or packing) for number, member in meant)


def _plain(item: StoredObject, identity: Identity, reason: str | None) -> Planned:
    return Planned(
        image_id=identity.image_id(item),
        uri=item.uri,
        group=_group(item.key),
        size=item.size,
        data_size=item.size,
        etag=item.etag,
        reason=reason,
    )


def _inside(item: StoredObject, member: Member, number: int, identity: Identity, packing: str) -> Planned:
    return Planned(
        image_id=identity.image_id(item, member, number),
        uri=item.uri,
        member=member.name,
        group=_group(item.key) or _group(member.name) or composed(PurePosixPath(item.key).stem),
        packing=packing,
        offset=member.offset,
        size=member.size,
        data_size=member.data_size,
        crc32=member.crc32,
        etag=item.etag,
        reason=member.reason,
    )


def _group(key: str) -> str | None:
    """Return the first folder of a path; `tar cf` of a folder's content begins each with `./`."""
    folders = [part for part in key.split("/")[:-1] if part not in ("", ".", "..") and not DRIVE.fullmatch(part)]
    return composed(folders[0]) if folders else None
