"""The results table: one Parquet row per micrograph, and the unit and meaning of each column."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spermseg.errors import DamagedError
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.storage.parquet import VERSION, check_seal, encode_parquet, open_parquet, reading
from spermseg.table.image_ids import digest
from spermseg.table.run_folder import is_unit, unit_name

SCHEMA_VERSION = 6
ADDED = {"retry_of", "n_heads", "bits", "clipped_fraction"}
"""Columns that files of earlier versions lack. They are read as null."""
MACHINE_KEY = b"spermseg_machine"
"""Key in the metadata of a unit file: the host that segmented the unit."""
MEND = "the same `spermseg segment` command with --check-files repairs the table"
"""Advice for a damaged file of a table."""
MOST_ROWS, MOST_BYTES = 1 << 16, 1 << 29
"""Limits on a unit file that is read. One that spermseg writes has far fewer: up to 64 rows, a few megabytes."""
SCALED = "at half scale (1/4 or 1/8 if the network works at that scale)"
"""Scale of the quality figures, the same in every format (`spermseg.micrograph.reduction`)."""
SATURATED = f"share of pixels at 0 or 255 in every channel, {SCALED}; this scale hides a single pixel"
BITS = "bits that the camera used, of which the 8 highest are segmented; null for an 8-bit file"
CLIPPED = (
    "share of pixels above the range of these bits, which are clipped: a scale bar, hot pixels, or a wrong number of "
    "bits in the file; null for an 8-bit file"
)
MEASURED = ("width_px", "height_px", "n_cells")
"""Columns that have a value in each row with the status ok."""
ResultRow = dict[str, Any]
"""A row of the table: column name -> value."""
OK = "ok"
REJECTED = "rejected"


def _field(name: str, kind: pa.DataType, meaning: str, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"meaning": meaning, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


CELL = pa.struct(
    [
        _field("x", pa.int32(), "left edge of the bounding box", "px"),
        _field("y", pa.int32(), "top edge of the bounding box", "px"),
        _field("width", pa.int32(), "width of the bounding box", "px"),
        _field("height", pa.int32(), "height of the bounding box", "px"),
        _field("area", pa.int32(), "pixels of the cell", "px"),
        _field("area_um2", pa.float32(), "area; null if the pixel size is unknown", "um2"),
        _field("touches_border", pa.bool_(), "whether the edge of the picture cuts the cell"),
        _field("confidence", pa.float32(), "mean probability over the cell's pixels", "0-1"),
        _field("mask", pa.string(), "COCO run-length string of the cell within its bounding box"),
    ]
)

SCHEMA = pa.schema(
    [
        _field("image_id", pa.string(), "digest of uri, member, size, etag, model and recipe", nullable=False),
        _field("uri", pa.string(), "the file, or the archive that holds it", nullable=False),
        _field("member", pa.string(), "name inside the archive; null for a plain file"),
        _field("content_sha256", pa.string(), "digest of the picture's bytes; equal digests may be a sample mix-up"),
        _field("group", pa.string(), "patient, slide or session: first folder below the input, or inside an archive"),
        _field("run_id", pa.string(), "the run that wrote the row", nullable=False),
        _field("retry_of", pa.string(), "image_id of the rejected row that this one replaces; null for a first try"),
        _field("model_sha256", pa.string(), "digest of the model file", nullable=False),
        _field("recipe_sha256", pa.string(), "digest of the settings used", nullable=False),
        _field("version", pa.string(), "version of spermseg", nullable=False),
        _field("status", pa.string(), "ok or rejected", nullable=False),
        _field("reason", pa.string(), "why the upload was rejected; null if the status is ok"),
        _field("width_px", pa.int32(), "width as shown (after EXIF rotation)", "px"),
        _field("height_px", pa.int32(), "height as shown (after EXIF rotation)", "px"),
        _field("um_per_px", pa.float32(), "pixel size; null if unknown", "um/px"),
        _field("bits", pa.int32(), BITS, "bits"),
        _field("clipped_fraction", pa.float32(), CLIPPED, "0-1"),
        _field("focus", pa.float32(), f"variance of the green channel's Laplacian, {SCALED}; low is blurred", "grey2"),
        _field("brightness", pa.float32(), f"mean of the grey picture, {SCALED}", "grey"),
        _field("saturated_fraction", pa.float32(), SATURATED, "0-1"),
        _field("unevenness", pa.float32(), f"range of the background brightness over its mean, {SCALED}", "ratio"),
        _field("foreground_fraction", pa.float32(), "share of pixels in the mask", "0-1"),
        _field("confidence", pa.float32(), "expected Dice of the mask; before version 4, its mean probability", "0-1"),
        _field("mask", pa.string(), "COCO run-length string of the whole mask, height_px x width_px"),
        _field("n_cells", pa.int32(), "connected components of the mask with at least `min_area` px", "count"),
        _field("n_heads", pa.int32(), "heads in the mask, one per sperm; null if heads were not counted", "count"),
        _field("cells", pa.list_(CELL), "one struct per cell"),
        _field("decode_ms", pa.float32(), "time to decode the file, resize the picture and measure its quality", "ms"),
        _field("predict_ms", pa.float32(), "this picture's share of the time of its unit in the network", "ms"),
        _field("measure_ms", pa.float32(), "time from the probability map to the cells", "ms"),
    ],
    metadata={VERSION: str(SCHEMA_VERSION)},
)
PROMISED = (*(field.name for field in SCHEMA if not field.nullable), *MEASURED)
"""Columns whose values are checked whenever a unit is read."""
LIGHT = [name for name in SCHEMA.names if name not in ("mask", "cells")]
"""Columns that take little memory: all but the masks."""


def without_advice(message: str) -> str:
    """Return a message without the advice `MEND`, for the command that follows this advice already."""
    return message.replace(f"; {MEND}", "")


def reason_kind(reason: str) -> str:
    """Return a reason with an ellipsis for each number and checksum, so that similar rejections have the same kind.

    >>> reason_kind("40000 x 30000 px is 1200 megapixels; at most 200 are allowed")
    '… x … px is … megapixels; at most … are allowed'
    """
    return re.sub(r"\b(?:[0-9a-f]{8}|\d+)\b", "…", reason)


def results_table(rows: Sequence[ResultRow]) -> pa.Table:
    """Return rows as a table with the schema `SCHEMA`. A column that a row lacks is null."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def encode_unit(table: pa.Table, machine: str = "") -> bytes:
    """Return the table of a unit as the bytes of one sealed Parquet file.

    Args:
        table: the rows, with the schema `SCHEMA`.
        machine: the host that segmented the unit; it is stored in the metadata of the file.
    """
    metadata = {**table.schema.metadata, MACHINE_KEY: machine.encode()} if machine else table.schema.metadata
    return encode_parquet(table.replace_schema_metadata(metadata))


