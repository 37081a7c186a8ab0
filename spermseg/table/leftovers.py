"""What killed writers left in a table that is a local folder: parts of files, which nothing reads, and nobody ends."""

import logging

from spermseg.errors import StorageError
from spermseg.storage.filesystem import Location
from spermseg.table.lease import Lease

logger = logging.getLogger(__name__)

FOLDERS = ("runs", "results", "damaged")
"""Of a table; others below it, and what lies in them, are not looked at."""


def remove_leftovers(out: Location, lease: Lease) -> None:
    """Remove the parts of files whose writers did nothing for a day before the lease was renewed last; nothing else.

    A storage that does not let them be removed is a warning: they harm nobody.

    Args:
        out: the table.
        lease: of the table, which this job holds.

    Raises:
        RunError: the table is another job's by now.
    """
    table = lease.fenced(out)
    try:
        found = list(out.abandoned(lease.place, deep=False))
        for folder in FOLDERS:
            found += out.child(folder).abandoned(lease.place)
        for place in found:
            table.child(place.uri.removeprefix(out.uri).lstrip("/")).delete()
    except StorageError as error:
        logger.warning("what killed writers left in the table stays there: %s", error.message)
