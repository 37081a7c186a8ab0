"""The night that benchmarks measure: uploads -> a table in a temporary folder, which is verified and then deleted."""

import tempfile
import time

from spermseg.batch.night import Night
from spermseg.batch.pool import Workers
from spermseg.batch.run import OnProgress, segment_night
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import decode_model
from spermseg.storage.filesystem import Location
from spermseg.table.plan import UNIT_MICROGRAPHS
from spermseg.table.verify import verify


def segment_all(
    source: Location,
    model: bytes,
    workers: Workers,
    on_progress: OnProgress,
    *,
    pictures: int,
    settings: SegmentSettings | None = None,
    unit: int = UNIT_MICROGRAPHS,
) -> float:
    """Segment uploads, and check that each picture has its row; return the seconds of the night.

    Args:
        source: the uploads.
        model: the model file's bytes.
        workers: number of processes, and their settings.
        on_progress: as in `segment_night`.
        pictures: rows that the table must have.
        settings: None takes the model's own view.
        unit: most pictures of a unit.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Location(folder)
        night = Night(
            source=source,
            out=out,
            model=model,
            settings=settings or SegmentSettings(view=decode_model(model).description.view),
            predict=PredictConfig(),
            workers=workers,
            forecast_from=None,
            unit_micrographs=unit,
        )
        started = time.perf_counter()
        segment_night(night, on_progress)
        seconds = time.perf_counter() - started
        rows, wrong = verify(out)
    if wrong or rows != pictures:
        raise SystemExit(f"{rows} rows, differences: {wrong[:3]}")
    return seconds
