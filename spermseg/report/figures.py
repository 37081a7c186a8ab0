"""Pictures for people: outlines, and agreement with the ground truth.

Colours are from the palette of Okabe and Ito (Color Universal Design, 2008), which keeps its contrasts for people with
any kind of colour blindness. This module does not use matplotlib's global state, so it is safe in threads and workers.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from spermseg.errors import ConfigError, ShapeError
from spermseg.report.charts import INK, encode_figure
from spermseg.texts import visible

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Colour = tuple[int, int, int]

OUTLINE: Colour = (230, 97, 0)
AGREEMENT_LEGEND: tuple[tuple[str, Colour], ...] = (
    ("true positive", (86, 180, 233)),
    ("false positive", (213, 94, 0)),
    ("false negative", (240, 228, 66)),
)

_DARK: Colour = (31, 41, 51)  # `INK` as RGB
_DIMMING = 0.45  # brightness of the grey picture below the agreement colours: colours stand out, cells stay visible
_TINT = 0.75  # share of the agreement colour in a coloured pixel; the rest is the picture
_LEGEND_PX = 28  # height of the legend strip at the scale where its text is 12 px high
_TITLE_LETTERS = 40  # letters that fit above one column of a comparison


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One picture with its prediction and its ground truth, as a row of `comparison_figure`."""

    name: str
    """Title of the row: rank and file name, for example `worst: slide 3.jpg`."""
    pixels: Pixels
    """The micrograph, (Y, X, 3) uint8 RGB."""
    truth: Mask
    """The annotated mask, (Y, X) bool."""
    predicted: Mask
    """The predicted mask, (Y, X) bool."""
    dice: float
    """The Dice coefficient of the two masks, 0-1."""


def overlay(pixels: Pixels, mask: Mask, *, colour: Colour = OUTLINE, thickness: int = 2) -> Pixels:
    """Return the picture with the mask's outline drawn just outside the mask, so that the outline hides no cell pixel.

    Args:
        pixels: (Y, X, 3) uint8 RGB; not changed.
        mask: (Y, X) bool.
        colour: RGB, 0-255.
        thickness: of the outline, px.

    Raises:
        ShapeError: picture and mask differ in shape.
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
        legend: whether to add a strip below the picture that names the colours.

    Returns:
        (Y, X, 3) uint8 RGB; with the legend, some rows taller.

    Raises:
        ShapeError: picture and masks differ in shape.
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
    """Return a picture as JPEG. A picture wider than `width` px is reduced to this width.

    Args:
        pixels: (Y, X, 3) uint8 RGB.
        width: the greatest width, px.
        quality: JPEG quality, 1-95.

    Raises:
        ShapeError: this is not an RGB picture.
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
        width: the greatest width of each of the four columns, px.

    Raises:
        ConfigError: there is no picture.
        ShapeError: a picture and its masks differ in shape.
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
    return encode_figure(figure)


def _draw_comparison(row: Sequence[Axes], item: Comparison, width: int) -> None:
    _check_shapes(item.pixels, item.truth, item.predicted)
    thickness = max(1, round(item.pixels.shape[1] / width * 1.5))
    name = visible(item.name)
    name = name if len(name) <= _TITLE_LETTERS else f"{name[: _TITLE_LETTERS - 1]}…"
    columns = (
        (f"{name}\nDice {item.dice:.3f}", item.pixels),
        ("truth", overlay(item.pixels, item.truth, thickness=thickness)),
        ("prediction", overlay(item.pixels, item.predicted, thickness=thickness)),
        ("agreement", agreement(item.pixels, item.predicted, item.truth, legend=False)),
    )
    for axes, (title, picture) in zip(row, columns, strict=True):
        axes.imshow(_at_most_wide(picture, width))
        axes.set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)
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
        ShapeError: a mask and its picture differ in shape.
    """
    figure = Figure(figsize=(2.2 * len(titles), 4.8), layout="constrained")
    rows = figure.subplots(2, len(titles), squeeze=False)
    for axes, title, pixels, mask in zip(rows.T, titles, pictures, masks, strict=True):
        _check_shapes(pixels, mask)
        axes[0].imshow(pixels)
        axes[0].set_title(title, fontsize=9, color=INK)
        axes[1].imshow(mask, cmap="gray", vmin=0, vmax=1)
        for one in axes:
            one.set_axis_off()
    return encode_figure(figure)


def _check_shapes(pixels: Pixels, *masks: Mask) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ShapeError(f"got a picture of shape {pixels.shape}, {pixels.dtype}; (Y, X, 3) uint8 RGB is needed")
    for mask in masks:
        if mask.shape != pixels.shape[:2] or mask.dtype != np.bool_:
            raise ShapeError(
                f"got a mask of shape {mask.shape}, {mask.dtype}; {pixels.shape[:2]} bool is needed, as the picture"
            )
