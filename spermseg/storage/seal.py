"""Files that carry the digest of their own bytes, so that each bit that changes in one is found, without a second file.

The writer leaves room, 64 zeros behind a mark that it chooses; the seal is the SHA-256 of the file with these zeros in
place, written over them.
"""

import hashlib

from spermseg.errors import DamagedError

BLANK = "0" * 64
"""The room for a seal: as many characters as a SHA-256 has hexadecimal digits."""
_SEAL = len(BLANK)


def seal(data: bytes, mark: bytes) -> bytes:
    """Return a file with its seal in place of the zeros that follow the last mark."""
    start = data.rindex(mark + BLANK.encode()) + len(mark)
    return data[:start] + hashlib.sha256(data).hexdigest().encode() + data[start + _SEAL :]


def read_seal(data: bytes, mark: bytes) -> str:
    """Return the seal of a file once it is found to be that of its bytes; empty where the mark is not in it.

    Raises:
        DamagedError: the bytes are not those that were sealed.
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
