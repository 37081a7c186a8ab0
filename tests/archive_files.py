"""Archives made in memory, and their members read as a worker does."""

import io
import tarfile
import zipfile

from spermseg.storage.archives import Member, list_members, unpack_member

LIMIT = 1 << 20
"""Bytes that a member may unpack to."""


def zip_of(pairs, packing=zipfile.ZIP_DEFLATED, force_zip64=False, prefix=b"") -> bytes:
    sink = io.BytesIO(prefix)
    sink.seek(0, io.SEEK_END)
    with zipfile.ZipFile(sink, "a" if prefix else "w") as archive:
        for number, (name, data) in enumerate(pairs):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = packing if number % 2 == 0 else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=force_zip64) as file:
                file.write(data)
    return sink.getvalue()


def tar_of(pairs, kind=tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        for name, data in pairs:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def listed(blob: bytes, kind: str) -> list[Member]:
    return list_members(io.BytesIO(blob), kind)


def unpacked(blob: bytes, member: Member, limit: int = LIMIT) -> bytes:
    part = blob[member.offset : member.offset + member.size]
    return unpack_member(part, member.packing, member.data_size, member.crc32, limit)


def only(members: list[Member]) -> Member:
    assert len(members) == 1
    return members[0]
