"""`spermseg report`: a table -> one HTML file."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from spermseg.batch.worker.fetch import LARGEST_FILE
from spermseg.cli.arguments.options import PATIENCE_MINUTES, EndpointUrl, OptionalText, PatienceMinutes
from spermseg.cli.incomplete_table import warn_of_damage
from spermseg.cli.terminal import say
from spermseg.errors import ConfigError, DamagedError, MicrographError, ObjectDeniedError, RunError, StorageError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.report.html import ReportConfig, render_report
from spermseg.storage.archives.directory import TAR_GZ, Member, list_members, stored_kind, stream_members, unpack_member
from spermseg.storage.filesystem import Location
from spermseg.table.latest import OnDamage, count_replaced, read_current
from spermseg.table.plan import Plan
from spermseg.table.receipt import list_runs, read_receipt
from spermseg.table.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML file about a table: totals, rejected files, groups, a gallery of overlays.

    The file opens offline and can be printed. The gallery reads its uploads again from the input. If an upload was
    rejected and tried again, its last row counts.

    Exits with 1 if a file of the table is damaged. The report names the file, and shows everything else.

    Example: spermseg report results --html results/report.html
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder or s3://bucket/prefix that `spermseg segment` wrote to."""
    html: OptionalText = None
    """The file to write, also s3://bucket/key (default: OUT/report.html if OUT is a folder, else ./report.html)."""
    finished: bool = False
    """Leave out runs that have not finished."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Write the report and print its location."""
        out = Location(self.out, self.endpoint_url)
        damage: dict[str, None] = {}
        tables = read_current(out, finished_only=self.finished, on_damage=damage.setdefault)
        replaced, runs = count_replaced(out, damage.setdefault), list_runs(out)
        receipts = [
            {**receipt, "replaced": replaced[run_id]}
            for run_id in runs
            if (receipt := _receipt(out, run_id, damage.setdefault)) is not None
        ]
        page = render_report(
            tables,
            receipts,
            upload_reader(_inputs(out, runs)),
            ReportConfig(finished_only=self.finished),
            unfinished=[run_id for run_id, finished in runs.items() if not finished],
            damage=damage,
        )
        beside = "report.html" if out.is_s3 else out.child("report.html").uri
        target = Location(self.html or beside, self.endpoint_url)
        target.write_bytes(page.encode("utf-8", "backslashreplace"))
        say(f"report: {target.uri}")
        return warn_of_damage(damage, "the report is not complete")


def _receipt(out: Location, run_id: str, on_damage: OnDamage) -> dict[str, Any] | None:
    try:
        return read_receipt(RunFolder(out, run_id))
    except DamagedError as error:
        on_damage(error.message)
        return None


def _inputs(out: Location, runs: Iterable[str]) -> list[Location]:
    """Return the inputs of some runs. Runs whose plans cannot be read are left out."""
    found = {}
    for run_id in runs:
        with suppress(RunError, StorageError, ConfigError):
            uri = Plan(RunFolder(out, run_id).plan).metadata.get("input", "")
            found[uri] = Location(uri, out.endpoint_url)
    return [found[uri] for uri in sorted(found)]


def upload_reader(sources: Sequence[Location]) -> Callable[[str, str | None, str], NDArray[np.uint8]]:
    """Return a function that reads an upload again: (uri, member, digest of its bytes) -> (Y, X, 3) uint8 RGB.

    The function reads only files inside the inputs, and follows no link there. It raises a SpermsegError if the upload
    is gone, was replaced, or cannot be read. The report then shows the error instead of the picture.
    """

    def read(uri: str, member: str | None, content_sha256: str) -> NDArray[np.uint8]:
        location = _place(uri, sources)
        data = _read_member(location, member) if member else _read_file(location)
        if sha256(data).hexdigest() != content_sha256:
            raise MicrographError("another picture has this name now: the upload was replaced after it was segmented")
        return decode_micrograph(data).pixels

    return read


def _place(uri: str, sources: Sequence[Location]) -> Location:
    for source in sources:
        with suppress(ObjectDeniedError):
            return source.upload(uri)
    raise RunError("the upload is in none of the inputs that the runs name")


def _read_file(location: Location) -> bytes:
    _check_size(location.stat().size)
    return location.read_bytes()


def _check_size(size: int) -> None:
    if size > LARGEST_FILE:
        raise MicrographError(f"the upload now has {size} bytes; at most {LARGEST_FILE} are read")


def _read_member(location: Location, name: str) -> bytes:
    member = _usable_members(location).get(name)
    if member is None:
        raise RunError(f"{location.uri} no longer holds {name!r}")
    _check_size(max(member.size, member.data_size))
    if member.packing == TAR_GZ:
        with location.open() as file:
            return next(stream_members(file, [(member.offset, member.size)]))
    data = location.read_range(member.offset, member.size)
    return unpack_member(data, member.packing, member.data_size, member.crc32, LARGEST_FILE)


@lru_cache(maxsize=4)
def _usable_members(location: Location) -> dict[str, Member]:
    """Return the readable members of an archive. The result is cached, since a gallery shows several of them."""
    with location.open() as file:
        members = list_members(file, stored_kind(file, location.uri))
    return {member.name: member for member in members if member.reason is None}
