"""The study of Melendez et al. (CBMS 2021) as tables, with the paper's figures beside the measured ones."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spermseg.report.scores import NAMES
from spermseg.texts import csv_cell, markdown

FAILED_BELOW = 0.5
"""A picture with a lower IoU counts as failed. The paper judged its 11 % of failed pictures by eye."""
SCORES = ("iou", "dice", "precision", "recall", "f1")
TABLES = (
    ("Table I", "without augmentation: overlap", False, ("iou", "dice")),
    ("Table II", "without augmentation: precision, recall, F1", False, ("precision", "recall", "f1")),
    ("Table III", "with augmentation: overlap", True, ("iou", "dice")),
    ("Table IV", "with augmentation: precision, recall, F1", True, ("precision", "recall", "f1")),
)


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One configuration of the study."""

    augmented: bool
    """Whether the training saw the five variants of each picture."""
    epochs: int

    @property
    def training(self) -> str:
        """Name of the training; the row is a snapshot of it."""
        return "augmented" if self.augmented else "plain"

    @property
    def name(self) -> str:
        """Name of the row in file names."""
        return f"{self.training}-{self.epochs}"


PUBLISHED: Mapping[StudyRow, Mapping[str, float]] = {
    StudyRow(augmented=False, epochs=50): {"iou": 0.60, "dice": 0.75, "precision": 0.81, "recall": 0.69},
    StudyRow(augmented=True, epochs=30): {"iou": 0.80, "dice": 0.89, "precision": 0.86, "recall": 0.76, "f1": 0.81},
}
"""Scores of the paper on its test set, for the rows that the paper states. For the last row, the text of the paper has
precision 0.88 and recall 0.93. The F1 of 0.81 belongs to the 0.86 and 0.76 of its table."""
FIGURES = {
    "the augmentation": "figures/augmentation.png",
    "loss and overlap by epoch": "plain/curves.png, augmented/curves.png",
    "good and bad segmentations": "figures/ROW-SPLIT.png, of each row and split",
    "the share of pictures that failed": "figures/failed.png",
}
"""Content of the paper's Figs. 6 to 11 -> the file of the new figure."""


@dataclass(frozen=True, kw_only=True)
class StudyScores:
    """The scores of one row on one split, at network resolution as in the paper."""

    row: StudyRow
    split: str
    pooled: Mapping[str, float]
    per_image: Mapping[str, float]
    """Means."""
    failed: float
    """Share of the pictures whose IoU is below `FAILED_BELOW`, 0-1."""

    @classmethod
    def of(cls, row: StudyRow, metrics: Mapping[str, Any]) -> "StudyScores":
        """Take the scores from the content of a `metrics.json`."""
        network = metrics["network_resolution"]
        bad = [image for image in metrics["images"] if image["iou"] < FAILED_BELOW]
        return cls(
            row=row,
            split=metrics["split"],
            pooled=network["pooled"],
            per_image={name: network["per_image"][name]["mean"] for name in SCORES},
            failed=len(bad) / len(metrics["images"]),
        )


def study_markdown(scores: Sequence[StudyScores]) -> str:
    """Return the four tables, and the share of pictures that failed."""
    lines = ["# The study of Melendez et al., CBMS 2021, on this dataset", ""]
    lines += [
        "Scores are at network resolution: pooled over pixels / mean of images. The paper's scores, on its test set,",
        "are beside them. The paper states only the rows of 50 epochs without and 30 epochs with augmentation.",
        "",
    ]
    for title, about, augmented, names in TABLES:
        lines += [f"## {title}, {about}", "", *_table([one for one in scores if one.row.augmented == augmented], names)]
        lines.append("")
    lines += [f"## Failed: pictures with an IoU below {FAILED_BELOW} at native resolution", ""]
    lines += ["| augmented | epochs | split | share |", "| --- | --- | --- | --- |"]
    lines += [f"| {_yes(one.row)} | {one.row.epochs} | {markdown(one.split)} | {one.failed:.0%} |" for one in scores]
    lines += ["", "## Figures 6 to 11, drawn again", "", "| what | where |", "| --- | --- |"]
    lines += [f"| {what} | {place} |" for what, place in FIGURES.items()]
    return "\n".join([*lines, ""])


def _table(scores: Sequence[StudyScores], names: Sequence[str]) -> Iterator[str]:
    heads = [head for name in names for head in (NAMES[name], "paper")]
    yield f"| epochs | split | {' | '.join(heads)} |"
    yield "| --- " * (2 + len(heads)) + "|"
    for one in scores:
        cells = []
        for name in names:
            known = PUBLISHED.get(one.row, {}).get(name)
            cells += [f"{one.pooled[name]:.3f} / {one.per_image[name]:.3f}", "-" if known is None else f"{known:.2f}"]
        yield f"| {one.row.epochs} | {markdown(one.split)} | {' | '.join(cells)} |"


def study_csv(scores: Sequence[StudyScores]) -> bytes:
    """Return all scores as CSV: a line for each row, split and score."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["augmented", "epochs", "split", "score", "pooled", "mean_of_images", "paper_test"])
    for one in scores:
        for name in SCORES:
            known = PUBLISHED.get(one.row, {}).get(name, "")
            values = [round(one.pooled[name], 4), round(one.per_image[name], 4), known]
            writer.writerow([_yes(one.row), one.row.epochs, csv_cell(one.split), name, *values])
    return text.getvalue().encode()


def _yes(row: StudyRow) -> str:
    return "yes" if row.augmented else "no"
