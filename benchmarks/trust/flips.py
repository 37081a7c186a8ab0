"""Does `spermseg verify` find single-bit flips in the files of a table? Counts missed flips and unexpected exceptions.

A small night is segmented in this process, by the usual code. Then one bit at a time is flipped, in turn in a unit
file, a plan and a receipt, and the table is verified. The message of `verify` must name the file.

    python benchmarks/trust/flips.py --flips 2000
"""

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from spermseg.storage.filesystem import Location
from spermseg.table.receipt import list_runs
from spermseg.table.results import list_units, read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Flip bits of a table and verify it."""

    flips: int = 2000
    """Number of flips."""
    seed: int = 18
    """Seed of the choice of files and bits."""


def make_table(folder: Path) -> Location:
    """Segment a few synthetic pictures, and return the table."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from support.dark_cells import darkness_model, night_over, run_in_process, write_uploads

    from spermseg.batch import run

    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    write_uploads(source)
    run.__dict__["run_pipeline"] = run_in_process  # without Ray
    run.segment_night(night_over(source, out, darkness_model(), unit_micrographs=8), lambda _: None)
    return out


def flip(place: Location, bit: int) -> Callable[[], None]:
    """Flip a bit of a file, and return a function that restores the file."""
    whole = place.read_bytes()
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    Path(place.path).write_bytes(data)
    return lambda: place.write_bytes(whole)


def judge(out: Location, place: Location) -> str:
    """Return the outcome of verifying a table with a damaged file."""
    try:
        found = verify(out)[1]
    except Exception as error:  # noqa: BLE001 (that is what is counted)
        return f"trace: {type(error).__name__}"
    return "found" if any(place.name in line for line in found) else "found elsewhere" if found else "passed"


def main() -> None:
    """Flip, verify, and print the outcomes."""
    asked = tyro.cli(Flips)
    drawn = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        out = make_table(Path(folder))
        (run_id,) = list_runs(out)
        rows = [row for table in read_units(out, columns=["mask"]) for row in table.to_pylist()]
        masks = sum(row["mask"] is not None for row in rows)
        kinds = {
            "unit": list_units(out),
            "plan": [RunFolder(out, run_id).plan],
            "receipt": [RunFolder(out, run_id).receipt],
        }
        told: Counter[tuple[str, str]] = Counter()
        started = time.perf_counter()
        for number in range(asked.flips):
            kind = list(kinds)[number % 3]
            place = drawn.choice(kinds[kind])
            mend = flip(place, drawn.randrange(8 * place.stat().size))
            told[kind, judge(out, place)] += 1
            mend()
        if verify(out)[1]:
            raise SystemExit("the table is not as it was")
        print(f"{asked.flips} flips, seed {asked.seed}, {masks} masks, {time.perf_counter() - started:.0f} s")
    for (kind, said), count in sorted(told.items()):
        print(f"  {kind:8} {said:16} {count:5}")


if __name__ == "__main__":
    main()
