"""How much time does the pipeline add? Compares the pipeline on Ray with the bare predictor, and with a plain script.

    python benchmarks/speed/pipeline.py

All ways segment the same synthetic micrographs, as JPEGs, with the same weights and the same tiles at half of the
resolution. The pictures come from a folder, from an S3 server on this machine (Ceph's, which takes CPU, too), and from
one zip. Four ways are measured in turn:

- predictor: decoded pictures in memory -> probability maps, nothing else; this is the most that the machine can do;
- without Ray: files in memory -> rows, by the stages of the pipeline;
- script: a `multiprocessing.Pool` over the files of the folder; it reads, decodes, predicts and measures each in turn;
- pipeline: `spermseg segment`.

All ways have the same number of processes, with one network thread each. The time to start is left out: the time begins
when all processes are ready, and for a worker of the pipeline, when it has finished a unit. Prints a table and, as its
last line, one JSON object of the figures.
"""

import json
import multiprocessing as mp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import boto3
import cv2
import torch
import tyro
from briefly_trained import briefly_trained
from one_night import segment_all
from pace import Pace
from tqdm import tqdm

from spermseg.batch.pool import Workers
from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.tiling import Tiles, resize
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import decode_model
from spermseg.storage.filesystem import Location
from spermseg.synthetic.draw import DrawConfig, draw_micrograph
from spermseg.table.plan import Planned

