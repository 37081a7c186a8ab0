"""Sets of image ids, 16 bytes each: a table's ids of years fit in memory."""

import hashlib
import json
import re
from collections.abc import Iterable

import numpy as np

ID_LENGTH = 32
"""Hexadecimal digits of an image or unit id: 128 bits."""
ID_BYTES = ID_LENGTH // 2
_ID = re.compile(f"[0-9a-f]{{{ID_LENGTH}}}")


def digest(parts: Iterable[str]) -> str:
    """Return the id of a list of texts; JSON, so that no text can pass for two."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:ID_LENGTH]


class ImageIds:
    """A set of image ids, made once. What is no id of this project's making is left out: it is that of no upload.

    >>> ids = ImageIds([["00" * 16, "0f" * 16]])
    >>> "0f" * 16 in ids, "f0" * 16 in ids, len(ids)
    (True, False, 2)
    """

    def __init__(self, batches: Iterable[Iterable[str]]) -> None:
        packed = b"".join(_pack(batch) for batch in batches)
        self._ids = np.unique(np.frombuffer(packed, np.dtype(f"S{ID_BYTES}")))
        self._bytes = self._ids.view(np.uint8).data

    @classmethod
    def union(cls, several: Iterable["ImageIds"]) -> "ImageIds":
        """Return the ids that are in any of several sets."""
        made = cls(())
        made._ids = np.unique(np.concatenate([made._ids, *(one._ids for one in several)]))
        made._bytes = made._ids.view(np.uint8).data
        return made

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: str) -> bool:
        wanted = _pack([image_id])
        start = ID_BYTES * int(self._ids.searchsorted(wanted))
        return bool(wanted) and self._bytes[start : start + ID_BYTES] == wanted


def _pack(ids: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(filter(_ID.fullmatch, ids)))
