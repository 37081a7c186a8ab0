"""Pictures that a person judges by eye: outlines, agreement with the truth, training curves, histograms.

Colours are from Okabe and Ito's palette (Color Universal Design, 2008), which keeps its contrasts for people with
any kind of colour blindness. Nothing here touches matplotlib's global state, so it is safe in threads and workers.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from spermseg.errors import ConfigError, ShapeError

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Colour = tuple[int, int, int]

OUTLINE: Colour = (230, 97, 0)
AGREEMENT_LEGEND: tuple[tuple[str, Colour], ...] = (
    ("true positive", (86, 180, 233)),
    ("false positive", (213, 94, 0)),
    ("false negative", (240, 228, 66)),
)

_INK = "#1f2933"
_DARK: Colour = (31, 41, 51)  # the same
_BLUE = "#0072b2"
_VERMILLION = "#d55e00"
_SETS = (("train", "training", _BLUE, "--"), ("val", "validation", _VERMILLION, "-"))
_DIMMING = 0.45  # of the grey picture below the agreement colours: all three stand out, the cells stay visible
_TINT = 0.75  # share of the agreement colour in its pixels; the rest is the picture
_LEGEND_PX = 28  # height of the legend strip at the scale where its text is 12 px high
_TITLE_LETTERS = 40  # what fits above one column of a comparison


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One picture with its prediction and its truth, as a row of `comparison_figure`."""

    name: str
    """What to call it: rank and file name, for example `worst: slide 3.jpg`."""
    pixels: Pixels
    """The micrograph, (Y, X, 3) uint8 RGB."""
    truth: Mask
    """The annotated mask, (Y, X) bool."""
    predicted: Mask
    """The predicted mask, (Y, X) bool."""
    dice: float
    """The Dice coefficient of the two masks, 0-1."""


def overlay(pixels: Pixels, mask: Mask, *, colour: Colour = OUTLINE, thickness: int = 2) -> Pixels:
    """Return the picture with the mask's outline drawn just outside the mask, so that it hides no pixel of a cell.

    Args:
        pixels: (Y, X, 3) uint8 RGB; it is not changed.
        mask: (Y, X) bool.
        colour: RGB, 0-255.
        thickness: of the outline, px.

    Raises:
        ShapeError: picture and mask do not fit.
        ConfigError: the thickness is below 1 px.
    """
    _check_shapes(pixels, mask)
    if thickness < 1:
        raise ConfigError(f"got an outline of {thickness} px; at least 1 px is needed")
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness + 1, 2 * thickness + 1))
    grown = cv2.dilate(mask.astype(np.uint8), disc).astype(bool)
    drawn = pixels.copy()
    drawn[grown & ~mask] = colour
    return drawn


def agreement(pixels: Pixels, predicted: Mask, truth: Mask, *, legend: bool = True) -> Pixels:
    """Return a dimmed grey picture with true positives, false positives and false negatives in colour.

    Args:
        pixels: (Y, X, 3) uint8 RGB.
        predicted: (Y, X) bool.
        truth: (Y, X) bool.
        legend: whether to add a strip below that names the colours.

    Returns:
        (Y, X, 3) uint8 RGB; with the legend some rows taller.

    Raises:
        ShapeError: picture and masks do not fit.
    """
    _check_shapes(pixels, predicted, truth)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) * _DIMMING
    drawn = np.repeat(grey[..., np.newaxis], 3, axis=2)
    regions = (predicted & truth, predicted & ~truth, ~predicted & truth)
    for region, (_, colour) in zip(regions, AGREEMENT_LEGEND, strict=True):
        drawn[region] = (1 - _TINT) * drawn[region] + _TINT * np.array(colour)
    picture = drawn.round().astype(np.uint8)
    return np.vstack([picture, _legend_strip(picture.shape[1])]) if legend else picture


def _legend_strip(width: int) -> Pixels:
    """Return white rows of this width (px) with a swatch and a name for each agreement colour."""
    share = width / len(AGREEMENT_LEGEND)
    scale = min(2.0, share / 150)  # 150 px hold the longest name in the font below
    height = max(6, round(_LEGEND_PX * scale))
    strip = np.full((height, width, 3), 255, np.uint8)
    for index, (name, colour) in enumerate(AGREEMENT_LEGEND):
        left, side = round(index * share + 6 * scale), round(height * 0.6)
        top = (height - side) // 2
        strip[top : top + side, left : left + side] = colour
        place = (left + side + round(5 * scale), top + side - round(3 * scale))
        cv2.putText(strip, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.48 * scale, _DARK, 1, cv2.LINE_AA)
    return strip


def encode_jpeg(pixels: Pixels, width: int, *, quality: int = 82) -> bytes:
    """Return a picture as JPEG, made smaller to `width` px where it is wider, never larger.

    Args:
        pixels: (Y, X, 3) uint8 RGB.
        width: the greatest width, px.
        quality: JPEG quality, 1-95.

    Raises:
        ShapeError: not an RGB picture.
        ConfigError: the width is below 1 px.
    """
    _check_shapes(pixels)
    if width < 1:
        raise ConfigError(f"got a picture width of {width} px; at least 1 px is needed")
    buffer = io.BytesIO()
    picture = Image.fromarray(_at_most_wide(pixels, width))
    picture.save(buffer, "JPEG", quality=quality, optimize=True, subsampling=0)  # thin lines keep their colour
    return buffer.getvalue()


