"""Synthetic micrographs of stained smears, with the exact outlines of every cell in them.

A picture is made as a camera records a smear. Stains absorb light in proportion to their amount (Beer and Lambert), the
lamp is uneven, the lens blurs, and the sensor adds noise. Every cell is rendered from the polygons that are returned,
and each pixel takes the exact share that a polygon covers. So the masks are exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path as OutlinePath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from spermseg.errors import ConfigError
from spermseg.synthetic.camera import (
    OPTICAL_DENSITY,
    Layer,
    enlarge,
    focus,
    lamp_light,
    record,
    smooth_noise,
    soften,
    through_jpeg,
)
from spermseg.synthetic.debris import Debris, scatter_debris, scatter_round_cells
from spermseg.synthetic.shapes import (
    ACROSOME,
    HEAD,
    MIDPIECE,
    TAIL,
    VACUOLE,
    CellForm,
    Points,
    Shape,
    clip_to_frame,
    draw_cell,
)


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """What a synthetic micrograph looks like. Lengths at scale 1 match a 100x objective on a 1280 x 1024 camera."""

    height: int = 1024
    """Height of the picture, px."""
    width: int = 1280
    """Width of the picture, px."""
    scale: float = 1.0
    """Size of the cells; 1 makes heads of about 80 px and tails of about 10 px."""
    cells: tuple[int, int] = (0, 14)
    """Least and greatest number of cells whose head lies in the picture, or outside as far as `beyond` says. All
    numbers are equally likely."""
    beyond: float = 0.1
    """How far outside the picture heads may lie, so that tails reach in, as a share of the picture's sides."""
    form: CellForm = field(default_factory=CellForm)
    """What the cells look like."""
    head_stain: float = 1.0
    """Strength of the stain of heads; 1 is a well stained slide."""
    tail_stain: float = 1.0
    """Strength of the stain of midpieces and tails; 1 is a well stained slide."""
    round_cells: tuple[int, int] = (0, 0)
    """Least and greatest number of leukocytes and immature germ cells; they are not labelled."""
    inner_parts: bool = False
    """Whether Acrosome, Nucleus and Vacuole are labelled, too. The picture shows them in any case."""
    debris: float = 1.0
    """Amount of debris and of plasma in the background: 0 is a clean slide, 1 an ordinary one."""
    unevenness: float = 0.12
    """Greatest fall of the light from the brightest place to the darkest, as a share."""
    blur: float = 1.1
    """Blur of the lens at scale 1, standard deviation, px."""
    defocus: float = 4.0
    """Blur of the out-of-focus areas that some pictures have, standard deviation at scale 1, px."""
    sharpening: float = 0.25
    """Sharpening by the camera: height of the bright rim around a dark object, as a share of the step at its edge."""
    noise: float = 1.8
    """Noise of the sensor in the background, standard deviation, grey levels."""
    stain_variation: float = 1.0
    """How far colours and strength of stain differ between slides: with 0, they do not differ; with 1, they differ as
    between clinics."""
    jpeg_quality: int | None = None
    """Quality, 1-100, of the JPEG file that the camera wrote; None is a lossless file."""
    slide: int | None = None
    """Seed of the slide, with its stain and its lamp. None takes the seed of the picture, so each picture has its own
    slide."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise ConfigError(f"got a picture of {self.width} x {self.height} px; give at least 32 x 32")
        if not 0.1 <= self.scale <= 8:
            raise ConfigError(f"got scale {self.scale}; give 0.1 to 8")
        if len(self.cells) != 2 or not 0 <= self.cells[0] <= self.cells[1]:
            raise ConfigError(f"got cells {self.cells}; give the least and the most, such as (0, 14)")
        if not 0 <= self.unevenness < 1:
            raise ConfigError(f"got unevenness {self.unevenness}; give 0 or more, and less than 1")
        if len(self.round_cells) != 2 or not 0 <= self.round_cells[0] <= self.round_cells[1]:
            raise ConfigError(f"got round cells {self.round_cells}; give the least and the most, such as (0, 2)")
        amounts = ("beyond", "debris", "blur", "defocus", "sharpening", "noise", "stain_variation")
        for name in (*amounts, "head_stain", "tail_stain"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"got {name} {getattr(self, name)}; give 0 or more")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"got jpeg_quality {self.jpeg_quality}; give 1 to 100")
        if self.slide is not None and self.slide < 0:
            raise ConfigError(f"got slide {self.slide}; give 0 or more")


@dataclass(frozen=True, kw_only=True)
class SyntheticMicrograph:
    """A synthetic picture and its ground truth."""

    pixels: NDArray[np.uint8] = field(repr=False)
    """(Y, X, 3) uint8, RGB."""
    shapes: tuple[Shape, ...]
    """Every labelled part of every cell, clipped to the picture."""


def draw_micrograph(seed: int, config: DrawConfig | None = None) -> SyntheticMicrograph:
    """Draw one micrograph. The same seed and config give the same bytes.

    Args:
        seed: seed of everything that the config leaves open; 0 or more.
        config: what the micrograph looks like; None takes the defaults.

    Raises:
        ConfigError: the seed is below 0.

    Example:
        >>> micrograph = draw_micrograph(7, DrawConfig(height=256, width=320, scale=0.4))
        >>> micrograph.pixels.shape
        (256, 320, 3)
    """
    if seed < 0:
        raise ConfigError(f"got seed {seed}; give 0 or more")
    config = config or DrawConfig()
    rng = np.random.default_rng(seed)
    slide = np.random.default_rng([1, seed if config.slide is None else config.slide])
    shapes = clip_to_frame(_place_cells(rng, config), config.height, config.width)
    density = _stain(rng, slide, shapes, config)
    size, scale = (config.height, config.width), config.scale
    light = lamp_light(rng, slide, size, config.unevenness, config.stain_variation)
    light *= np.exp(-density)
    seen = focus(rng, light, config.blur * scale, config.defocus * scale, config.sharpening)
    pixels = record(rng, seen, config.noise)
    if config.jpeg_quality is not None:
        pixels = through_jpeg(pixels, config.jpeg_quality)
    labelled = tuple(s for s in shapes if config.inner_parts or s.label in (HEAD, MIDPIECE, TAIL))
    return SyntheticMicrograph(pixels=pixels, shapes=labelled)


def labelme_annotation(micrograph: SyntheticMicrograph, image_name: str) -> dict[str, Any]:
    """Return the outlines as LabelMe 5 JSON, ready for `json.dump`.

    Args:
        micrograph: the micrograph.
        image_name: name of the file of its pixels, without a folder.
    """
    height, width = micrograph.pixels.shape[:2]
    return {
        "version": "5.0.1",
        "flags": {},
        "shapes": [
            {
                "label": shape.label,
                "points": shape.points.tolist(),
                "group_id": shape.group_id,
                "shape_type": "polygon",
                "flags": {},
            }
            for shape in micrograph.shapes
        ],
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _place_cells(rng: np.random.Generator, config: DrawConfig) -> list[Shape]:
    """Return the shapes of all cells. Most heads do not touch. Some heads lie outside, so only a tail reaches in."""
    shapes: list[Shape] = []
    size = np.array([config.width, config.height], dtype=np.float64)
    taken = np.empty((0, 2))
    for group_id in range(rng.integers(config.cells[0], config.cells[1] + 1)):
        tries = rng.uniform(-config.beyond, 1 + config.beyond, (4, 2)) * size
        gaps = np.linalg.norm(tries[:, None] - taken, axis=2).min(axis=1, initial=np.inf)
        # The first place without a head nearby; where there is none, the place farthest from other heads.
        best = int(np.argmax(np.minimum(gaps, 110 * config.scale)))
        taken = np.vstack([taken, tries[best]])
        shapes += draw_cell(rng, (tries[best][0], tries[best][1]), config.scale, group_id, config.form)
    return shapes


def paint(outlines: Iterable[Sequence[Points]], densities: Iterable[float], height: int, width: int) -> Layer:
    """Return the density of a stain in each pixel, 0-1, exact to 1/255.

    Args:
        outlines: the polygons of each object. Polygons of one object may share edges without a seam.
        densities: share of the full density of each object, 0-1.
        height: of the picture, px.
        width: of the picture, px.
    """
    # Agg computes the covered area of each pixel; other renderers take samples.
    canvas: Any = RendererAgg(width, height, 72)  # type: ignore[no-untyped-call]
    brush = canvas.new_gc()
    brush.set_linewidth(0)
    brush.set_snap(False)
    upright = Affine2D().scale(1, -1).translate(0, height)  # Agg's y runs up
    for polygons, density in zip(outlines, densities, strict=True):
        rings = [OutlinePath(np.vstack([p, p[:1]]), closed=True) for p in polygons]
        canvas.draw_path(brush, OutlinePath.make_compound_path(*rings), upright, (0.0, 0.0, 0.0, density))
    alpha = cv2.extractChannel(np.asarray(canvas.buffer_rgba()), 3)
    return np.multiply(alpha, np.float32(1 / 255), dtype=np.float32)


def _paint_parts(shapes: list[Shape], label: str, config: DrawConfig, density: dict[int, float] | None = None) -> Layer:
    """Paint one part of all cells; the pieces of one cell's tail are one object."""
    cells: dict[int, list[Points]] = {}
    for shape in shapes:
        if shape.label == label:
            cells.setdefault(shape.group_id, []).append(shape.points)
    strength = [1.0 if density is None else density[cell] for cell in cells]
    return paint(cells.values(), strength, config.height, config.width)


