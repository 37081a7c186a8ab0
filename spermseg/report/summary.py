"""Summary of an archive of results: flags, totals, groups, rejections, duplicates and inconsistencies.

In this module, a `frame` is a pandas data frame of the light columns (`COLUMNS`) of all result rows, completed by
`complete_rows`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from spermseg.table.results import LIGHT, OK, SCHEMA, reason_kind

COLUMNS = tuple(name for name in LIGHT if not name.endswith("_ms"))
"""The columns that are kept of every row."""
TEXTS = tuple(name for name in COLUMNS if pa.types.is_string(SCHEMA.field(name).type))
FIGURES = tuple(name for name in COLUMNS if name not in TEXTS)

NO_GROUP = "(no group)"


@dataclass(frozen=True, kw_only=True)
class FlagLimits:
    """When a measured picture is flagged for a person to look at."""

    low_focus_ratio: float = 0.25
    """`out of focus` below this share of the median focus of all pictures, 0-1."""
    low_confidence: float = 0.7
    """`low confidence` where the model expects a Dice below this, 0-1."""
    saturated_fraction: float = 0.05
    """`over- or underexposed` above this share of saturated pixels, 0-1."""
    unevenness: float = 0.5
    """`uneven light` above this range of the background over its mean, a ratio."""


@dataclass(frozen=True)
class Rejections:
    """Uploads that were rejected for one kind of reason."""

    kind: str
    """The reason; where its numbers differ between files, `…` stands for them."""
    rows: list[dict[str, Any]]
    """The rows of the files."""


@dataclass(frozen=True)
class Duplicates:
    """Files with the same pixels under different names."""

    content_sha256: str
    """The digest of all these files."""
    groups: list[str]
    """The groups of the files; more than one suggests a mix-up between patients."""
    rows: list[dict[str, Any]]
    """One row for each file."""


def complete_rows(rows: Iterable[pd.DataFrame], limits: FlagLimits) -> tuple[pd.DataFrame, str]:
    """Return all rows as one frame, sorted by name, and the folder that all files share.

    The frame has three more columns. `name` is the path below the shared folder; for a member of an archive, the
    archive counts as a folder. `sperm` is the number of cells: heads, or connected outlines where heads are not
    required. `flags` is a list of words.
    """
    parts = list(rows)
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    for column in FIGURES:
        frame[column] = pd.to_numeric(frame[column]).astype(float)
    for column in TEXTS:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    root = _shared_folder(frame["uri"].tolist())
    frame["group"] = frame["group"].fillna(NO_GROUP)
    frame["name"] = [
        uri[len(root) :] + (f"/{member}" if member else "")
        for uri, member in zip(frame["uri"], frame["member"], strict=True)
    ]
    frame["sperm"] = frame["n_heads"].fillna(frame["n_cells"])
    frame["flags"] = _flags(frame, limits)
    return frame.sort_values("name", kind="stable", ignore_index=True), root


def _shared_folder(uris: Sequence[str]) -> str:
    """Return the part of all paths up to the last `/` that they share."""
    if not uris:
        return ""
    letters = os.path.commonprefix([min(uris), max(uris)])  # noqa: RUF071  (commonpath would spoil `s3://`)
    return letters[: letters.rfind("/") + 1]


def _flags(frame: pd.DataFrame, limits: FlagLimits) -> list[list[str]]:
    measured = frame["status"] == OK
    tests = {
        "no cells": frame["sperm"] == 0,
        "out of focus": frame["focus"] < limits.low_focus_ratio * frame.loc[measured, "focus"].median(),
        "low confidence": frame["confidence"] < limits.low_confidence,
        "over- or underexposed": frame["saturated_fraction"] > limits.saturated_fraction,
        "uneven light": frame["unevenness"] > limits.unevenness,
        "bit depth in doubt": frame["clipped_fraction"] > 0,
        "same pixels as another file": frame["image_id"].isin(_shared_pixels(frame)["image_id"]),
    }
    words = [[name if hit else "" for hit in test & measured] for name, test in tests.items()]
    return [[word for word in row if word] for row in zip(*words, strict=True)]


def _shared_pixels(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each measured file whose bytes are also another file's."""
    measured = frame[(frame["status"] == OK) & frame["content_sha256"].notna()]
    files = measured.drop_duplicates(["content_sha256", "uri", "member"])
    return files[files.duplicated("content_sha256", keep=False)]


def find_duplicates(frame: pd.DataFrame) -> list[Duplicates]:
    """Return files with the same pixels under different names, those across groups first."""
    found = [
        Duplicates(str(digest), sorted(set(files["group"])), to_rows(files))
        for digest, files in _shared_pixels(frame).groupby("content_sha256")
    ]
    return sorted(found, key=lambda duplicates: (-len(duplicates.groups), duplicates.rows[0]["name"]))


