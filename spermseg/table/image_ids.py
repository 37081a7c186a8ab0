"""Sets of image ids. An id takes 16 bytes, so the ids of years fit in memory."""

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
    """Return the id of a list of texts. The list is hashed as JSON, so that different lists have different ids."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:ID_LENGTH]


class ImageIds:
    """An immutable set of image ids. Texts that are not in the form of an id are left out, since no upload has them.

    >>> ids = ImageIds([["00" * 16, "0f" * 16]])
    >>> "0f" * 16 in ids, "f0" * 16 in ids, len(ids)
    (True, False, 2)
    """

    def __init__(self, batches: Iterable[Iterable[str]]) -> None:
        packed = b"".join(_pack(batch) for batch in batches)
        self._ids = np.unique(np.frombuffer(packed, np.dtype(f"S{ID_BYTES}")))
        self._bytes = self._ids.view(np.uint8).data  # numpy values of the type S16 lose zero bytes at their end

    @classmethod
    def union(cls, several: Iterable["ImageIds"]) -> "ImageIds":
        """Return the union of several sets."""
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
