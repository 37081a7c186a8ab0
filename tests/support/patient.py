"""How long a test waits for a storage."""

from collections.abc import Iterator
from contextlib import contextmanager

from spermseg.storage.patience import Patience, be_patient, patience


@contextmanager
def patient(new: Patience) -> Iterator[None]:
    """Set the patience of this process, and put back what was there at the end of the block."""
    before = patience()
    be_patient(new)
    try:
        yield
    finally:
        be_patient(before)