def right_name(image_ids: Iterable[str]) -> str:
    """Return the name that a unit file with the rows of these micrographs, in this order, must have."""
    return unit_name(digest(image_ids))


def list_units(out: Location) -> list[Location]:
    """Return the unit files of all runs, in the order of their names."""
    found = chain.from_iterable(files for run, files in list_results(out).items() if run)
    return [Location(item.uri, out.endpoint_url) for item in found if is_unit(item.key)]


def list_results(out: Location) -> dict[str, list[StoredObject]]:
    """Return run id -> the files in its results folder, from one listing. Files of no run are under ""."""
    found: dict[str, list[StoredObject]] = {}
    for item in out.child("results").list():
        folder, _, name = item.key.rpartition("/")
        run_id = folder.removeprefix("run=") if folder.startswith("run=") and "/" not in folder else ""
        found.setdefault(run_id, []).append(replace(item, key=name) if run_id else item)
    return found


def run_of(unit: Location) -> str:
    """Return the id of the run whose folder holds a unit file; empty if the folder is not that of a run."""
    folder = unit.path.split("/")[-2]
    return folder.removeprefix("run=") if folder.startswith("run=") else ""


def read_unit(place: Location, columns: Sequence[str] | None = None, *, thorough: bool = False) -> pa.Table:
    """Return the table of one unit file. The seal of the file is verified.

    Args:
        place: the file, as `list_units` returns it.
        columns: the columns to return; None returns all. Columns that an earlier version lacks are null.
        thorough: whether to decode every column of a file without a seal (an earlier version), to detect damage.

    Raises:
        DamagedError: the file is damaged, or is no unit file.
        RunError: the file has a later schema version.
        StorageError: the file could not be read.
    """
    wanted = list(SCHEMA.names if columns is None else columns)
    with reading(place.uri, MEND):
        table = _decode_unit(place.read_bytes(MOST_BYTES), wanted, thorough)
        _check_values(table)
    for name in set(wanted).difference(table.column_names):
        table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(wanted)


