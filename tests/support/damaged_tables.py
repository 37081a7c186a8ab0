"""Damage to tables, each kind of it, and what to look at before and after."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from spermseg.storage.filesystem import Location
from spermseg.table.receipt import list_runs
from spermseg.table.results import SCHEMA, encode_unit, read_unit, read_units
from spermseg.table.run_folder import RunFolder

VOLATILE = {"run_id", "decode_ms", "predict_ms", "measure_ms"}


def rows_of(out: Location) -> dict[str, dict[str, Any]]:
    rows = [row for table in read_units(out) for row in table.to_pylist()]
    assert len(rows) == len({row["image_id"] for row in rows})
    return {row["image_id"]: {name: row[name] for name in row if name not in VOLATILE} for row in rows}


def flip(place: Location, at: int | None = None) -> None:
    data = bytearray(place.read_bytes())
    data[len(data) // 3 if at is None else at] ^= 4
    place.write_bytes(bytes(data))


def first_run(out: Location) -> str:
    return next(iter(list_runs(out)))


def unit(out: Location) -> Location:
    return RunFolder(out, first_run(out)).units()[1]


def ok_unit(out: Location) -> Location:
    """Return a unit with rows that are ok; which unit is the second depends on where the uploads lie."""
    return next(
        place for place in RunFolder(out, first_run(out)).units() if "ok" in read_unit(place)["status"].to_pylist()
    )


def write_anew(place: Location, **changes: object) -> None:
    """Put other values into all rows of a unit that are ok, and seal it as whoever may write to a bucket can."""
    rows = [row | (changes if row["status"] == "ok" else {}) for row in read_unit(place).to_pylist()]
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA], metadata=SCHEMA.metadata)
    place.write_bytes(encode_unit(pa.Table.from_pylist(rows, schema=schema)))


def write_value(out: Location, name: str, value: object) -> None:
    write_anew(ok_unit(out), **{name: value})


def write_all(data: bytes, *places: Location) -> None:
    for place in places:
        place.write_bytes(data)


def flip_all(*places: Location) -> None:
    for place in places:
        flip(place)


DAMAGE: dict[str, Callable[[Location], object]] = {
    **{
        f"a unit, its {name} {value!r}": partial(write_value, name=name, value=value)
        for name, value in [
            *[(name, None) for name in ("width_px", "n_cells", "status", "image_id", "uri", "run_id")],
            *(("status", "foo"), ("width_px", -1), ("run_id", "/../../../../escaped"), ("run_id", "a\0b")),
        ]
    },
    "a unit, flipped": lambda out: flip(unit(out)),
    "a unit, cut off": lambda out: unit(out).write_bytes(unit(out).read_bytes()[:-50]),
    "a unit, lost": lambda out: unit(out).delete(),
    "a unit, empty": lambda out: unit(out).write_bytes(b""),
    "a unit, of other bytes": lambda out: unit(out).write_bytes(random.Random(1).randbytes(3000)),
    "a unit, under another name": lambda out: Path(unit(out).path).rename(unit(out).path.replace("unit-", "unit-0")),
    "a unit, twice": lambda out: shutil.copy(unit(out).path, unit(out).path.replace("unit-", "unit-0")),
    "a unit, copied to another run": lambda out: shutil.copy(
        unit(out).path, RunFolder(out, list(list_runs(out))[1]).unit("x").path.replace("unit-x.parquet", unit(out).name)
    ),
    "a plan, flipped": lambda out: flip(RunFolder(out, first_run(out)).plan),
    "a plan, lost": lambda out: RunFolder(out, first_run(out)).plan.delete(),
    "a plan, empty": lambda out: RunFolder(out, first_run(out)).plan.write_bytes(b""),
    "a receipt, flipped": lambda out: flip(RunFolder(out, first_run(out)).receipt),
    "a receipt, lost": lambda out: RunFolder(out, first_run(out)).receipt.delete(),
    "a receipt, empty": lambda out: RunFolder(out, first_run(out)).receipt.write_bytes(b""),
    "a receipt, of other types": lambda out: RunFolder(out, first_run(out)).receipt.write_bytes(b'{"planned": [1]}'),
    "a plan and a receipt": lambda out: write_all(
        b"{", RunFolder(out, first_run(out)).plan, RunFolder(out, first_run(out)).receipt
    ),
    "a plan and a unit": lambda out: flip_all(RunFolder(out, first_run(out)).plan, unit(out)),
    "a unit of each run": lambda out: flip_all(*(RunFolder(out, run_id).units()[0] for run_id in list_runs(out))),
    "all units of a run": lambda out: write_all(b"", *RunFolder(out, first_run(out)).units()),
    "all of a run but its units": lambda out: shutil.rmtree(RunFolder(out, first_run(out)).notes.path),
}
