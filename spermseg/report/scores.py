"""The scores of an evaluation, the content of `metrics.json`, as a table in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from spermseg.texts import markdown

NAMES = {
    "iou": "IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "cldice": "clDice",
    "surface_dice": "surface Dice",
}
"""Score -> its name in tables, in the order of the columns."""


def markdown_table(metrics: Mapping[str, Any]) -> str:
    """Return the scores in the layout of the paper's tables: a line a way of averaging, a column a score."""
    lines = [
        f"# Scores on the {markdown(metrics['split'])} split, {metrics['n_images']} pictures",
        "",
        f"| part | resolution | averaged | {' | '.join(NAMES.values())} |",
        "| --- " * (3 + len(NAMES)) + "|",
        *_lines("cell", "native", metrics),
    ]
    if "network_resolution" in metrics:
        lines += _lines("cell", "network", metrics["network_resolution"])
    for part, scores in metrics["parts"].items():
        lines += _lines(part, "native", scores)
    lines.append("")
    if "heads" in metrics:
        lines.append("Heads found: precision {precision:.3f}, recall {recall:.3f}.".format(**metrics["heads"]))
        text = "Counting heads, a picture is off by {heads:.1f} cells on average; counting outlines, by {outlines:.1f}."
        lines.append(text.format(**metrics["count_error"]))
    if "average_precision" in metrics:
        text = "Average precision of cells: {mean:.3f}, at an overlap of 0.5 {at_50:.3f}."
        lines.append(text.format(**metrics["average_precision"]))
    if "confidence" in metrics:
        lines.append(_confidence_line(metrics["confidence"]))
    lines.append(f"Surface Dice within {metrics['tolerance_px']:g} px. Empty masks: {metrics['empty_mask_rule']}.")
    if metrics.get("require_head"):
        lines.append("Predicted components that are connected to no head were dropped before scoring (--require-head).")
    if metrics.get("forgive_border"):
        lines.append(
            "Predicted components that touch the edge of a picture and no annotation do not count (--forgive-border)."
        )
    return "\n".join([*lines, ""])


def _lines(part: str, resolution: str, scores: Mapping[str, Any]) -> list[str]:
    """Return the lines of a part at one resolution."""
    ways = {
        "pooled over pixels": {name: f"{value:.3f}" for name, value in scores["pooled"].items()},
        "mean of images": {name: f"{one['mean']:.3f}" for name, one in scores["per_image"].items()},
        "median of images": {name: f"{one['median']:.3f}" for name, one in scores["per_image"].items()},
        "95 % interval of the mean": {
            name: "{:.3f}-{:.3f}".format(*one["ci95"]) if one["ci95"] else "one group"
            for name, one in scores["per_image"].items()
        },
    }
    return [_line(part, resolution, way, [cells.get(name, "-") for name in NAMES]) for way, cells in ways.items()]


def _confidence_line(found: Mapping[str, Any]) -> str:
    """Return the line that says how well the confidence of a model predicts its Dice."""
    figures = {"correlation with it": found["pearson"], "AUROC of finding its lowest tenth": found["auroc"]}
    known = "".join(f"; {name} {value:.3f}" for name, value in figures.items() if value is not None)
    return f"Confidence: {found['mean_error']:.3f} off the Dice of a picture on average{known}."


def _line(part: str, resolution: str, averaged: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([markdown(part), resolution, averaged, *cells])} |"


def foretold(metrics: Mapping[str, Any]) -> tuple[list[float], list[float], list[tuple[float, float]]]:
    """Return the confidence of each picture, the Dice of each picture, and (coverage, risk)."""
    said, came = ([image[name] for image in metrics["images"]] for name in ("confidence", "dice"))
    return said, came, metrics["confidence"]["risk"]