def _decode_unit(data: bytes, wanted: Sequence[str], thorough: bool) -> pa.Table:
    sealed = check_seal(data)
    file = open_parquet(pa.BufferReader(data), {field.name: field.type for field in SCHEMA}, SCHEMA_VERSION)
    if file.metadata.num_rows > MOST_ROWS:
        raise DamagedError(f"it has {file.metadata.num_rows} rows; at most {MOST_ROWS} are read")
    there, needed = set(file.schema_arrow.names), {*wanted, *PROMISED}
    if lacking := needed - ADDED - there:
        raise DamagedError(f"it lacks the columns {', '.join(sorted(lacking))}")
    decoded = there if thorough and not sealed else there & needed
    return file.read(columns=[name for name in SCHEMA.names if name in decoded])


def _check_values(table: pa.Table) -> None:
    """Check the values of the columns `PROMISED`. An undamaged file may come from another program.

    Raises:
        DamagedError: a value is missing or not allowed.
    """
    there = table.column_names
    empty = [name for name in there if not SCHEMA.field(name).nullable and table[name].null_count]
    if empty:
        raise DamagedError(f"its column {empty[0]} has rows without a value")
    if not set(table["status"].to_pylist()) <= {OK, REJECTED}:
        raise DamagedError(f"it has a status that is neither {OK} nor {REJECTED}")
    done = table.filter(pc.equal(table["status"], OK))
    for name in {*MEASURED}.intersection(there):
        if done[name].null_count or pc.any(pc.less(done[name], 0)).as_py():
            raise DamagedError(f"a row that is {OK} has no {name}")


def read_units(out: Location, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the table of each unit file. One file is in memory at a time.

    Args:
        out: the folder that `spermseg segment` wrote to.
        columns: the columns to return; None returns all. `LIGHT` leaves out the masks, which take most of the memory.

    Raises:
        DamagedError: a file is damaged.
        RunError: a file has a later schema version.
        StorageError: a file could not be read.
    """
    for place in list_units(out):
        yield read_unit(place, columns)


def schema_markdown() -> str:
    """Return the schema as Markdown, the content of `docs/results-schema.md`."""
    lines = [
        f"# The results table, schema version {SCHEMA_VERSION}",
        "",
        "The table has one row per micrograph, in `OUT/results/run=<run_id>/unit-<digest>.parquet`. The",
        "metadata of these Parquet files hold the unit and meaning of each column, too. This page is",
        "generated: `python -m spermseg.table.results > docs/results-schema.md`.",
        "",
        *_markdown_table(SCHEMA),
        "",
        "## Fields of a cell",
        "",
        *_markdown_table(CELL),
    ]
    return "\n".join(lines) + "\n"


def _markdown_table(fields: Iterable[pa.Field]) -> Iterator[str]:
    yield "| column | type | unit | meaning |"
    yield "| --- | --- | --- | --- |"
    for field in fields:
        said = {key.decode(): value.decode() for key, value in field.metadata.items()}
        kind = "list of cells" if field.type == pa.list_(CELL) else str(field.type)
        yield f"| `{field.name}` | {kind} | {said.get('unit', '')} | {said['meaning']} |"


if __name__ == "__main__":
    print(schema_markdown(), end="")