def group_rejections(frame: pd.DataFrame) -> list[Rejections]:
    """Return the rejected rows by kind of reason, the most frequent first."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in to_rows(frame[frame["status"] != OK]):
        row["reason"] = row["reason"] or "no reason given"
        kinds.setdefault(reason_kind(row["reason"]), []).append(row)
    found = [
        Rejections(kind if len({row["reason"] for row in rows}) > 1 else rows[0]["reason"], rows)
        for kind, rows in kinds.items()
    ]
    return sorted(found, key=lambda item: (-len(item.rows), item.kind))


def count_groups(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a line for each group: counts, and medians and lowest focus of its measured pictures."""
    return [
        {
            "group": group,
            "pictures": len(rows),
            "ok": len(measured := rows[rows["status"] == OK]),
            "rejected": len(rows) - len(measured),
            "cells": measured["sperm"].sum(),
            "cells_median": measured["sperm"].median(),
            "foreground_median": measured["foreground_fraction"].median(),
            "focus_lowest": measured["focus"].min(),
            "flagged": int((measured["flags"].str.len() > 0).sum()),
        }
        for group, rows in frame.groupby("group")
    ]


def count_totals(frame: pd.DataFrame, receipts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the headline figures of the archive."""
    measured = frame[frame["status"] == OK]
    times = [_times(receipt) for receipt in receipts]
    return {
        "planned": sum(_uploads(receipt) for receipt in receipts) if receipts else None,
        "rows": len(frame),
        "ok": len(measured),
        "rejected": len(frame) - len(measured),
        "cells": int(measured["sperm"].sum()),
        "megapixels": float((measured["width_px"] * measured["height_px"]).sum() / 1e6),
        "groups": frame["group"].nunique(),
        "retaken": _count_retaken(measured),
        "models": sorted(set(frame["model_sha256"])),
        "recipes": sorted(set(frame["recipe_sha256"])),
        "versions": sorted(set(frame["version"])),
        "started": min((start for start, _ in times if start), default=None),
        "ended": max((end for _, end in times if end), default=None),
    }


def _count_retaken(measured: pd.DataFrame) -> int:
    """Return the number of rows whose upload has a row of an earlier run with the same model and settings."""
    named = measured[["uri", "member", "model_sha256", "recipe_sha256", "run_id"]].drop_duplicates()
    return int(named.drop(columns="run_id").duplicated().sum())


def _uploads(receipt: Mapping[str, Any]) -> int:
    """Return the number of planned uploads of a run, without those whose rows a later run replaced."""
    return int(receipt.get("planned") or 0) - int(receipt.get("replaced") or 0)


def _times(receipt: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Return when a run started and ended, in UTC, as far as its receipt says."""
    return _moment(receipt.get("started")), _moment(receipt.get("ended"))


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def list_runs(frame: pd.DataFrame, receipts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each run that has a receipt or rows, in the order in which they started."""
    by_run = dict(iter(frame.groupby("run_id")))
    by_receipt = {str(receipt.get("run_id")): receipt for receipt in receipts}
    lines = []
    for run_id in sorted({*by_run, *by_receipt}, key=str):
        rows, receipt = by_run.get(run_id, frame.head(0)), by_receipt.get(str(run_id), {})
        started, ended = _times(receipt)
        figures = {name: receipt.get(name) for name in ("planned", "ok", "rejected", "megapixels", "duration_s")}
        models, recipes = sorted(set(rows["model_sha256"])), sorted(set(rows["recipe_sha256"]))
        lines.append(
            {"run_id": run_id, "rows": len(rows), "started": started, "ended": ended}
            | {"models": models, "recipes": recipes, "receipt": bool(receipt)}
            | figures
        )
    return sorted(lines, key=lambda line: str(line["started"] or "9999"))


def find_problems(
    frame: pd.DataFrame, receipts: Sequence[Mapping[str, Any]], unfinished: Sequence[str] = ()
) -> list[str]:
    """Return a sentence for each violation of the rule that every planned upload has exactly one row.

    Args:
        frame: all rows.
        receipts: of the finished runs.
        unfinished: the ids of the runs that have a plan and no receipt.
    """
    problems = []
    for receipt in receipts:
        rows = frame[frame["run_id"] == receipt.get("run_id")]
        ok = int((rows["status"] == OK).sum())
        replaced = int(receipt.get("replaced") or 0)
        found = {"planned": len(rows) + replaced, "ok": ok, "rejected": len(rows) - ok + replaced}
        problems += [
            f"Run {receipt.get('run_id')}: its receipt says {name} {receipt.get(name)}, its rows say {number}."
            for name, number in found.items()
            if receipt.get(name) != number
        ]
    counts = frame["run_id"].value_counts()
    without = {*counts.index, *unfinished} - {receipt.get("run_id") for receipt in receipts}
    problems += [
        f"Run {run_id} has {counts.get(run_id, 0):,} rows and no receipt: it has not finished."
        for run_id in sorted(without)
    ]
    if repeated := int(frame["image_id"].duplicated().sum()):
        problems.append(f"Rows that repeat an upload which has a row already: {repeated:,}.")
    return problems


def first_rows(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most this number of rows, the least confident first. Rejected and flagged rows are kept first."""
    calm = (frame["status"] == OK) & ~frame["flags"].astype(bool)
    chosen = frame.assign(calm=calm).sort_values(["calm", "confidence"], kind="stable").head(most)
    return chosen.sort_values("confidence", kind="stable")


def to_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as one mapping a row."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
