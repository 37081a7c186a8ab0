"""Removal of the partial files that killed writers left in a table in a local folder. No reader reads such files."""

import logging

from spermseg.errors import StorageError
from spermseg.storage.filesystem import Location
from spermseg.table.lease import Lease

logger = logging.getLogger(__name__)

FOLDERS = ("runs", "results", "damaged")
"""Folders of a table that are searched, with all folders below them. Other folders are not searched."""


def remove_leftovers(out: Location, lease: Lease) -> None:
    """Remove the partial files that are at least a day older than the last renewal of the lease.

    A storage error is logged as a warning, since partial files are harmless.

    Args:
        out: the table.
        lease: the lease of the table, which this job holds.

    Raises:
        RunError: this job has lost the lease.
    """
    table = lease.fenced(out)
    try:
        found = list(out.abandoned(lease.place, deep=False))
        for folder in FOLDERS:
            found += out.child(folder).abandoned(lease.place)
        for place in found:
            table.child(place.uri.removeprefix(out.uri).lstrip("/")).delete()
    except StorageError as error:
        logger.warning("the partial files of killed writers could not be removed from the table: %s", error.message)
