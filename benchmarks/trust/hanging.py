"""A night in which one group uploads pictures that hang their decoder: how long it takes, and the rows of each group.

There are two groups. The first has pictures that hang, with an intact one after every tenth. The second has only intact
pictures. A local Ray segments both, with a decoder that imitates such a hang. Then the table is verified. Prints the
time, and for each group its rows by status and kind of reason. Exits with 1 where an intact picture of the second group
has no row with status ok, or an upload has no row. `--retry` tries rejected pictures once more, in another run.

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
sys.path.insert(0, str(TESTS))  # the helpers of the tests are used here, too
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])

from support.dark_cells import darkness_model, night_over, picture  # noqa: E402
from support.hostile_decoder import decode, marked  # noqa: E402

from spermseg.batch.pool import Workers  # noqa: E402
from spermseg.batch.run import segment_night  # noqa: E402
from spermseg.batch.worker.loss_limits import LossLimits  # noqa: E402
from spermseg.storage.filesystem import Location  # noqa: E402
from spermseg.table.latest import read_current  # noqa: E402
from spermseg.table.results import OK, reason_kind  # noqa: E402
from spermseg.table.verify import verify  # noqa: E402

HOSTILE, OTHER = "clinic-a", "clinic-b"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The uploads of the night, and its time limits."""

    hanging: int = 40
    """Pictures that hang; all are in one group."""
    whole: int = 40
    """Pictures of the other group."""
    unit: int = 16
    """Most pictures of a unit of work."""
    hang_s: float = 5
    """A picture that takes longer to decode counts as hanging."""
    group_s: float = 30
    """Most time that the pictures of a group may waste, separately in brief trials and in long ones."""
    run_s: float = 90
    """Most time that the pictures of a run may waste, separately in brief trials and in long ones."""
    workers: int = 2
    """Processes that segment."""
    retry: bool = False
    """Whether to try rejected pictures once more."""


def upload(source: Location, options: Options) -> int:
    """Write the uploads; return their number."""
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
    """Play the night, and print the figures; return whether all rows are as they must be."""
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    uploads = upload(source, options)
    losses = LossLimits(group_s=options.group_s, run_s=options.run_s)
    workers = Workers(count=options.workers, address="local", decode=decode, hang_s=options.hang_s, losses=losses)
    night, kept = night_over(source, out, darkness_model(), workers=workers, unit_micrographs=options.unit), True
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
    """Play, and exit with 1 where a row is missing or wrong."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as folder:
        kept = play(options, Path(folder))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
