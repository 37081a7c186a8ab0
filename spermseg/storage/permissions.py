"""Permissions of the local files that this project writes: by default, only their owner may read them.

The files hold file names, which may hold names of patients. With `SPERMSEG_SHARED=group` the group may read them, with
`SPERMSEG_SHARED=all` everybody. The umask can only remove permissions. A folder that exists keeps its mode.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from spermseg.errors import ConfigError

SETTING = "SPERMSEG_SHARED"
HIDDEN = {"": 0o077, "group": 0o027, "all": 0o022}
"""Value of the setting -> mode bits that new files and folders do not get."""


def hidden_bits() -> int:
    """Return the mode bits that new files and folders do not get.

    Raises:
        ConfigError: `SPERMSEG_SHARED` has an unknown value.
    """
    asked = os.environ.get(SETTING, "")
    if asked not in HIDDEN:
        raise ConfigError(
            f"got {SETTING}={asked!r}; group or all is needed; without it, only the owner may read the files"
        )
    return HIDDEN[asked]


def file_mode() -> int:
    """Return the mode of a new file, before the umask."""
    return 0o666 & ~hidden_bits()


def folder_mode() -> int:
    """Return the mode of a new folder, before the umask."""
    return 0o777 & ~hidden_bits()


@contextmanager
def owner_only() -> Iterator[None]:
    """Set the umask, so that files of libraries and of child processes have the same permissions."""
    hidden = hidden_bits()
    before = os.umask(0o077)
    os.umask(before | hidden)
    try:
        yield
    finally:
        os.umask(before)
