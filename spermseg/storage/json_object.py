"""JSON files of a table. Reading returns an object, or raises `DamagedError` for any other content."""

import json
import math
from typing import Any, NoReturn

from spermseg.errors import DamagedError, first_line
from spermseg.storage.seal import BLANK, read_seal, seal
from spermseg.texts import json_text

LARGEST = 1 << 26
"""Limit on the bytes of a file: sixty times those of a run in which each upload is rejected for another reason."""
_KEY = "sha256"
_MARK = f'\n  "{_KEY}": "'.encode()


def encode_sealed(said: dict[str, Any]) -> bytes:
    """Return an object as JSON text, with a digest of these bytes in its last line."""
    return seal(json_text({**said, _KEY: BLANK}).encode(), _MARK)


def decode_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes. If there is a seal, it is verified and removed.

    Raises:
        DamagedError: the bytes are no JSON object, or do not fit their seal.
    """
    if len(data) > LARGEST:
        raise DamagedError(f"it has {len(data)} bytes; at most {LARGEST} are read")
    sealed = read_seal(data, _MARK)
    try:
        said = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DamagedError(first_line(error)) from error
    if not isinstance(said, dict):
        raise DamagedError("a JSON object is needed")
    if sealed:
        said.pop(_KEY, None)
    return said


def is_sealed(data: bytes) -> bool:
    """Whether some JSON text has a seal."""
    return _MARK in data


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number