def _paint_debris(debris: Debris, config: DrawConfig) -> Layer:
    return paint(([outline] for outline in debris.outlines), debris.densities, config.height, config.width)


def _stain(rng: np.random.Generator, slide: np.random.Generator, shapes: list[Shape], config: DrawConfig) -> Layer:
    """Return the optical density of everything in the picture, (3, Y, X)."""
    scale = config.scale
    strength = {shape.group_id: rng.uniform(0.45, 1.0) for shape in shapes}
    head = _paint_parts(shapes, HEAD, config)
    # A blurred cap divided by the blurred head fades towards the nucleus, but not towards the edge of the head.
    cap = soften(_paint_parts(shapes, ACROSOME, config), 8 * scale) / (soften(head, 8 * scale) + 1e-3)
    head *= 1 - 0.45 * soften(_paint_parts(shapes, VACUOLE, config), 1.5 * scale)
    midpiece = _paint_parts(shapes, MIDPIECE, config, strength)
    near_head = np.clip(2.2 * soften(head, 18 * scale), 0, 1)
    debris = scatter_debris(rng, config.height, config.width, scale, config.debris)
    layers = {
        "tail": _paint_parts(shapes, TAIL, config, strength),
        "midpiece": midpiece * (1 - near_head),
        "neck": midpiece * near_head,
        "nucleus": head * (1 - cap),
        "acrosome": head * cap,
    }
    if config.debris > 0:
        layers["pale"] = _paint_debris(debris.pale, config)
        layers["dark"] = _paint_debris(debris.dark, config)
        layers["pink"] = soften(_paint_debris(debris.pink, config), 4 * scale)
        layers["bubble"] = _paint_debris(debris.bubbles, config)
        layers["plasma"] = _plasma(rng, config)
    if config.round_cells[1]:
        round_cells = scatter_round_cells(rng, config.height, config.width, scale, config.round_cells)
        layers["cytoplasm"] = soften(_paint_debris(round_cells.pale, config), 3 * scale)
        layers["round nucleus"] = soften(_paint_debris(round_cells.dark, config), 3 * scale)
    density = np.zeros((3, config.height, config.width), dtype=np.float32)
    for colour, layer in zip(_colours(slide, layers, config), layers.values(), strict=True):
        for share, channel in zip(colour, density, strict=True):
            cv2.scaleAdd(layer, float(share), channel, dst=channel)
    return density


