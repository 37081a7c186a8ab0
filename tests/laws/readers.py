"""Reads one untrusted file as the nightly job and `spermseg prepare` do, and says what came of it."""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from laws.kinds import ARCHIVES, HEIGHT, PICTURES, WIDTH

from spermseg.annotation.annotation import Annotation, annotated_frame, check_inside, list_parts, part_flags
from spermseg.annotation.formats import read_annotations
from spermseg.errors import SpermsegError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.header import Header, read_header
from spermseg.micrograph.tiling import Tiles, View
from spermseg.storage.archives.directory import TAR_GZ, Member, list_members, stream_members, unpack_member

MAX_MEGAPIXELS = 1.0
REDUCING = [Tiles(scale=scale, tile=16, halo=0) for scale in (0.5, 0.25, 0.125)]
"""Views for which a JPEG is decoded at a half, a quarter and an eighth."""
MAX_MEMBER_BYTES = 1 << 24
LONGEST_MESSAGE = 1000

Read = Callable[[str, bytes], list[str]]
"""(kind, file) -> why it, or parts of it, were rejected; none where all of it was accepted."""


class LawBrokenError(Exception):
    """What came out is not what was promised, though no exception said so."""


def read_untrusted(kind: str, data: bytes) -> list[str]:
    """Read a file of a kind, and return why it, or parts of it, were rejected."""
    if kind in PICTURES:
        errors = list(_errors(lambda: _read_picture(data)))
    elif kind in ARCHIVES:
        errors = list(_read_archive(kind, data))
    else:
        errors = list(_read_annotation(data))
    return [_reason(error) for error in errors]


def _errors(call: Callable[[], object]) -> Iterator[SpermsegError]:
    try:
        call()
    except SpermsegError as error:
        yield error


def _read_picture(data: bytes) -> None:
    header = read_header(data)
    whole = list(_errors(lambda: _decode(data, header, None)))
    for view in REDUCING:
        reduced = list(_errors(lambda view=view: _decode(data, header, view)))
        if bool(reduced) != bool(whole) and not _missing_at_random(whole):
            raise LawBrokenError(f"{view} finds {reduced}, where the whole picture has {whole}")
    for error in whole:
        raise error


def _decode(data: bytes, header: Header, view: View | None) -> None:
    picture = decode_micrograph(data, max_megapixels=MAX_MEGAPIXELS, view=view)
    pixels, by = picture.pixels, picture.reduction
    if pixels.shape[2:] != (3,) or pixels.dtype != np.uint8 or not pixels.size:
        raise LawBrokenError(f"pixels of {pixels.shape} {pixels.dtype} for {header}")
    if picture.native_shape != (header.height, header.width) or (by > 1 and (view is None or header.format != "JPEG")):
        raise LawBrokenError(f"pixels of {pixels.shape}, reduced by {by} for {view}, for {header}")


def _missing_at_random(errors: list[SpermsegError]) -> bool:
    """Whether damage that no format shows made the last pixel that grey which is looked into, at one scale only."""
    return any("its lower part is missing" in error.message for error in errors)


def _read_archive(kind: str, data: bytes) -> Iterator[SpermsegError]:
    members: list[Member] = []
    yield from _errors(lambda: members.extend(list_members(io.BytesIO(data), kind)))
    yield from (SpermsegError(member.reason) for member in members if member.reason)
    usable = [member for member in members if not member.reason]
    streamed = [(member.offset, member.size) for member in usable if member.packing == TAR_GZ]
    for _ in stream_members(io.BytesIO(data), streamed):  # listed as usable, so all of it can be read
        pass
    for member in usable:
        if member.packing != TAR_GZ:
            yield from _errors(lambda member=member: _unpack(data, member))


def _unpack(data: bytes, member: Member) -> None:
    blob = data[member.offset : member.offset + member.size]
    if len(blob) != member.size:
        raise LawBrokenError(f"{member} reaches beyond the archive's {len(data)} bytes")
    unpacked = unpack_member(blob, member.packing, member.data_size, member.crc32, MAX_MEMBER_BYTES)
    if len(unpacked) != member.data_size:
        raise LawBrokenError(f"{member} unpacked to {len(unpacked)} bytes")


def _read_annotation(data: bytes) -> Iterator[SpermsegError]:
    faults: list[SpermsegError] = []
    annotations: list[Annotation] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        path.write_bytes(data)
        try:
            annotations = read_annotations(path, on_fault=lambda name, error: faults.append(error))
        except SpermsegError as error:
            faults.append(error)
    yield from faults
    upright = Header(width=WIDTH, height=HEIGHT, format="JPEG", orientation=1, pages=1)
    turned = Header(width=HEIGHT, height=WIDTH, format="JPEG", orientation=6, pages=1)
    for annotation in annotations:
        # without a size it counts in the shown frame, and would not fit the turned one
        for header in (upright, turned) if annotation.width else (upright,):
            yield from _errors(lambda annotation=annotation, header=header: _draw(annotation, header))


def _draw(annotation: Annotation, header: Header) -> None:
    frame = annotated_frame(annotation, header)
    check_inside(annotation, frame)
    flags = part_flags(annotation, frame, list_parts([annotation], None), None)
    if flags.shape != (header.height, header.width):
        raise LawBrokenError(f"a mask of {flags.shape} for {header}")


def _reason(error: SpermsegError) -> str:
    """Return the message, which is one line that can be stored; memory that ran out is no reason of a file's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, cv2.error) and "nsufficient memory" in str(cause)):
            raise MemoryError("asked for more memory than it may have") from cause
        cause = cause.__cause__ or cause.__context__
    if len(error.message.splitlines()) != 1:
        raise LawBrokenError(f"a message that is not one line: {error.message!r}")
    error.message.encode()
    if len(error.message) > LONGEST_MESSAGE:
        raise LawBrokenError(f"a message of {len(error.message)} characters: {error.message[:200]!r}")
    return error.message
