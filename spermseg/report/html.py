"""The report: one HTML file that a clinician opens offline, made from the result rows and the receipts of an archive.

The report reads each table once. It keeps the light columns, and only the masks of the few pictures that it shows, so
its memory does not grow with the masks of the archive.
"""

import base64
import functools
import hashlib
import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from spermseg.cells.measure import decode_mask
from spermseg.errors import ConfigError, MicrographError, SpermsegError
from spermseg.report import summary
from spermseg.report.charts import histogram_figure
from spermseg.report.figures import Mask, Pixels, encode_jpeg, overlay
from spermseg.table.results import ResultRow
from spermseg.texts import visible

Rank = Callable[[ResultRow, int], Any]
ReadPixels = Callable[[str, str | None, str], Pixels]

_OUTLINE_SHOWN_PX = 1.5  # thickness of the outline in the report's smaller picture


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows."""

    title: str = "Sperm segmentation report"
    """The heading."""
    pictures: int = 6
    """Pictures in each part of the gallery; 0 leaves the gallery out."""
    picture_width: int = 640
    """Greatest width of a picture, px."""
    table_rows: int = 10_000
    """Greatest number of lines in each table."""
    seed: int = 0
    """Seed of the random sample."""
    limits: summary.FlagLimits = field(default_factory=summary.FlagLimits)
    """When a picture is flagged."""
    finished_only: bool = False
    """Whether the tables leave out the rows of unfinished runs; the report then says so."""

    def __post_init__(self) -> None:
        if self.pictures < 0 or self.picture_width < 1 or self.table_rows < 1:
            raise ConfigError(
                f"got pictures={self.pictures}, picture_width={self.picture_width}, table_rows={self.table_rows}; "
                "at least 0, 1 and 1 are needed"
            )


@dataclass(frozen=True)
class Tile:
    """One picture of the gallery."""

    row: ResultRow
    """Its result row, with name and flags."""
    jpeg: str
    """The picture with the outline of its mask, JPEG as base64; empty where the picture could not be drawn."""
    reason: str
    """Why the picture could not be drawn; empty where it was drawn."""


@dataclass(frozen=True)
class Shelf:
    """A part of the gallery: the measured pictures with the least or the greatest values of one figure."""

    title: str
    meaning: str
    """The question that a person should ask about these pictures."""
    rank: Rank
    """(row, seed) -> what to sort by, least first; None leaves the picture out."""


def _by(column: str) -> Rank:
    return lambda row, _: None if row[column] is None else (row[column], row["image_id"])


def _crowded(row: ResultRow, _: int) -> Any:
    heads, cells = row["n_heads"], row["n_cells"]
    return None if cells is None else (-(cells if heads is None else heads), row["image_id"])


def _at_random(row: ResultRow, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{row['image_id']}".encode()).digest()


SHELVES = (
    Shelf("Most crowded", "The most cells in a picture: are touching cells separated?", _crowded),
    Shelf("Emptiest", "The least foreground: are there no cells, or were they missed?", _by("foreground_fraction")),
    Shelf("Least in focus", "The lowest focus figure: are the pictures sharp enough to be measured?", _by("focus")),
    Shelf(
        "Lowest confidence",
        "The model expects the lowest Dice of these outlines: are they right?",
        _by("confidence"),
    ),
    Shelf("Random sample", "A random choice of pictures: what is typical?", _at_random),
)

HISTOGRAMS = (
    ("sperm", "Cells per picture", "cells", 1.0),
    ("foreground_fraction", "Foreground", "share of the picture inside outlines, %", 100.0),
    ("focus", "Focus", "variance of the Laplacian, grey²", 1.0),
    ("confidence", "Confidence", "Dice that the model expects, 0-1", 1.0),
)


def render_report(
    tables: Iterable[pa.Table | pa.RecordBatch],
    receipts: Sequence[Mapping[str, Any]],
    read_pixels: ReadPixels,
    config: ReportConfig | None = None,
    unfinished: Sequence[str] = (),
    damage: Collection[str] = (),
) -> str:
    """Return the report of an archive as one self-contained HTML page; it loads nothing and opens offline.

    Args:
        tables: result rows with the columns of the results contract, in any order; they are read once.
        receipts: one mapping a finished run: `run_id`, `planned`, `ok`, `rejected`, and where known `started` and
            `ended` (ISO 8601), `duration_s`, `megapixels`.
        read_pixels: reads an upload again, (uri, member, digest of its bytes) -> (Y, X, 3) uint8 RGB, of the row's
            width and height. Where this function raises a SpermsegError, the report shows the message instead of the
            picture.
        config: what to show; None takes the defaults.
        unfinished: the ids of the runs that have a plan and no receipt.
        damage: a line for each file that cannot be read. The lines are taken after all tables are read.

    Raises:
        ConfigError: a table lacks a column that the report needs.
    """
    config = config or ReportConfig()
    parts, shelves = _collect(tables, config)
    frame, root = summary.complete_rows(parts, config.limits)
    return _template().render(
        config=config,
        root=root,
        problems=[*damage, *summary.find_problems(frame, receipts, () if config.finished_only else unfinished)],
        left_out=unfinished if config.finished_only else (),
        histograms=_histograms(frame),
        gallery=_gallery(frame, shelves, read_pixels, config.picture_width),
        **_tables(frame, receipts, config.table_rows),
    )


def _tables(frame: pd.DataFrame, receipts: Sequence[Mapping[str, Any]], most_rows: int) -> dict[str, Any]:
    """Return name in the template -> counts or rows, for all tables of the page."""
    return {
        "totals": summary.count_totals(frame, receipts),
        "runs": summary.list_runs(frame, receipts),
        "rejections": summary.group_rejections(frame),
        "duplicates": summary.find_duplicates(frame),
        "groups": summary.count_groups(frame),
        "flag_counts": frame["flags"].explode().value_counts().to_dict(),
        "rows": summary.to_rows(summary.first_rows(frame, most_rows)),
    }


def _collect(
    tables: Iterable[pa.Table | pa.RecordBatch], config: ReportConfig
) -> tuple[list[pd.DataFrame], list[list[ResultRow]]]:
    """Return the light columns of every table, and the rows of each shelf with their masks."""
    parts: list[pd.DataFrame] = []
    shelves: list[list[ResultRow]] = [[] for _ in SHELVES]
    for table in tables:
        if missing := [name for name in (*summary.COLUMNS, "mask") if name not in table.schema.names]:
            raise ConfigError(f"the results lack the columns {', '.join(missing)}; give tables with all columns")
        rows = table.select(summary.COLUMNS).to_pylist()
        parts.append(pd.DataFrame(rows, columns=list(summary.COLUMNS)))
        measured = [{**row, "at": at} for at, row in enumerate(rows) if row["status"] == "ok"]
        for index, shelf in enumerate(SHELVES):
            shelves[index] = _first(itertools.chain(shelves[index], measured), shelf.rank, config)
        for row in itertools.chain.from_iterable(shelves):
            if "at" in row:
                row["mask"] = table.column("mask")[row.pop("at")].as_py()
    return parts, shelves


def _first(rows: Iterable[ResultRow], rank: Rank, config: ReportConfig) -> list[ResultRow]:
    ranked = ((key, row) for row in rows if (key := rank(row, config.seed)) is not None)
    return [row for _, row in heapq.nsmallest(config.pictures, ranked, key=lambda pair: pair[0])]


def _gallery(
    frame: pd.DataFrame, shelves: Sequence[Sequence[ResultRow]], read_pixels: ReadPixels, width: int
) -> list[tuple[Shelf, list[Tile]]]:
    shown = {row["image_id"]: row for row in itertools.chain.from_iterable(shelves)}
    named = frame[frame["image_id"].isin(shown)].drop_duplicates("image_id")
    tiles = {
        row["image_id"]: _tile({**shown[row["image_id"]], **row}, read_pixels, width) for row in summary.to_rows(named)
    }
    return [
        (shelf, [tiles[row["image_id"]] for row in rows]) for shelf, rows in zip(SHELVES, shelves, strict=True) if rows
    ]


def _tile(row: ResultRow, read_pixels: ReadPixels, width: int) -> Tile:
    try:
        pixels = read_pixels(row["uri"], row["member"], row["content_sha256"])
        thickness = max(1, round(_OUTLINE_SHOWN_PX * pixels.shape[1] / width))
        drawn = overlay(pixels, _mask(row, pixels.shape[:2]), thickness=thickness)
        return Tile(row, _base64(encode_jpeg(drawn, width)), "")
    except SpermsegError as error:
        return Tile(row, "", error.message)


def _mask(row: ResultRow, shape: tuple[int, ...]) -> Mask:
    """Return the mask of a row, (Y, X) bool.

    Raises:
        MicrographError: the picture is not the one that was segmented, or the mask cannot be decoded.
    """
    planned = (int(row["height_px"]), int(row["width_px"]))
    if shape != planned:
        got, needed = " x ".join(map(str, shape[::-1])), " x ".join(map(str, planned[::-1]))
        raise MicrographError(f"the upload is {got} px by now; it was {needed} px when it was segmented")
    if not row["mask"]:
        return np.zeros(shape, np.bool_)
    try:
        return decode_mask(row["mask"], planned)
    except ValueError as error:
        raise MicrographError(f"the mask in the results cannot be decoded: {error}") from error


def _histograms(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (title, PNG as base64) of the distribution of each figure over the measured pictures."""
    measured = frame[frame["status"] == "ok"]
    return [
        (title, _base64(histogram_figure(measured[column].to_numpy() * scale, label=label)))
        for column, title, label, scale in HISTOGRAMS
    ]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spermseg", "report"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["moment"] = _moment
    environment.filters["source_hash"] = _source_hash
    return environment.get_template("report.html.jinja")


def _shown(value: Any) -> Any:
    """Return a text with invisible characters made visible. After that, the template escapes HTML."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None, digits: int = 0, scale: float = 1) -> str:
    """Return a number with separated thousands; a hyphen where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value * scale:,.{digits}f}"


def _moment(value: datetime | None) -> str:
    return "-" if value is None else value.strftime("%Y-%m-%d %H:%M")


def _source_hash(text: str) -> str:
    """Return an inline script's digest as a Content Security Policy names it, so that no other script can run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode("ascii")
