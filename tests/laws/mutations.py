"""Real files, damaged. A mutation is a pure function of its kind and seed, so two words replay it."""

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable

from laws.json_mutations import mutate_json
from laws.kinds import ANNOTATIONS, KINDS
from laws.real_files import real_files

EXTREMES = (0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1)
TAR_BLOCK, TAR_CHECKSUM = 512, slice(148, 156)

Mutator = Callable[[random.Random, bytearray], None]


def mutate(kind: str, seed: int) -> bytes:
    """Return a file of a kind with one to four faults, the same for the same seed."""
    rng = random.Random(f"{kind}:{seed}")
    data = rng.choice(real_files(kind))
    if kind in ANNOTATIONS:
        data = mutate_json(rng, data, lambda inner: _mutate_bytes(rng, inner, "png"))
        return data if rng.random() < 0.8 else _mutate_bytes(rng, data, kind)
    if kind == "png" and rng.random() < 0.25:
        return _mutate_pixels(rng, data)
    if kind == "tar.gz" and rng.random() < 0.6:  # most damage never gets past gzip's checksum
        return gzip.compress(_mutate_bytes(rng, gzip.decompress(data), "tar"), mtime=0)
    return _mutate_bytes(rng, data, kind)


def _mutate_bytes(rng: random.Random, source: bytes, kind: str) -> bytes:
    data = bytearray(source)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.08:
            _splice(rng, data, kind)
        elif data:
            rng.choice(MUTATORS)(rng, data)
    if kind in REPAIRS and rng.random() < 0.7:
        REPAIRS[kind](data)
    return bytes(data)


def _mutate_pixels(rng: random.Random, data: bytes) -> bytes:
    """Damage what is packed in the first part of a PNG, which nothing but its decoder will notice."""
    start = data.index(b"IDAT") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    packed = zlib.compress(_mutate_bytes(rng, zlib.decompressobj().decompress(data[start + 8 : start + 8 + size]), ""))
    body = b"IDAT" + packed
    chunk = struct.pack(">I", len(packed)) + body + struct.pack(">I", zlib.crc32(body))
    return data[:start] + chunk + data[start + 12 + size :]


def _place(rng: random.Random, data: bytearray) -> int:
    """Return a position; the first and last bytes say what a file is, and are more interesting than pixels."""
    where = rng.random()
    reach = min(len(data), 200)
    if where < 0.4:
        return rng.randrange(reach)
    return len(data) - 1 - rng.randrange(reach) if where < 0.6 else rng.randrange(len(data))


def _block(rng: random.Random, data: bytearray) -> slice:
    start = _place(rng, data)
    return slice(start, start + rng.choice((1, 2, 4, 8, 16, 64, 512)))


def _flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _set_bytes(rng: random.Random, data: bytearray) -> None:
    where = _block(rng, data)
    size = len(data[where])
    data[where] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[_place(rng, data) :]


def _delete(rng: random.Random, data: bytearray) -> None:
    del data[_block(rng, data)]


def _duplicate(rng: random.Random, data: bytearray) -> None:
    where = _block(rng, data)
    data[where] = data[where] * rng.choice((2, 2, 50))


def _move(rng: random.Random, data: bytearray) -> None:
    """Swap a block with what lies elsewhere."""
    where = _block(rng, data)
    block = data[where]
    del data[where]
    to = rng.randrange(len(data) + 1)
    data[to:to] = block


def _set_field(rng: random.Random, data: bytearray) -> None:
    """Put an extreme number of 2, 4 or 8 bytes where there may be a size or an offset."""
    size = rng.choice((2, 4, 8))
    number = rng.choice(EXTREMES) & (2 ** (8 * size) - 1)
    where = _place(rng, data) // 2 * 2
    data[where : where + size] = number.to_bytes(size, rng.choice(("big", "little")))


def _splice(rng: random.Random, data: bytearray, kind: str) -> None:
    """Go on with the rest of another file, mostly one of the same kind."""
    other = rng.choice(real_files(kind if kind in KINDS and rng.random() < 0.8 else rng.choice(KINDS)))
    cut = rng.randrange(len(data) + 1)
    data[cut:] = other[rng.choice((cut, rng.randrange(len(other)))) :]


MUTATORS: tuple[Mutator, ...] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _truncate,
    _delete,
    _duplicate,
    _move,
    _set_field,
    _set_field,
)


def _repair_png(data: bytearray) -> None:
    """Make the checksum of every chunk true again, so that what is in it is read."""
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4


def _repair_tar(data: bytearray) -> None:
    """Make the checksum of every header true again."""
    for magic in re.finditer(b"ustar", bytes(data)):
        start = magic.start() - 257
        if start < 0 or start % TAR_BLOCK or start + TAR_BLOCK > len(data):
            continue
        header = data[start : start + TAR_BLOCK]
        header[TAR_CHECKSUM] = b" " * 8
        data[start + TAR_CHECKSUM.start : start + TAR_CHECKSUM.stop] = b"%06o\0 " % sum(header)


REPAIRS: dict[str, Callable[[bytearray], None]] = {"png": _repair_png, "tar": _repair_tar}