def _at_most_wide(pixels: Pixels, width: int) -> Pixels:
    height_px, width_px = pixels.shape[:2]
    if width_px <= width:
        return pixels
    size = (width, max(1, round(height_px * width / width_px)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def comparison_figure(items: Sequence[Comparison], *, width: int = 640) -> bytes:
    """Return one row a picture (original, truth, prediction, agreement) with its Dice, as PNG.

    Args:
        items: the pictures, in the order of the rows.
        width: the greatest width of each of the four columns, px of the micrograph.

    Raises:
        ConfigError: there is no picture.
        ShapeError: a picture and its masks do not fit.
    """
    if not items:
        raise ConfigError("got no picture to compare; at least one is needed")
    shapes = [item.pixels.shape for item in items]
    heights = [3.4 * shape[0] / shape[1] + 0.45 for shape in shapes]  # inches, with room for the title
    figure = Figure(figsize=(14, sum(heights) + 0.4), layout="constrained", facecolor="white")
    grid = figure.subplots(len(items), 4, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, item in zip(grid, items, strict=True):
        _draw_comparison(axes, item, width)
    patches = [Patch(color=f"#{bytes(colour).hex()}", label=name) for name, colour in AGREEMENT_LEGEND]
    figure.legend(handles=patches, loc="outside lower right", ncols=3, frameon=False)
    return _png(figure)


def _draw_comparison(row: Sequence[Axes], item: Comparison, width: int) -> None:
    _check_shapes(item.pixels, item.truth, item.predicted)
    thickness = max(1, round(item.pixels.shape[1] / width * 1.5))
    name = item.name if len(item.name) <= _TITLE_LETTERS else f"{item.name[: _TITLE_LETTERS - 1]}…"
    columns = (
        (f"{name}\nDice {item.dice:.3f}", item.pixels),
        ("truth", overlay(item.pixels, item.truth, thickness=thickness)),
        ("prediction", overlay(item.pixels, item.predicted, thickness=thickness)),
        ("agreement", agreement(item.pixels, item.predicted, item.truth, legend=False)),
    )
    for axes, (title, picture) in zip(row, columns, strict=True):
        axes.imshow(_at_most_wide(picture, width))
        axes.set_title(title, loc="left", fontsize=10, color=_INK, parse_math=False)
        axes.set_axis_off()


def panel_figure(titles: Sequence[str], pictures: Sequence[Pixels], masks: Sequence[Mask]) -> bytes:
    """Draw pictures in a row, each with its title above and its mask below.

    Args:
        titles: of each picture.
        pictures: (Y, X, 3) uint8 RGB.
        masks: (Y, X) bool, of the same shapes.

    Returns:
        The bytes of a PNG.

    Raises:
        ShapeError: a mask and its picture are not of one shape.
    """
    figure = Figure(figsize=(2.2 * len(titles), 4.8), layout="constrained")
    rows = figure.subplots(2, len(titles), squeeze=False)
    for axes, title, pixels, mask in zip(rows.T, titles, pictures, masks, strict=True):
        _check_shapes(pixels, mask)
        axes[0].imshow(pixels)
        axes[0].set_title(title, fontsize=9, color=_INK)
        axes[1].imshow(mask, cmap="gray", vmin=0, vmax=1)
        for one in axes:
            one.set_axis_off()
    return _png(figure)


def curves_figure(history: Sequence[Mapping[str, float]]) -> bytes:
    """Return loss, IoU and Dice against the epoch, for training and validation, as PNG.

    Args:
        history: one mapping an epoch with `epoch` and any of `train_loss`, `val_loss`, `train_iou`, `val_iou`,
            `train_dice`, `val_dice`; a value that is missing or NaN is skipped. The epoch of the greatest
            `val_dice` is marked as the best.

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
        axes.set_title(title, loc="left", color=_INK, weight="bold")
    return _png(figure)


def _draw_curves(axes: Axes, rows: Sequence[Mapping[str, float]], name: str, best: float | None) -> None:
    for prefix, label, colour, dash in _SETS:
        points = [(row["epoch"], row[column]) for row in rows if _known(row, column := f"{prefix}_{name}")]
        if points:
            axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, marker=".", markersize=5)
    if best is not None:
        axes.axvline(best, color=_INK, linewidth=0.9, linestyle=":", label=f"best epoch ({best:g})")
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


def histogram_figure(values: Sequence[float] | npt.NDArray[Any], *, label: str, bins: int = 30) -> bytes:
    """Return a small histogram with its median marked, as PNG.

    Args:
        values: any number of values; those that are not finite are left out.
        label: of the horizontal axis.
        bins: the greatest number of bars; whole numbers never share less than one unit of a bar.
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
    else:
        axes.set_title("no values", loc="right", fontsize=9, color=_INK)
    axes.set(xlabel=label, ylabel="pictures")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _undress(axes)
    return _png(figure, dpi=200)


def _edges(numbers: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """Return bar edges; counts get bars of whole units, so that no bar is empty by its width alone."""
    low, high = float(numbers.min()), float(numbers.max())
    if np.array_equal(numbers, numbers.round()):
        step = max(1, math.ceil((high - low + 1) / bins))
        return np.arange(low - 0.5, high + step + 0.5, step)
    return np.histogram_bin_edges(numbers, bins=bins)


def _undress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _png(figure: Figure, dpi: int = 110) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _check_shapes(pixels: Pixels, *masks: Mask) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ShapeError(f"got a picture of shape {pixels.shape}, {pixels.dtype}; (Y, X, 3) uint8 RGB is needed")
    for mask in masks:
        if mask.shape != pixels.shape[:2] or mask.dtype != np.bool_:
            raise ShapeError(
                f"got a mask of shape {mask.shape}, {mask.dtype}; {pixels.shape[:2]} bool is needed, as the picture"
            )
