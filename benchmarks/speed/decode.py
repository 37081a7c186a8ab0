"""How long does decoding a JPEG take? Compares decoders, at full size and at a half, a quarter and an eighth.

    python benchmarks/speed/decode.py --repeats 7
    python benchmarks/speed/decode.py --model run/model.safetensors --dataset dataset

Decoders that are not installed are left out; `pip install --target codecs simplejpeg imagecodecs` and PYTHONPATH=codecs
add two. For each recipe, two more lines have all work between bytes and network. `as before` decodes and measures the
whole picture and then reduces it. `now` decodes no more than the network sees. The second command also compares the
masks of both ways. Prints tables and, as its last line, one JSON object of the figures.
"""

import importlib
import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from spermseg.dataset.dataset import open_dataset
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.micrograph.decode import JPEG_FLAGS, decode_micrograph
from spermseg.micrograph.quality import measure_quality
from spermseg.micrograph.reduction import figure_pixels
from spermseg.micrograph.tiling import View, resize
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import load_model
from spermseg.recipes import recipe
from spermseg.storage.filesystem import Location
from spermseg.synthetic.draw import draw_micrograph

SIZES = {"1.3": (1024, 1280), "5": (1944, 2592), "20": (3888, 5184)}
"""Megapixels -> shape, as cameras have them."""
Pixels = NDArray[np.uint8]
Decoder = Callable[[bytes], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time decoders of JPEG, and compare the masks."""

    repeats: int = 7
    """Measurements of each decoder, in turn with the others; 5 or more."""
    quality: int = 90
    """Quality of the JPEGs."""
    model: Path | None = None
    """A model file, to compare its masks of whole and reduced pictures."""
    dataset: Path | None = None
    """A dataset whose validation pictures are JPEGs, for that comparison."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The time of one decoder for each megapixel of the whole picture."""

    megapixels: str
    decoder: str
    ms: float
    """Median of the wall time."""
    cpu_ms: float
    """Median of the CPU time."""
    ratio: float
    """CPU time of the reference decoder over that of this decoder: the median over the rounds."""
    ratio_range: tuple[float, float]
    """The least and the greatest ratio."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement between the masks of whole and of reduced pictures."""

    pictures: int
    iou_median: float
    """Median IoU between the two masks of a picture."""
    iou_least: float
    dice_whole: float
    """Mean Dice of the masks of whole pictures with the annotation."""
    dice_reduced: float


def opencv(by: int) -> Decoder:
    """Return OpenCV, which decodes to 1 / by of the size."""
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), JPEG_FLAGS[by] | cv2.IMREAD_IGNORE_ORIENTATION)


