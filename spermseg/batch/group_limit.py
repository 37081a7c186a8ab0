"""How much of one group a run takes: a folder of a thousand slide scans must not cost the other patients their night.

It is decided while the run is planned, from the headers of the pictures in the order of the plan, and stored in the
plan. So a run that was cut off goes on with the same uploads, whatever its workers have done so far.
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
    """Yield what is planned, with a reason from where on a group has more megapixels than it may.

    Args:
        planned: in the order of the plan: of the paths, but on a retry, what crashed its decoder comes last.
        source: where it was listed. Without a limit nothing is read there.
        most: megapixels of a group, those that lie in no folder being one; None lets every group have its all.
        largest: megapixels of a picture; a larger one is rejected anyway, and does not count.

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
    """Return an upload cut to its first bytes, if its packing allows to read them alone."""
    if one.reason or one.packing not in ("", TAR):
        return one
    size = min(one.size, HEADER_BYTES)
    return replace(one, size=size, data_size=size)


def _megapixels(one: Planned, fetched: Fetched, source: Location) -> float:
    """Return the size of a picture. An upload without a readable header has size 0; the decoder rejects it."""
    if fetched.reason:
        return 0.0
    try:
        return read_header(fetched.data).megapixels
    except SpermsegError:
        if len(fetched.data) == one.data_size:
            return 0.0
    (whole,) = fetch_all([one], source)
    return _megapixels(one, whole, source)
