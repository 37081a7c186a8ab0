"""Charts: training curves, histograms, confidence.

This module does not use matplotlib's global state, so it is safe in threads and workers.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spermseg.errors import ConfigError

INK = "#1f2933"
"""Colour of text and axes."""
_BLUE = "#0072b2"
_VERMILLION = "#d55e00"
_SETS = (("train", "training", _BLUE, "--"), ("val", "validation", _VERMILLION, "-"))


def curves_figure(history: Sequence[Mapping[str, float]]) -> bytes:
    """Return loss, IoU and Dice against the epoch, for training and validation, as PNG.

    Args:
        history: one mapping an epoch, with `epoch` and any of `train_loss`, `val_loss`, `train_iou`, `val_iou`,
            `train_dice`, `val_dice`. Values that are missing or NaN are skipped. The epoch of the greatest `val_dice`
            is marked as the best.

    Raises:
        ConfigError: no row has an epoch.
    """
    rows = [row for row in history if _known(row, "epoch")]
    if not rows:
        raise ConfigError("got a training history without any epoch; at least one row with `epoch` is needed")
    scored = [row for row in rows if _known(row, "val_dice")]
    best = max(scored, key=lambda row: row["val_dice"])["epoch"] if scored else None
    figure = Figure(figsize=(13, 3.8), layout="constrained", facecolor="white")
    panels = (("loss", "Loss"), ("iou", "IoU"), ("dice", "Dice"))
    for axes, (name, title) in zip(figure.subplots(1, 3), panels, strict=True):
        _draw_curves(axes, rows, name, best)
        axes.set_title(title, loc="left", color=INK, weight="bold")
    return encode_figure(figure)


def _draw_curves(axes: Axes, rows: Sequence[Mapping[str, float]], name: str, best: float | None) -> None:
    for prefix, label, colour, dash in _SETS:
        points = [(row["epoch"], row[column]) for row in rows if _known(row, column := f"{prefix}_{name}")]
        if points:
            axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, marker=".", markersize=5)
    if best is not None:
        axes.axvline(best, color=INK, linewidth=0.9, linestyle=":", label=f"best epoch ({best:g})")
    axes.set_ylim(bottom=0)
    if name != "loss":
        axes.set_ylim(0, 1)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _undress(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def _known(row: Mapping[str, float], column: str) -> bool:
    value = row.get(column)
    return value is not None and math.isfinite(value)


def histogram_figure(
    values: Sequence[float] | npt.NDArray[Any], *, label: str, bins: int = 30, failed_below: float | None = None
) -> bytes:
    """Return a small histogram with its median marked, as PNG.

    Args:
        values: any number of values; those that are not finite are left out.
        label: of the horizontal axis.
        bins: the greatest number of bars. Bars of whole numbers are at least 1 wide.
        failed_below: a limit to mark; the title then has the share of the values below the limit.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    figure = Figure(figsize=(3.5, 2.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    if numbers.size:
        axes.hist(numbers, bins=_edges(numbers, bins), color=_BLUE, alpha=0.85)  # type: ignore[arg-type]
        median = float(np.median(numbers))
        axes.axvline(median, color=_VERMILLION, linewidth=1.6)
        axes.set_title(f"median {median:.3g}", loc="right", fontsize=9, color=_VERMILLION)
        if failed_below is not None:
            axes.axvline(failed_below, color=INK, linewidth=1.2, linestyle="--")
            axes.set_title(f"{(numbers < failed_below).mean():.0%} below {failed_below:g}", loc="left", fontsize=9)
    else:
        axes.set_title("no values", loc="right", fontsize=9, color=INK)
    axes.set(xlabel=label, ylabel="pictures")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _undress(axes)
    return encode_figure(figure, dpi=200)


def _edges(numbers: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """Return bar edges. Whole numbers get bars of whole width, since narrower bars would be empty by design."""
    low, high = float(numbers.min()), float(numbers.max())
    if np.array_equal(numbers, numbers.round()):
        step = max(1, math.ceil((high - low + 1) / bins))
        return np.arange(low - 0.5, high + step + 0.5, step)
    return np.histogram_bin_edges(numbers, bins=bins)


def confidence_figure(confidence: Sequence[float], dice: Sequence[float], risk: Sequence[tuple[float, float]]) -> bytes:
    """Return the Dice of pictures against their confidence, and the risk-coverage curve beside it, as PNG.

    Args:
        confidence: of each picture, 0-1.
        dice: of each picture, 0-1.
        risk: (coverage, risk), as `evaluation.reliability.Reliability` has them.
    """
    figure = Figure(figsize=(9, 4), layout="constrained", facecolor="white")
    foretold, curve = figure.subplots(1, 2)
    foretold.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.9, label="as expected")
    foretold.plot(confidence, dice, ".", color=_BLUE, markersize=7, alpha=0.7, label="pictures")
    lowest = min(0.95, *confidence, *dice) - 0.02
    foretold.set(xlabel="confidence", ylabel="Dice", xlim=(lowest, 1), ylim=(lowest, 1))
    foretold.set_title("Confidence and Dice", loc="left", color=INK, weight="bold")
    foretold.legend(frameon=False, fontsize=9)
    curve.plot(*zip(*risk, strict=True), color=_VERMILLION)
    curve.set(xlabel="coverage: pictures kept, the most confident first", ylabel="risk: 1 - mean Dice", xlim=(0, 1))
    curve.set_ylim(bottom=0)
    curve.set_title("Risk and coverage", loc="left", color=INK, weight="bold")
    for axes in (foretold, curve):
        _undress(axes)
    return encode_figure(figure)


def _undress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def encode_figure(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