def pillow(by: int) -> Decoder:
    """Return Pillow in its draft mode."""

    def decode(data: bytes) -> Pixels:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (image.width // by, image.height // by))
        return np.asarray(image)

    return decode


def others(by: int) -> Iterator[tuple[str, Decoder]]:
    """Yield the installed ones of the decoders that are not dependencies of spermseg."""
    if importlib.util.find_spec("simplejpeg"):
        yield "simplejpeg", simplejpeg_to(by)
    if by == 1 and importlib.util.find_spec("imagecodecs"):
        yield "imagecodecs", importlib.import_module("imagecodecs").jpeg8_decode


def simplejpeg_to(by: int) -> Decoder:
    """Return simplejpeg, which decodes to the smallest size that is at least 1 / by of the picture."""
    library = importlib.import_module("simplejpeg")

    def decode(data: bytes) -> Pixels:
        height, width, *_ = library.decode_jpeg_header(data)
        pixels: Pixels = library.decode_jpeg(data, "RGB", min_height=height // by, min_width=width // by)
        return pixels

    return decode


def as_before(view: View) -> Decoder:
    """Return the earlier way: the whole picture is decoded and measured, and then reduced."""

    def prepare(data: bytes) -> None:
        pixels = decode_micrograph(data).pixels
        measure_quality(pixels)
        resize(pixels, view.working_shape(pixels.shape[:2]))

    return prepare


def as_now(view: View) -> Decoder:
    """Return the present way: the picture is decoded to no more than the network sees."""

    def prepare(data: bytes) -> None:
        picture = decode_micrograph(data, view=view)
        working = view.working_shape(picture.native_shape)
        measure_quality(figure_pixels(picture.pixels, picture.reduction, working))
        resize(picture.pixels, working)

    return prepare


def decoders() -> dict[str, tuple[Decoder, str]]:
    """Return name -> (the decoder, the name of its reference decoder)."""
    found: dict[str, tuple[Decoder, str]] = {}
    for by in (1, 2, 4, 8):
        part = f"1/{by}" if by > 1 else "whole"
        for name, decoder in (("OpenCV", opencv(by)), ("Pillow", pillow(by)), *others(by)):
            found[f"{name}, {part}"] = decoder, "OpenCV, whole"
    for name in ("clinic", "paper"):
        before = f"the {name} recipe, as before"
        view = recipe(name).view  # type: ignore[arg-type]
        found[before] = as_before(view), before
        found[f"the {name} recipe, now"] = as_now(view), before
    return found


def measure(megapixels: str, data: bytes, repeats: int) -> list[Timed]:
    """Time all decoders on one picture, in rounds, so that other load on the machine affects all decoders alike."""
    ways = decoders()
    height, width = SIZES[megapixels]
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, (decode, _) in ways.items():
            started, worked = time.perf_counter(), time.process_time()
            decode(data)
            wall[name].append((time.perf_counter() - started) * 1e9 / (height * width))
            cpu[name].append((time.process_time() - worked) * 1e9 / (height * width))
    found = []
    for name, (_, against) in ways.items():
        ratios = [theirs / own for theirs, own in zip(cpu[against][1:], cpu[name][1:], strict=True)]
        found.append(
            Timed(
                megapixels=megapixels,
                decoder=name,
                ms=round(median(wall[name][1:]), 2),
                cpu_ms=round(median(cpu[name][1:]), 2),
                ratio=round(median(ratios), 2),
                ratio_range=(round(min(ratios), 2), round(max(ratios), 2)),
            )
        )
    return found


def draw(megapixels: str, quality: int) -> bytes:
    """Return a synthetic micrograph of a size as JPEG."""
    height, width = SIZES[megapixels]
    one = draw_micrograph(1).pixels
    tiles = np.tile(one, (-(-height // one.shape[0]), -(-width // one.shape[1]), 1))[:height, :width]
    return cv2.imencode(".jpg", tiles[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def agree(model: Path, dataset: Path) -> Agreement:
    """Compare the masks of whole and of reduced pictures with each other, and with the annotation."""
    saved, pictures = load_model(Location(str(model))), open_dataset(Location(str(dataset)))
    view, threshold = saved.description.view, saved.description.threshold
    predictor = Predictor(saved, view, PredictConfig())
    ious, whole_dice, reduced_dice = [], [], []
    for example in tqdm(pictures.examples("val"), desc="comparing", unit="picture"):
        data = (dataset / "images" / example.image).read_bytes()
        both = decode_micrograph(data), decode_micrograph(data, view=view)
        whole, reduced = (probability >= threshold for probability in predictor.predict(both))
        truth = pictures.read_mask(example)
        ious.append(confusion(reduced, whole).iou)
        whole_dice.append(confusion(whole, truth).dice)
        reduced_dice.append(confusion(reduced, truth).dice)
    return Agreement(
        pictures=len(ious),
        iou_median=round(median(ious), 4),
        iou_least=round(min(ious), 4),
        dice_whole=round(mean(whole_dice), 4),
        dice_reduced=round(mean(reduced_dice), 4),
    )


def main() -> None:
    """Draw, time, compare, print."""
    options = tyro.cli(Options)
    cv2.setNumThreads(1)
    timed: list[Timed] = []
    for megapixels in SIZES:
        data = draw(megapixels, options.quality)
        timed += measure(megapixels, data, max(5, options.repeats))
        print(f"\n{megapixels} megapixels, {len(data) / 1e6:.2f} MB; for each megapixel of the picture:")
        print(f"{'':<28}{'ms':>7}{'CPU ms':>8}{'times cheaper':>15}{'from':>7}{'to':>7}")
        for one in timed:
            if one.megapixels == megapixels:
                low, high = one.ratio_range
                print(f"{one.decoder:<28}{one.ms:>7}{one.cpu_ms:>8}{one.ratio:>15}{low:>7}{high:>7}")
    agreement = None
    if options.model and options.dataset:
        agreement = asdict(agree(options.model, options.dataset))
        print("\nmasks of reduced pictures against those of whole ones:")
        print("  ".join(f"{name} {value}" for name, value in agreement.items()))
    print(json.dumps({"timed": [asdict(one) for one in timed], "agreement": agreement}))


if __name__ == "__main__":
    main()
