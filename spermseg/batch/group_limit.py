"""The limit of megapixels per group. A folder of a thousand slide scans must not take the night of other patients.

The limit applies when the run is planned. The sizes come from the headers of the pictures, in the order of the plan.
The plan stores the result, so an interrupted run continues with the same uploads.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import tee

from spermseg.batch.worker.fetch import Fetched, fetch_all
from spermseg.errors import SpermsegError
from spermseg.micrograph.header import read_header
from spermseg.storage.archives.directory import TAR
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Planned

HEADER_BYTES = 1 << 16
"""Bytes read from the start of a file to find its header. If the header lies elsewhere, as in many TIFF files, the
whole file is read."""


def within_group_limit(
    planned: Iterable[Planned], source: Location, most: float | None, largest: float
) -> Iterator[Planned]:
    """Yield the planned uploads. Those beyond the limit of their group have a reject reason.

    Args:
        planned: uploads in the order of the plan: by path, but those that crashed their decoder last on a retry.
        source: where the uploads were listed. Without a limit nothing is read there.
        most: megapixels of a group. Uploads in no folder are one group. None sets no limit.
        largest: megapixels of a picture. A larger one is rejected anyway, and does not count.

    Raises:
        StorageError: the storage failed.
    """
    if most is None:
        yield from planned
        return
    reason = f"its group has more than {most:g} megapixels in this run: --max-megapixels-per-group, --retry-rejected"
    spent: defaultdict[str | None, float] = defaultdict(float)
    given, read = tee(planned)
    for one, fetched in zip(given, fetch_all(map(_beginning, read), source), strict=True):
        megapixels = _megapixels(one, fetched, source)
        spent[one.group] += megapixels if megapixels <= largest else 0.0
        over = spent[one.group] > most and not one.reason
        yield replace(one, reason=reason) if over else one


def _beginning(one: Planned) -> Planned:
    """Return an upload cut to its first bytes, if its packing lets them be read alone."""
    if one.reason or one.packing not in ("", TAR):
        return one
    size = min(one.size, HEADER_BYTES)
    return replace(one, size=size, data_size=size)


def _megapixels(one: Planned, fetched: Fetched, source: Location) -> float:
    """Return the megapixels of a picture. An upload without a readable header has 0, and the decoder rejects it."""
    if fetched.reason:
        return 0.0
    try:
        return read_header(fetched.data).megapixels
    except SpermsegError:
        if len(fetched.data) == one.data_size:
            return 0.0
    (whole,) = fetch_all([one], source)
    return _megapixels(one, whole, source)
