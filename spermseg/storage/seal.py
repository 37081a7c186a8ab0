"""Seals: a file holds the SHA-256 of its own bytes, so that any changed bit is detected without a second file.

The writer puts 64 zeros behind a mark of its choice. The seal is the SHA-256 of the file with these zeros. Its
hexadecimal digits then replace the zeros.
"""

import hashlib

from spermseg.errors import DamagedError

BLANK = "0" * 64
"""Placeholder for a seal. A SHA-256 has 64 hexadecimal digits."""
_SEAL = len(BLANK)


def seal(data: bytes, mark: bytes) -> bytes:
    """Return the bytes of a file with the seal in place of the zeros behind the last mark."""
    start = data.rindex(mark + BLANK.encode()) + len(mark)
    return data[:start] + hashlib.sha256(data).hexdigest().encode() + data[start + _SEAL :]


def read_seal(data: bytes, mark: bytes) -> str:
    """Verify the seal of a file and return the seal; return "" if the mark is missing.

    Raises:
        DamagedError: the bytes do not fit the seal.
    """
    found = data.rfind(mark)
    if found < 0:
        return ""
    start, view = found + len(mark), memoryview(data)
    blank = hashlib.sha256(view[:start])
    blank.update(BLANK.encode())
    blank.update(view[start + _SEAL :])
    if blank.hexdigest().encode() != data[start : start + _SEAL]:
        raise DamagedError("its bytes are not those that were written: its digest differs")
    return blank.hexdigest()
