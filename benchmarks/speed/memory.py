"""Does memory stay constant? Segments a zip of synthetic micrographs, and watches the memory of driver and workers.

    python benchmarks/speed/memory.py --model run/model.safetensors --pictures 2000

Prints a table of resident memory by finished pictures and, as its last line, one JSON object of the figures.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import psutil
import tyro
from one_night import segment_all
from tqdm import tqdm

from spermseg.batch.pool import Workers
from spermseg.batch.run import Progress
from spermseg.storage.filesystem import Location
from spermseg.synthetic.draw import draw_micrograph

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment synthetic micrographs in one zip and watch the memory."""

    model: Path
    """The model file."""
    pictures: int = 2000
    """Synthetic micrographs of 1280 x 1024 in the zip."""
    folder: Path | None = None
    """Folder in which the zip is made, and kept for the next time; None is a temporary folder."""
    mark: int = 200
    """The figures begin when this number of pictures is finished."""


@dataclass(frozen=True)
class Sample:
    """Resident memory, MiB, at a number of finished pictures."""

    done: int
    driver: float
    workers: dict[int, float]


def draw(seed: int) -> bytes:
    """Return one synthetic micrograph as JPEG."""
    cv2.setNumThreads(1)
    pixels = draw_micrograph(seed).pixels
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def draw_zip(path: Path, pictures: int) -> None:
    """Draw the zip, unless the file exists."""
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    with ProcessPoolExecutor() as pool, zipfile.ZipFile(partial, "w") as archive:
        made = pool.map(draw, range(pictures), chunksize=8)
        for number, data in enumerate(tqdm(made, total=pictures, desc="drawing", unit="picture")):
            archive.writestr(f"patient-{number // 20:03}/field-{number % 20:02}.jpg", data)
    partial.rename(path)


def workers() -> Iterator[psutil.Process]:
    """Yield the Ray workers below this process that hold a model."""
    for process in psutil.Process().children(recursive=True):
        try:
            if "SegmentUnit" in " ".join(process.cmdline()):
                yield process
        except psutil.Error:
            continue


def resident(process: psutil.Process) -> float:
    """Return the resident memory of a process without shared memory (Ray's object store), MiB."""
    memory = process.memory_info()
    return (memory.rss - memory.shared) / MIB


def measure(options: Options, folder: Path) -> tuple[list[Sample], float]:
    """Segment and return (samples, seconds)."""
    source = folder / f"uploads-{options.pictures}"
    source.mkdir(parents=True, exist_ok=True)
    draw_zip(source / "uploads.zip", options.pictures)
    model = options.model.read_bytes()
    samples: list[Sample] = []

    def watch(progress: Progress) -> None:
        sizes = {process.pid: resident(process) for process in workers()}
        samples.append(Sample(progress.done, resident(psutil.Process()), sizes))
        print(
            f"{progress.done:>6} done  driver {samples[-1].driver:7.0f} MiB  workers {list(map(round, sizes.values()))}"
        )

    seconds = segment_all(Location(str(source)), model, Workers(), watch, pictures=options.pictures)
    return samples, seconds


def by_third(sizes: list[float]) -> list[dict[str, int]]:
    """Return median and maximum of each third. A worker's memory varies with its unit; with a leak, it would rise."""
    cut = -(-len(sizes) // 3)
    thirds = [sizes[start : start + cut] for start in range(0, len(sizes), cut)]
    return [{"median": round(median(third)), "max": round(max(third))} for third in thirds]


def main() -> None:
    """Draw, segment, print."""
    options = tyro.cli(Options)
    os.environ.setdefault("RAY_ADDRESS", "local")
    with tempfile.TemporaryDirectory() as temporary:
        samples, seconds = measure(options, options.folder or Path(temporary))
    watched = [one for one in samples if one.workers and one.done >= options.mark]
    figures = {
        "pictures": options.pictures,
        "seconds": round(seconds, 1),
        "driver_mib": [round(watched[0].driver), round(watched[-1].driver)],
        "largest_worker_mib_by_third": by_third([max(one.workers.values()) for one in watched]),
        "at": [watched[0].done, watched[-1].done],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
