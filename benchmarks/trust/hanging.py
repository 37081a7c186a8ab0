"""A night in which one group uploads pictures that hang their decoder: how long it takes, and what each group gets.

Two groups: one of pictures that hang, with a whole one after every tenth, and one of whole pictures. They are segmented
on a local Ray, with a decoder that does to its process what such a picture does. Then the table is verified. Prints the
time, and for each group its rows by status and kind of reason; exits with 1 where a whole picture of the other group
has no row that is ok, or an upload has none. `--retry` tries what was rejected once more, in a run of its own.

    python benchmarks/trust/hanging.py
    python benchmarks/trust/hanging.py --hang-s 60 --group-s 600 --run-s 1800
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))  # what tests make and break is made and broken here
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])

from support.dark_cells import darkness_model, night_over, picture  # noqa: E402
from support.hostile_decoder import decode, marked  # noqa: E402

from spermseg.batch.pool import Workers  # noqa: E402
from spermseg.batch.run import segment_night  # noqa: E402
from spermseg.batch.worker.loss_limits import LossLimits  # noqa: E402
from spermseg.storage.filesystem import Location  # noqa: E402
from spermseg.table import plan  # noqa: E402
from spermseg.table.latest import read_current  # noqa: E402
from spermseg.table.results import OK, reason_kind  # noqa: E402
from spermseg.table.verify import verify  # noqa: E402

HOSTILE, OTHER = "clinic-a", "clinic-b"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The night, and what its hostile pictures may cost."""

    hanging: int = 40
    """Pictures that hang; all in one group."""
    whole: int = 40
    """Pictures of the other group."""
    unit: int = 16
    """Most pictures of a unit of work."""
    hang_s: float = 5
    """A picture that is not decoded after so long is taken to hang."""
    group_s: float = 30
    """That is lost to the pictures of a group at most, in brief trials and in long ones each."""
    run_s: float = 90
    """The same, of a run."""
    workers: int = 2
    """Processes that segment."""
    retry: bool = False
    """Try what was rejected once more."""


def upload(source: Location, options: Options) -> int:
    """Write the uploads; return how many."""
    files = [
        *_of_the_hostile_group(options.hanging),
        *((f"{OTHER}/{n}.png", picture(n % 8)) for n in range(options.whole)),
    ]
    for name, data in files:
        source.child(name).write_bytes(data)
    return len(files)


def _of_the_hostile_group(hanging: int) -> Iterator[tuple[str, bytes]]:
    for number in range(hanging):
        yield f"{HOSTILE}/{number:04}.png", marked(picture(1), b"hang")
        if number % 10 == 9:
            yield f"{HOSTILE}/{number:04}-whole.png", picture(number % 8)


def groups(out: Location) -> dict[str, dict[str, int]]:
    """Return group -> status, or kind of reason -> rows."""
    found: dict[str, Counter[str]] = {HOSTILE: Counter(), OTHER: Counter()}
    for table in read_current(out, ["group", "status", "reason"]):
        for row in table.to_pylist():
            found[row["group"]][OK if row["status"] == OK else reason_kind(row["reason"])] += 1
    return {group: dict(kinds.most_common()) for group, kinds in found.items()}


def play(options: Options, folder: Path) -> bool:
    """Play the night, and print the figures; return whether the promise was kept."""
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    uploads = upload(source, options)
    losses = LossLimits(group_s=options.group_s, run_s=options.run_s)
    workers = Workers(count=options.workers, address="local", decode=decode, hang_s=options.hang_s, losses=losses)
    night, kept = night_over(source, out, darkness_model(), workers=workers), True
    for retry in (False, True)[: 1 + options.retry]:
        started = time.monotonic()
        segment_night(replace(night, retry_rejected=retry), lambda _: None)
        seconds, (_, wrong), found = time.monotonic() - started, verify(out), groups(out)
        print(
            json.dumps({"retry": retry, "seconds": round(seconds), "differences": len(wrong), "rows": found}, indent=1)
        )
        rows = sum(sum(kinds.values()) for kinds in found.values())
        kept = kept and not wrong and rows == uploads and found[OTHER] == {OK: options.whole}
    return kept


def main() -> None:
    """Play, and exit with 1 where the promise was broken."""
    options = tyro.cli(Options)
    plan.UNIT_MICROGRAPHS = options.unit
    with tempfile.TemporaryDirectory() as folder:
        kept = play(options, Path(folder))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