SETTINGS = SegmentSettings(view=Tiles())
"""Tiles at half of the resolution."""
SIZES = {1.3: (1024, 1280), 5.0: (2056, 2456), 20.0: (3648, 5472)}
"""Megapixels -> (height, width), px."""
PICTURES_MADE = 12
"""Distinct pictures. All others are copies of these with a few more bytes."""
SERVER = Path(__file__).resolve().parents[2] / "tests/radosgw.sh"
Source = Literal["folder", "S3", "zip"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment the same pictures by the pipeline and in other ways."""

    pictures: int = 500
    """Number of pictures."""
    megapixels: tuple[float, ...] = (1.3,)
    """Sizes of the pictures: 1.3, 5 or 20."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of processes, each with a network."""
    sources: tuple[Source, ...] = ("folder", "S3", "zip")
    """Sources of the pipeline."""
    apart: bool = False
    """Whether to measure the pipeline also with decoding in separate tasks."""
    repeats: int = 5
    """Measurements of each way, in turn."""
    unit: int = 16
    """Pictures of a unit of work."""
    model: Path = Path("build/benchmarks/model.safetensors")
    """The model file; where there is no such file, a model is trained first."""


def draw(size: tuple[int, int], seed: int) -> bytes:
    """Return a synthetic micrograph as JPEG."""
    cv2.setNumThreads(1)
    pixels = draw_micrograph(seed, DrawConfig(height=size[0], width=size[1])).pixels
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def draw_files(folder: Path, size: tuple[int, int], count: int) -> dict[str, bytes]:
    """Draw pictures and write them as files and as a zip; return name -> bytes."""
    with ProcessPoolExecutor() as pool:
        made = list(
            tqdm(
                pool.map(partial(draw, size), range(PICTURES_MADE)), total=PICTURES_MADE, desc="drawing", unit="picture"
            )
        )
    files = {f"patient-{n // 20:03}/{n:05}.jpg": made[n % PICTURES_MADE] + n.to_bytes(4, "big") for n in range(count)}
    (folder / "zip").mkdir()
    with zipfile.ZipFile(folder / "zip/uploads.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            place = folder / "folder" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            archive.writestr(name, data)
    return files


# The ways without Ray: each prepares its share of the files, and returns a function that does the measured work.
Work = Callable[[], object]
Make = Callable[[bytes, list[bytes]], Work]


def predictor(model: bytes, files: list[bytes]) -> Work:
    """Decode the pictures now, and predict them in the measured work."""
    network = Predictor(decode_model(model), SETTINGS.view, PredictConfig(device="cpu"))
    decoded = [decode_micrograph(data, view=SETTINGS.view) for data in files]
    working = [resize(one.pixels, SETTINGS.view.working_shape(one.native_shape)) for one in decoded]
    list(network.predict_working(working[:1]))
    return lambda: [None for _ in network.predict_working(working)]


def without_ray(model: bytes, files: list[bytes]) -> Work:
    """Segment the files, which are in memory, as one unit."""
    segmenter = UnitSegmenter(decode_model(model), SETTINGS, PredictConfig(device="cpu"), run_id="benchmark")
    planned = [Planned(image_id=f"{n}", uri=f"/{n}", size=1, data_size=1, etag="") for n in range(len(files))]
    segmenter.segment(planned[:1], [Fetched(data=files[0])])
    return lambda: segmenter.segment(planned, [Fetched(data=data) for data in files])


def _share(make: Make, model: bytes, files: list[bytes], ready: Any, times: Any) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    work = make(model, files)
    ready.wait()
    started = time.perf_counter()
    work()
    times.put((started, time.perf_counter()))


def in_processes(make: Make, model: bytes, files: list[bytes], workers: int) -> float:
    """Return the seconds that this number of processes takes together, after all are ready."""
    spawn = mp.get_context("spawn")
    ready, times = spawn.Barrier(workers), spawn.Queue()
    shares = [files[number::workers] for number in range(workers)]
    processes = [spawn.Process(target=_share, args=(make, model, share, ready, times)) for share in shares]
    for one in processes:
        one.start()
    ends = [times.get() for _ in processes]
    for one in processes:
        one.join()
    return float(max(end for _, end in ends) - min(start for start, _ in ends))


_segmenter: UnitSegmenter


def _start_script(model: bytes) -> None:
    global _segmenter
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = PredictConfig(device="cpu")
    _segmenter = UnitSegmenter(decode_model(model), SETTINGS, config, run_id="benchmark", threads=1)


def _segment_path(path: str) -> dict[str, Any]:
    one = Planned(image_id=path, uri=path, size=1, data_size=1, etag="")
    return _segmenter.segment([one], [Fetched(data=Path(path).read_bytes())])[0]


def script(model: bytes, folder: Path, workers: int) -> float:
    """Return the seconds of a pool over the files; each process segments one file after the other."""
    paths = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    with mp.get_context("spawn").Pool(workers, _start_script, (model,)) as pool:
        pool.map(_segment_path, paths[:workers], chunksize=1)
        started = time.perf_counter()
        for _ in pool.imap_unordered(_segment_path, paths):
            pass
        return time.perf_counter() - started


def pipeline(options: Options, model: bytes, source: Location, workers: int, *, decode_apart: bool = False) -> float:
    """Return the seconds for all pictures, at the pace after the workers have started."""
    pace = Pace()
    chosen = Workers(count=workers, gpu=False, decode_apart=decode_apart)
    segment_all(source, model, chosen, pace, pictures=options.pictures, settings=SETTINGS, unit=options.unit)
    return pace.seconds_a_picture * options.pictures


@contextmanager
def s3_server(files: dict[str, bytes], folder: Path) -> Iterator[Location]:
    """Start Ceph's S3 server and put the files there."""
    if not shutil.which("radosgw"):
        sys.exit("got no radosgw, Ceph's S3 server; run `bash tests/radosgw.sh install`, or leave S3 out of --sources")
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing12", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys)
    try:
        done = subprocess.run(["bash", str(SERVER), "start", str(folder)], capture_output=True, text=True, check=True)
        endpoint = done.stdout.split()[-1]
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="uploads")
        for name, data in files.items():
            client.put_object(Bucket="uploads", Key=name, Body=data)
        yield Location("s3://uploads", endpoint)
    finally:
        subprocess.run(["bash", str(SERVER), "stop", str(folder)], check=True)


def measure(options: Options, model: bytes, size: tuple[int, int], folder: Path) -> dict[str, list[float]]:
    """Return way and workers -> seconds of each repeat, for pictures of one size."""
    files = draw_files(folder, size, options.pictures)
    places: dict[str, Location] = {
        name: Location(str(folder / name)) for name in ("folder", "zip") if name in options.sources
    }
    seconds: dict[str, list[float]] = {}
    with ExitStack() as servers:
        if "S3" in options.sources:
            places["S3"] = servers.enter_context(s3_server(files, folder / "radosgw"))
        todo: list[tuple[str, Callable[[], float]]] = []
        for workers in options.workers:
            data = list(files.values())
            todo += [
                (f"predictor x{workers}", partial(in_processes, predictor, model, data, workers)),
                (f"without Ray x{workers}", partial(in_processes, without_ray, model, data, workers)),
                (f"script x{workers}", partial(script, model, folder / "folder", workers)),
                *(
                    (f"pipeline, {name} x{workers}", partial(pipeline, options, model, place, workers))
                    for name, place in places.items()
                ),
                *(
                    (
                        f"apart, {name} x{workers}",
                        partial(pipeline, options, model, place, workers, decode_apart=True),
                    )
                    for name, place in places.items()
                    if options.apart
                ),
            ]
        for _ in range(options.repeats):
            for name, run in tqdm(todo, desc="measuring", unit="run"):
                seconds.setdefault(name, []).append(run())
    return seconds


def report(megapixels: float, seconds: dict[str, list[float]], pictures: int) -> dict[str, float]:
    """Print the table of one size; return its figures, each way relative to the predictor with as many processes."""
    figures: dict[str, float] = {}
    print(f"\n{megapixels} megapixels{'':13}{'Mpx/s':>8}{'of the predictor':>18}{'spread':>14}")
    for name, took in seconds.items():
        bare = seconds[f"predictor x{name.rpartition('x')[2]}"]
        ratios = [one / other for one, other in zip(bare, took, strict=True)]
        rate = megapixels * pictures / statistics.median(took)
        ratio, spread = statistics.median(ratios), f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{name:28}{rate:8.2f}{ratio:18.3f}{spread:>14}")
        key = f"{megapixels:g}_{name}".replace(", ", "_").replace(" ", "_").lower()
        figures |= {f"{key}_mpx_a_second": round(rate, 2), f"{key}_of_predictor": round(ratio, 3)}
    return figures


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    os.environ.setdefault("RAY_ADDRESS", "local")
    briefly_trained(options.model)
    model = options.model.read_bytes()
    figures: dict[str, float] = {"pictures": options.pictures, "repeats": options.repeats}
    for megapixels in options.megapixels:
        if megapixels not in SIZES:
            sys.exit(f"got {megapixels} megapixels; {', '.join(map(str, SIZES))} are made")
        with tempfile.TemporaryDirectory() as temporary:
            seconds = measure(options, model, SIZES[megapixels], Path(temporary))
        figures |= report(megapixels, seconds, options.pictures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
