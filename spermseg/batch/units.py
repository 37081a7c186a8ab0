"""A unit of work from bytes to rows. No Ray: the pipeline calls these."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import spermseg
from spermseg.batch.ahead import map_ahead
from spermseg.batch.bounds import Limits, Watch
from spermseg.batch.fetch import Fetched
from spermseg.batch.plan import Planned
from spermseg.batch.results import OK, REJECTED
from spermseg.batch.settings import SegmentSettings
from spermseg.cells.instances import label_cells
from spermseg.cells.measure import encode_mask, measure_cells
from spermseg.errors import SpermsegError, first_line
from spermseg.micrograph.decode import Micrograph, decode_micrograph
from spermseg.micrograph.quality import measure_quality
from spermseg.micrograph.reduction import figure_pixels
from spermseg.micrograph.tiling import View
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel

Row = dict[str, Any]


class Decode(Protocol):
    """What turns the bytes of a file into a picture: `decode_micrograph`, or a stand-in for it."""

    def __call__(self, data: bytes, *, max_megapixels: float, view: View) -> Micrograph:
        """Return the picture, reduced to no less than the view sees; raise MicrographError where there is none."""


@dataclass(kw_only=True, eq=False)
class _Decoded:
    """A micrograph on its way through the network; its pixels are let go as soon as the network has them."""

    row: Row
    picture: Micrograph | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What every row of a run says of its making."""

    run_id: str
    model_sha256: str
    recipe_sha256: str
    um_per_px: float | None
    version: str = spermseg.__version__

    def row(self, one: Planned, fetched: Fetched) -> Row:
        """Return the row of a micrograph of which no more is known than its bytes, or why there are none."""
        row = {**vars(self), "image_id": one.image_id, "uri": one.uri, "member": one.member, "group": one.group}
        row |= {"retry_of": one.retry_of, "status": REJECTED, "reason": fetched.reason}
        return row if fetched.reason else row | {"content_sha256": hashlib.sha256(fetched.data).hexdigest()}


class UnitSegmenter:
    """Segments units of micrographs with one model: decode in threads, predict, measure.

    Args:
        saved: the model.
        settings: what decides a mask.
        config: how the network is run.
        run_id: the run that the rows are of.
        threads: that decode.
        decode: what turns bytes into pixels.
        limits: of the time that a step may take, or else this process ends; None waits for ever.
    """

    def __init__(
        self,
        saved: SavedModel,
        settings: SegmentSettings,
        config: PredictConfig,
        *,
        run_id: str,
        threads: int = 2,
        decode: Decode = decode_micrograph,
        limits: Limits | None = None,
    ) -> None:
        self.settings = settings
        self.predictor = Predictor(saved, settings.view, config)
        self.provenance = Provenance(
            run_id=run_id, model_sha256=saved.sha256, recipe_sha256=settings.sha256, um_per_px=settings.um_per_px
        )
        self._read = decode
        self._watch = Watch(limits)
        self._pool = ThreadPoolExecutor(threads)
        self._ahead = 2 * threads

    def segment(self, unit: Sequence[Planned], fetched: Sequence[Fetched]) -> list[Row]:
        """Return one result row for each micrograph of a unit, in order.

        Args:
            unit: what is planned.
            fetched: the bytes of each, or why there are none.
        """
        started, idle_ms = time.perf_counter(), 0.0
        decoding = map_ahead(self._pool, self._decode, zip(unit, fetched, strict=True), count=self._ahead)
        waiting: deque[_Decoded] = deque()

        def pictures() -> Iterator[Micrograph]:
            nonlocal idle_ms
            while True:
                asked = time.perf_counter()
                self._watch.decoding()
                decoded = next(decoding, None)
                self._watch.segmenting()
                idle_ms += _ms_since(asked)
                if decoded is None:
                    return
                waiting.append(decoded)
                if decoded.picture is not None:
                    picture, decoded.picture = decoded.picture, None
                    yield picture

        rows: list[Row] = []
        with self._watch:
            for probability in self.predictor.predict(pictures()):
                rows.extend(_rejected_first(waiting))
                rows.append(self._measure(waiting.popleft().row, probability))
                self._watch.segmenting()
        rows.extend(_rejected_first(waiting))
        return _share_time(rows, _ms_since(started) - idle_ms)

    def _decode(self, pair: tuple[Planned, Fetched]) -> _Decoded:
        one, fetched = pair
        row = self.provenance.row(one, fetched)
        if fetched.reason:
            return _Decoded(row=row, picture=None)
        started, view = time.perf_counter(), self.settings.view
        try:
            picture = self._read(fetched.data, max_megapixels=self.settings.max_megapixels, view=view)
        except SpermsegError as error:
            return _Decoded(row={**row, "reason": _utf8(error.message)}, picture=None)
        except MemoryError:  # may be another picture's fault: it is for the isolated try to tell
            raise
        except Exception as error:  # noqa: BLE001 (whatever an upload does to a decoder, it is that upload's row)
            reason = f"the decoder failed: {type(error).__name__}: {first_line(error)}"
            return _Decoded(row={**row, "reason": _utf8(reason)}, picture=None)
        height, width = picture.native_shape
        working = view.working_shape((height, width))
        quality = measure_quality(figure_pixels(picture.pixels, picture.reduction, working))
        row |= {"status": OK, "height_px": height, "width_px": width, **asdict(quality)}
        return _Decoded(row={**row, "decode_ms": _ms_since(started)}, picture=picture)

    def _measure(self, row: Row, probability: NDArray[np.float32]) -> Row:
        started = time.perf_counter()
        labels = label_cells(probability >= self.settings.cells.threshold, self.settings.cells.min_area)
        cells = measure_cells(labels, probability, self.settings.um_per_px)
        mask = labels > 0
        return row | {
            "foreground_fraction": float(mask.mean()),
            "confidence": float(probability[mask].mean()) if cells else None,
            "mask": encode_mask(mask),
            "n_cells": len(cells),
            "cells": [asdict(cell) for cell in cells],
            "measure_ms": _ms_since(started),
        }


def _utf8(text: str) -> str:
    """Return text that Parquet can hold: what a decoder says may quote bytes of the file that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _rejected_first(waiting: deque[_Decoded]) -> Iterator[Row]:
    while waiting and waiting[0].row["status"] == REJECTED:
        yield waiting.popleft().row


def _share_time(rows: list[Row], busy_ms: float) -> list[Row]:
    """Give each segmented picture its share of the time that went neither into waiting nor into measuring."""
    done = [row for row in rows if row["status"] == OK]
    if done:
        rest = busy_ms - sum(row["measure_ms"] for row in done)
        for row in done:
            row["predict_ms"] = max(0.0, rest / len(done))
    return rows


def _ms_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)