def _colours(slide: np.random.Generator, stains: Iterable[str], config: DrawConfig) -> NDArray[np.float32]:
    """Return the optical density (stains, 3) of each stain on this slide."""
    strengths = {"nucleus": config.head_stain, "acrosome": config.head_stain} | dict.fromkeys(
        ("tail", "midpiece", "neck"), config.tail_stain
    )
    colours = np.array(
        [np.multiply(OPTICAL_DENSITY[name], strengths.get(name, 1.0)) for name in stains], dtype=np.float32
    )
    spread = 0.16 * config.stain_variation
    colours *= np.exp(slide.normal(0, spread, 3) + slide.normal(0, spread)).clip(0.5, 1.8)
    return colours


def _plasma(rng: np.random.Generator, config: DrawConfig) -> Layer:
    """Return dried plasma: faint patches with edges, and a fine grain everywhere."""
    size = (config.height, config.width)
    patches = smooth_noise(rng, size, 5, shrink=2) + 0.35 * smooth_noise(rng, size, 40, shrink=2)
    patches = 1 / (1 + np.exp(-4 * patches - 2))
    grain = 0.25 * np.clip(smooth_noise(rng, size, 150, shrink=2), 0, 3)
    return enlarge((patches + grain) * np.float32(min(config.debris, 2)), size)
