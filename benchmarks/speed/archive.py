"""Does a single zip keep all workers busy? Segments a zip of synthetic micrographs with one worker, and with more.

    python benchmarks/speed/archive.py --size 2.0 --workers 1 2

Members are stored without compression, since JPEGs are compressed already, and read by byte ranges. Prints a table of
the pictures of each worker process and, as its last line, one JSON object of the figures.
"""

import json
import os
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import tyro
from one_night import segment_all
from tqdm import tqdm

from spermseg.batch.pool import Workers
from spermseg.batch.run import Progress
from spermseg.micrograph.decode import Micrograph, decode_micrograph
from spermseg.micrograph.tiling import View
from spermseg.storage.filesystem import Location
from spermseg.synthetic.draw import draw_micrograph

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.dark_cells import darkness_model

GB = 10**9
PICTURES_MADE = 12
"""Distinct micrographs. Each is in the zip many times, with a different comment and so with different bytes."""
QUALITY = (97, 98, 99, 100)
"""Qualities of the JPEGs, in turn: files of half a megabyte to more than one, as from a camera at high quality."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment one large zip with one worker and with more."""

    size: float = 2.0
    """Size of the zip, GB."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers to measure, one after the other."""
    model: Path | None = None
    """The model file. None takes a tiny model, so that reading and decoding take most of the time."""
    folder: Path | None = None
    """Folder in which the zip is made, and kept for the next time; None is a temporary folder."""


@dataclass(frozen=True, kw_only=True)
class CountingDecode:
    """The usual decoder, which also counts pictures: a byte for each picture in a file of the process."""

    folder: str

    def __call__(self, data: bytes, *, max_megapixels: float, view: View) -> Micrograph:
        """Return the picture."""
        with (Path(self.folder) / str(os.getpid())).open("ab") as file:
            file.write(b".")
        return decode_micrograph(data, max_megapixels=max_megapixels, view=view)

    def counted(self) -> list[int]:
        """Return the number of pictures of each process, the largest first."""
        return sorted((file.stat().st_size for file in Path(self.folder).iterdir()), reverse=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one night."""

    workers: int
    pictures: int
    pictures_by_process: list[int]
    seconds: float
    """From the first finished unit to the last one, so without the time to start."""
    megapixels_per_s: float
    seconds_with_start: float


def draw(number: int) -> bytes:
    """Return one synthetic micrograph as JPEG."""
    cv2.setNumThreads(1)
    pixels = draw_micrograph(number).pixels
    quality = QUALITY[number % len(QUALITY)]
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def commented(jpeg: bytes, number: int) -> bytes:
    """Return a JPEG with a comment after its first marker (ITU-T T.81, B.2.4.5)."""
    comment = f"field {number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def make_zip(path: Path, size: int) -> int:
    """Make the zip, unless the file exists; return the number of its pictures."""
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            pictures = list(
                tqdm(pool.map(draw, range(PICTURES_MADE)), total=PICTURES_MADE, desc="drawing", unit="picture")
            )
        partial = path.with_suffix(".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive, partial.open("rb") as written:
            number = 0
            while written.seek(0, os.SEEK_END) < size:
                name = f"patient-{number // 20:03}/field-{number % 20:02}.jpg"
                archive.writestr(name, commented(pictures[number % PICTURES_MADE], number))
                number += 1
        partial.rename(path)
    with zipfile.ZipFile(path) as archive:
        return len(archive.infolist())


def measure(source: Path, pictures: int, model: bytes, workers: int) -> Measured:
    """Segment the zip with this number of workers."""
    moments: list[tuple[float, int, float]] = []

    def watch(progress: Progress) -> None:
        moments.append((time.perf_counter(), progress.done, progress.megapixels))
        print(f"\r{workers} workers: {progress.done} of {progress.planned}", end="", file=sys.stderr)

    with tempfile.TemporaryDirectory() as noted:
        decode = CountingDecode(folder=noted)
        segment_all(Location(str(source)), model, Workers(count=workers, decode=decode), watch, pictures=pictures)
        by_process = decode.counted()
    planned, first, last = moments[0], moments[1], moments[-1]
    seconds = last[0] - first[0]
    if last is first:
        raise SystemExit(f"{pictures} pictures are one unit of work; give a larger --size")
    return Measured(
        workers=workers,
        pictures=pictures,
        pictures_by_process=by_process,
        seconds=round(seconds, 1),
        megapixels_per_s=round((last[2] - first[2]) / seconds, 1),
        seconds_with_start=round(last[0] - planned[0], 1),
    )


def main() -> None:
    """Make the zip, segment, print."""
    options = tyro.cli(Options)
    os.environ.setdefault("RAY_ADDRESS", "local")
    model = options.model.read_bytes() if options.model else darkness_model()
    with tempfile.TemporaryDirectory() as temporary:
        source = (options.folder or Path(temporary)) / f"archive-{options.size}"
        source.mkdir(parents=True, exist_ok=True)
        path = source / "uploads.zip"
        pictures = make_zip(path, int(options.size * GB))
        size = path.stat().st_size
        measured = [measure(source, pictures, model, count) for count in options.workers]
    print(f"\none zip of {size / GB:.2f} GB, {pictures} pictures")
    print(f"{'workers':>8}  {'pictures by process':<24}{'seconds':>8}{'megapixels/s':>14}")
    for one in measured:
        print(f"{one.workers:>8}  {one.pictures_by_process!s:<24}{one.seconds:>8}{one.megapixels_per_s:>14}")
    print(json.dumps({"bytes": size, "pictures": pictures, "runs": [asdict(one) for one in measured]}))


if __name__ == "__main__":
    main()
