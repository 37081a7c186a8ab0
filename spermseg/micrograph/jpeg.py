"""The header of a JPEG (ITU-T T.81, annex B), read in one pass and bounded time.

Pillow's reader reads byte by byte between two segments and keeps every segment. A file of many small segments keeps it
busy for minutes. This module reads only the frame, EXIF and XMP.
"""

import re
from dataclasses import dataclass

from spermseg.errors import MicrographError
from spermseg.micrograph.diagnose import broken
from spermseg.micrograph.orientation import read_orientation

MOST_SEGMENTS = 10_000
"""Limit on the segments before the pixels. A colour profile of 16 MB takes 256 segments."""
MOST_SCANS = 100
"""Limit on the scans. Encoders write about 10. A scan of a few bytes still costs a pass over the whole picture."""
ANY_MARKER = re.compile(rb"\xff[\x01-\xfe]")
MARKER_BEHIND_PIXELS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""All markers except the restart markers, which lie among the pixels."""
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
END, SCAN, CAMERA_NOTES = 0xD9, 0xDA, 0xE1
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
FRAMES = {
    0xC0: "baseline",
    0xC1: "sequential",
    0xC2: "progressive",
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
    0xC9: "arithmetic",
    0xCA: "arithmetic",
    0xCB: "lossless",
    0xF7: "JPEG-LS",
}
"""How a frame is coded, by its marker (table B.1; 0xF7 is ISO/IEC 14495-1)."""
UNREAD = ("lossless", "hierarchical", "JPEG-LS")
SAVE_AS = "save it as an ordinary JPEG, PNG or TIFF"


@dataclass(frozen=True, kw_only=True)
class JpegFrame:
    """The frame header of a JPEG, and its orientation."""

    width: int
    """px, as stored."""
    height: int
    """px, as stored."""
    coding: str
    """One of `FRAMES`."""
    orientation: int


def read_frame(data: bytes) -> JpegFrame:
    """Read the frame header of a JPEG.

    Raises:
        MicrographError: the file is damaged, of a kind that is not supported, or would take hours to decode.
    """
    frame, coding, notes, position = b"", "", dict.fromkeys((EXIF, XMP), b""), 2
    for _ in range(MOST_SEGMENTS):
        marker, segment, position = _next_segment(data, ANY_MARKER, position)
        if marker == SCAN:
            _check_scans(data, coding, frame, segment, position)
            break
        if marker in FRAMES and not frame:
            frame, coding = segment, FRAMES[marker]
        if marker == CAMERA_NOTES:
            kind = next((kind for kind in notes if segment.startswith(kind)), None)
            if kind and not notes[kind]:
                notes[kind] = segment[len(kind) :]
    else:
        raise MicrographError(f"JPEG with more than {MOST_SEGMENTS} segments before its pixels; {SAVE_AS}")
    width, height = (int.from_bytes(frame[start : start + 2], "big") for start in (3, 1))
    if not width or not height:
        raise MicrographError(broken("JPEG"))
    orientation = read_orientation(notes[EXIF], notes[XMP])
    return JpegFrame(width=width, height=height, coding=coding, orientation=orientation)


def _next_segment(data: bytes, marker: re.Pattern[bytes], position: int) -> tuple[int, bytes, int]:
    """Return (the next marker, the content of its segment, the end of the segment). Skip bytes before the marker."""
    found = marker.search(data, position)
    if not found or data[found.start() + 1] == END:
        raise MicrographError(broken("JPEG"))
    kind, start = data[found.start() + 1], found.end()
    if kind in WITHOUT_LENGTH:
        return kind, b"", start
    end = start + max(2, int.from_bytes(data[start : start + 2], "big"))
    if end > len(data):
        raise MicrographError(broken("JPEG"))
    return kind, data[start + 2 : end], end


def _check_scans(data: bytes, coding: str, frame: bytes, scan: bytes, position: int) -> None:
    if not frame or len(frame) < 6 or not scan:
        raise MicrographError(broken("JPEG"))
    if coding in UNREAD:
        raise MicrographError(f"JPEG of the {coding} kind, which is not read; {SAVE_AS}")
    if frame[0] != 8:
        raise MicrographError(f"JPEG of {frame[0]} bits, which is not read; save it with 8 bits, or as PNG or TIFF")
    if scan[0] == frame[5] and coding in ("baseline", "sequential"):
        return  # decoders stop at the first scan that has all colours
    for _ in range(MOST_SCANS):
        try:
            kind = 0
            while kind != SCAN:
                kind, _, position = _next_segment(data, MARKER_BEHIND_PIXELS, position)
        except MicrographError:  # the end of the file; the decoder reports what is missing
            return
    raise MicrographError(f"JPEG of more than {MOST_SCANS} scans, which no camera writes; {SAVE_AS}")
