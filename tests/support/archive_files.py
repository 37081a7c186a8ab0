"""Archives made in memory, and their members read as a worker does."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

from spermseg.errors import SpermsegError
from spermseg.storage.archives.directory import TAR_GZ, Member, list_members, stream_members, unpack_member

Pairs = Iterable[tuple[str, bytes]]
"""(Name, data) of members."""
LIMIT = 1 << 20
"""Bytes that a member may unpack to."""


def zip_of(pairs: Pairs, packing: int = zipfile.ZIP_DEFLATED, force_zip64: bool = False, prefix: bytes = b"") -> bytes:
    sink = io.BytesIO(prefix)
    sink.seek(0, io.SEEK_END)
    with zipfile.ZipFile(sink, "a" if prefix else "w") as archive:
        for number, (name, data) in enumerate(pairs):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = packing if number % 2 == 0 else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=force_zip64) as file:
                file.write(data)
    return sink.getvalue()


def tar_of(pairs: Pairs, kind: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        for name, data in pairs:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def tar_gz_of(pairs: Pairs, kind: int = tarfile.PAX_FORMAT) -> bytes:
    return gzip.compress(tar_of(pairs, kind), mtime=0)


def archive_of(kind: str, pairs: Pairs) -> bytes:
    pack: dict[str, Callable[[Pairs], bytes]] = {"zip": zip_of, "tar": tar_of, "tar.gz": tar_gz_of}
    return pack[kind](pairs)


def tar_with(*entries: str | tarfile.TarInfo, compress: bool = False, **fields: Any) -> bytes:
    """Return a tar of entries without data, each a name or a `TarInfo`, with the same fields set on all."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz" if compress else "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info)
    return sink.getvalue()


class CountingFile(io.BytesIO):
    """A file that counts what is read of it."""

    bytes_read = 0
    largest_request = 0
    requests = 0

    def read(self, size: int | None = -1) -> bytes:
        self.largest_request = max(self.largest_request, size if size is not None and size >= 0 else 2**63)
        data = super().read(size)
        self.bytes_read += len(data)
        self.requests += bool(data)
        return data


def listed(blob: bytes, kind: str) -> list[Member]:
    return list_members(io.BytesIO(blob), kind)


def unpacked(blob: bytes, member: Member, limit: int = LIMIT) -> bytes:
    if member.packing == TAR_GZ:
        return next(stream_members(io.BytesIO(blob), [(member.offset, member.size)]))
    part = blob[member.offset : member.offset + member.size]
    return unpack_member(part, member.packing, member.data_size, member.crc32, limit)


def only(members: list[Member]) -> Member:
    assert len(members) == 1
    return members[0]


def result_or_error(call: Callable[[], Any]) -> Any:
    """Return what a call returns or the error of ours that it raises, whose message is one line."""
    try:
        result: Any = call()
    except SpermsegError as error:
        result = error
    assert not isinstance(result, SpermsegError) or "\n" not in result.message
    return result
