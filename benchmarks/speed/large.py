"""How much memory does a large picture take? Segments pictures of up to 400 Mpx in a process with a worker's limits.

    python benchmarks/speed/large.py

A worker may take 2 GiB, and 48 bytes for each pixel of `--max-megapixels`, in addition to its memory at the start
(`batch/worker/process.py`). The system refuses more. Each picture is segmented in a fresh process. The table shows the
peak of its memory beside that limit. Prints a table and, as its last line, one JSON list of the figures.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from briefly_trained import briefly_trained

from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.isolation import IsolatedSegmenter
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.tiling import Tiles
from spermseg.model.predict import PredictConfig
from spermseg.synthetic.draw import DrawConfig, draw_micrograph
from spermseg.table.plan import Planned
from spermseg.table.results import OK

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment large pictures, one a process."""

    megapixels: tuple[int, ...] = (1, 20, 400)
    """Sizes of the square pictures."""
    suffixes: tuple[str, ...] = (".jpg", ".png")
    """Formats: a JPEG is decoded at half of its size, a PNG at full size."""
    model: Path = Path("build/benchmarks/model.safetensors")
    """The model file; where there is no such file, a model is trained first."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one picture."""

    megapixels: int
    suffix: str
    cells: int
    seconds: float
    peak_gib: float
    """The peak of the resident memory of the process, including libraries and model."""
    bound_gib: float
    """The limit of the memory that the process may take in addition to its memory at the start."""


def draw(megapixels: int, suffix: str) -> bytes:
    """Return a picture that repeats a synthetic one."""
    side = int((megapixels * 1e6) ** 0.5)
    tile = draw_micrograph(0, DrawConfig(height=1000, width=1000, scale=0.5)).pixels
    times = -(-side // 1000)
    pixels = np.tile(tile, (times, times, 1))[:side, :side]
    return cv2.imencode(suffix, pixels)[1].tobytes()


def measure(megapixels: int, suffix: str, model: bytes) -> Measured:
    """Segment one picture in a separate process."""
    segmenting = Segmenting(
        model=model,
        settings=SegmentSettings(view=Tiles(), max_megapixels=megapixels),
        predict=PredictConfig(device="cpu"),
        run_id="benchmark",
        decode=decode_micrograph,
        hang_s=60,
    )
    segmenter = IsolatedSegmenter(segmenting)
    data = draw(megapixels, suffix)
    one = Planned(image_id="1", uri=f"/1{suffix}", size=len(data), data_size=len(data), etag="")
    started = time.perf_counter()
    (row,) = segmenter.segment([one], [Fetched(data=data)])
    seconds, peak = time.perf_counter() - started, segmenter.child_peak_bytes()
    segmenter.close()
    if row["status"] != OK:
        raise SystemExit(f"{megapixels} megapixels, {suffix}: {row['reason']}")
    return Measured(
        megapixels=megapixels,
        suffix=suffix,
        cells=row["n_cells"],
        seconds=round(seconds, 1),
        peak_gib=round(peak / GIB, 2),
        bound_gib=round(segmenting.memory / GIB, 2),
    )


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    briefly_trained(options.model)
    model = options.model.read_bytes()
    measured = [measure(size, suffix, model) for size in options.megapixels for suffix in options.suffixes]
    print(f"{'Mpx':>6}  {'format':<8}{'cells':>7}{'seconds':>9}{'peak, GiB':>11}{'bound, GiB':>12}")
    for one in measured:
        print(
            f"{one.megapixels:>6}  {one.suffix:<8}{one.cells:>7}{one.seconds:>9}{one.peak_gib:>11}{one.bound_gib:>12}"
        )
    print(json.dumps([asdict(one) for one in measured]))


if __name__ == "__main__":
    main()
