"""A listing of the uploads, and the directories of its archives -> planned micrographs. Nothing is skipped silently."""

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
"""Archives whose directories are read at the same time. As many directories may be in memory."""
FILES_AT_ONCE = 1000
"""Most files of a group, which is listed in one step. An archive ends its group."""
DRIVE = re.compile("[A-Za-z]:")
"""Start of a member name that was packed on Windows with its whole path."""
NO_FILE = "the archive holds no file"
SYSTEM_FILES_ONLY = f"the archive holds no file but {SYSTEM_FILES}"


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What an upload contains."""

    members: list[Member] | None = None
    """Members of a readable archive. None if the upload is planned as one micrograph."""
    reason: str | None = None
    """Why the upload is rejected."""
    streamed: bool = False
    """Whether a member can only be reached by reading all that comes before it (.tar.gz)."""


PLAIN = _Contents()


def list_uploads(
    source: Location, identity: Identity, passed_over: Counter[str] | None = None, max_unpacked: int = MAX_UNPACKED
) -> Iterator[Planned]:
    """Yield every micrograph below `source`: each file, and each member of each archive, in the order of the paths.

    Files that cannot be micrographs are yielded too, with a reject reason. Two kinds of files are no uploads, and are
    only counted: files of operating systems, and links to files that are listed under their own path.

    Args:
        source: the folder of the uploads.
        identity: the model and the settings, for the image ids.
        passed_over: counts the files that are no uploads, by kind.
        max_unpacked: bytes that one archive may unpack to. Members beyond are rejected.

    Raises:
        StorageError: `source` could not be listed, or the storage failed while an archive was read.
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
    """Yield the uploads, and count the files that are none."""
    for item in items:
        kind = item.passed_over or (SYSTEM_FILES if is_system_file(item.key) else None)
        if kind is None:
            yield item
        else:
            counts[kind] += 1


def _groups(items: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    """Yield listed files in groups. An archive is the last file of its group."""
    group: list[StoredObject] = []
    for item in items:
        group.append(item)
        if len(group) == FILES_AT_ONCE or is_archive_name(item.uri):
            yield group
            group = []
    if group:
        yield group


def _contents(source: Location, item: StoredObject, max_unpacked: int) -> _Contents:
    """Return what an upload contains. A failing storage is raised, since it is no fault of the upload."""
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
    """Yield the members of an archive that are uploads, or the archive itself, rejected, if there are none."""
    members = list(enumerate(contents.members or ()))
    meant = [(number, member) for number, member in members if member.reason or not is_system_file(member.name)]
    if len(meant) < len(members):
        counts[SYSTEM_FILES] += len(members) - len(meant)
    if not meant:
        yield _plain(item, identity, SYSTEM_FILES_ONLY)
    packing = TAR_GZ if contents.streamed else ""  # rejected members too, so that the archive is fetched in one pass
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
    """Return the first folder of a path; None if it has none. `tar cf` may begin each name with `./`."""
    folders = [part for part in key.split("/")[:-1] if part not in ("", ".", "..") and not DRIVE.fullmatch(part)]
    return composed(folders[0]) if folders else None
