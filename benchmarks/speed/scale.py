"""Does the time of a picture stay constant as the night grows? Segments 100, 1,000 and 10,000 small pictures.

    python benchmarks/speed/scale.py

Pictures and network are tiny, so most of the time is the pipeline's own. The time of a picture is counted after each
worker has finished a unit. The table also has the peak of the driver's memory, and of the object store.

Prints a table and, as its last line, one JSON object of the figures.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import tyro
from one_night import segment_all
from pace import Pace
from tqdm import tqdm

from spermseg.batch.pool import Workers
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.storage.filesystem import Location

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.dark_cells import CELLS, VIEW, darkness_model, picture

MIB = 2**20
STORE = Path("/dev/shm")
"""Folder of Ray's object store."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment nights of several sizes."""

    pictures: tuple[int, ...] = (100, 1000, 10000)
    """Numbers of pictures of the nights."""
    workers: int = 2
    """Processes that segment."""
    unit: int = 32
    """Pictures of a unit of work."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one night."""

    pictures: int
    ms_a_picture: float
    start_s: float
    """From the start to the first finished unit."""
    driver_mib: float
    """Peak of the driver's resident memory, in addition to its memory before."""
    store_mib: float
    """Peak of the object store."""


@contextmanager
def watching(peaks: dict[str, float]) -> Iterator[None]:
    """Record the peak memory of this process and of the object store until the block ends."""
    done, driver = threading.Event(), psutil.Process()
    before, store = driver.memory_info().rss, psutil.disk_usage(str(STORE)).used

    def watch() -> None:
        while not done.wait(0.2):
            peaks["driver"] = max(peaks.get("driver", 0), driver.memory_info().rss - before)
            peaks["store"] = max(peaks.get("store", 0), psutil.disk_usage(str(STORE)).used - store)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure(count: int, options: Options) -> Measured:
    """Segment one night."""
    pace = Pace()
    peaks: dict[str, float] = {}
    settings, workers = SegmentSettings(view=VIEW, cells=CELLS), Workers(count=options.workers, gpu=False)
    with tempfile.TemporaryDirectory() as folder:
        source = Location(f"{folder}/uploads")
        pictures = [picture(cells) for cells in range(10)]
        for number in tqdm(range(count), desc="writing", unit="picture"):
            place = Path(source.path, f"patient-{number // 100:03}")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:05}.png").write_bytes(pictures[number % 10])
        started = time.perf_counter()
        with watching(peaks):
            segment_all(source, darkness_model(), workers, pace, pictures=count, settings=settings, unit=options.unit)
    return Measured(
        pictures=count,
        ms_a_picture=round(1000 * pace.seconds_a_picture, 2),
        start_s=round(pace.begun[0] - started, 1),
        driver_mib=round(peaks["driver"] / MIB, 1),
        store_mib=round(peaks["store"] / MIB, 1),
    )


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    os.environ.setdefault("RAY_ADDRESS", "local")
    measured = [measure(count, options) for count in options.pictures]
    print(f"\n{'pictures':>9}{'ms a picture':>14}{'start, s':>10}{'driver, MiB':>13}{'store, MiB':>12}")
    for one in measured:
        print(f"{one.pictures:>9}{one.ms_a_picture:>14}{one.start_s:>10}{one.driver_mib:>13}{one.store_mib:>12}")
    print(json.dumps({"workers": options.workers, "unit": options.unit, "nights": [asdict(one) for one in measured]}))


if __name__ == "__main__":
    main()
