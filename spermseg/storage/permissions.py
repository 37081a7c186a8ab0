"""Who may read what is written to folders of this machine: its owner, unless the environment says otherwise.

Files hold names of patients, and names of files that do. `SPERMSEG_SHARED=group` lets the group read them, too,
`SPERMSEG_SHARED=all` everybody; the umask takes away from either, and gives nothing. A folder that is there already
keeps its mode.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from spermseg.errors import ConfigError

SETTING = "SPERMSEG_SHARED"
HIDDEN = {"": 0o077, "group": 0o027, "all": 0o022}
"""What is asked for -> the bits that no file and no folder gets."""


def hidden_bits() -> int:
    """Return the bits of a mode that no file and no folder gets.

    Raises:
        ConfigError: the environment asks for something that there is not.
    """
    asked = os.environ.get(SETTING, "")
    if asked not in HIDDEN:
        raise ConfigError(f"got {SETTING}={asked!r}; group or all is needed, or nothing: for the owner only")
    return HIDDEN[asked]


def file_mode() -> int:
    """Return the mode of a new file, before the umask."""
    return 0o666 & ~hidden_bits()


def folder_mode() -> int:
    """Return the mode of a new folder, before the umask."""
    return 0o777 & ~hidden_bits()


@contextmanager
def owner_only() -> Iterator[None]:
    """Hide from others also what libraries, and processes that are started meanwhile, write."""
    hidden = hidden_bits()
    before = os.umask(0o077)
    os.umask(before | hidden)
    try:
        yield
    finally:
        os.umask(before)
