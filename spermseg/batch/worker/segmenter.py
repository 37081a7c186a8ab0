"""A unit of work from bytes to rows. No Ray: the pipeline calls these."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spermseg.batch.worker.decode import Decode, Decoded, Decoder, Provenance
from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.process_limits import Limits, Watch
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.batch.worker.timing import Spent
from spermseg.cells.interpret import Interpretation
from spermseg.cells.measure import encode_mask, measure_cells
from spermseg.micrograph.decode import decode_micrograph
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel
from spermseg.storage.prefetch import map_ahead
from spermseg.table.plan import Planned
from spermseg.table.results import OK, ResultRow

MAPS_AHEAD, MAPS_BYTES = 4, 2**28
"""Most probability maps that wait to be measured, and most bytes of all of them. A larger map waits alone."""

Item = TypeVar("Item")


class UnitSegmenter:
    """Segments units of micrographs with one model: decoding and measuring in threads, and the network between them.

    Args:
        saved: the model.
        settings: what decides a mask.
        config: how the network is run.
        run_id: the run that the rows are of.
        threads: that decode and measure.
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
        self.spent = Spent()
        """What the last unit took."""
        self._predictor = Predictor(saved, settings.view, config, heads=settings.cells.require_head)
        self._confidence = saved.description.confidence
        provenance = Provenance(
            run_id=run_id, model_sha256=saved.sha256, recipe_sha256=settings.sha256, um_per_px=settings.um_per_px
        )
        self._decoder = Decoder(provenance=provenance, settings=settings, read=decode)
        self._watch = Watch(limits)
        self._decoding, self._measuring = ThreadPoolExecutor(threads), ThreadPoolExecutor(threads)
        self._ahead = 2 * threads

    def segment(self, unit: Sequence[Planned], fetched: Sequence[Fetched]) -> list[ResultRow]:
        """Return one result row for each micrograph of a unit, in order.

        Args:
            unit: what is planned.
            fetched: the bytes of each, or why there are none.
        """
        pairs = zip(unit, fetched, strict=True)
        return self.segment_decoded(
            map_ahead(self._decoding, lambda pair: self._decoder.decode(*pair), pairs, count=self._ahead)
        )

    def segment_decoded(self, decoded: Iterable[Decoded]) -> list[ResultRow]:
        """Return the result rows of decoded and rejected micrographs, in order."""
        started, waited_s, network_s = time.perf_counter(), 0.0, self._predictor.network_s
        waiting: deque[Decoded] = deque()

        def pictures() -> Iterator[NDArray[np.uint8]]:
            nonlocal waited_s
            for one, seconds in self._watched(decoded):
                waited_s += seconds
                waiting.append(one)
                if one.pixels is not None:
                    yield one.take_pixels()

        def maps() -> Iterator[tuple[Decoded, NDArray[np.float32] | None]]:
            for probability in self._predictor.predict_working(pictures()):
                self._watch.segmenting()
                yield from _rejected_first(waiting)
                yield waiting.popleft(), probability
            yield from _rejected_first(waiting)

        with self._watch:
            rows = list(
                map_ahead(self._measuring, self._measure, maps(), count=MAPS_AHEAD, size=_map_bytes, total=MAPS_BYTES)
            )
        network_s = self._predictor.network_s - network_s
        self.spent = Spent.of(rows, wall_s=time.perf_counter() - started, waited_s=waited_s, network_s=network_s)
        return _share_time(rows, network_s)

    def _watched(self, items: Iterable[Item]) -> Iterator[tuple[Item, float]]:
        """Yield each item and the seconds that the caller waited for it. The watch ends a decoder that hangs."""
        rest = iter(items)
        while True:
            asked = time.perf_counter()
            self._watch.decoding()
            item = next(rest, None)
            self._watch.segmenting()
            if item is None:
                return
            yield item, time.perf_counter() - asked

    def _measure(self, pair: tuple[Decoded, NDArray[np.float32] | None]) -> ResultRow:
        one, maps = pair
        if maps is None:
            return one.row
        started, settings = time.perf_counter(), self.settings
        found = Interpretation.of(
            maps, one.native_shape, config=settings.cells, view=settings.view, judge=self._confidence
        )
        cells = measure_cells(found.labels, found.probability, settings.um_per_px)
        return one.row | {
            "foreground_fraction": float(found.mask.mean()),
            "confidence": found.confidence,
            "mask": encode_mask(found.mask),
            "n_cells": len(cells),
            "n_heads": found.n_heads,
            "cells": [asdict(cell) for cell in cells],
            "measure_ms": 1000 * (time.perf_counter() - started),
        }


def _rejected_first(waiting: deque[Decoded]) -> Iterator[tuple[Decoded, None]]:
    while waiting and waiting[0].row["status"] != OK:
        yield waiting.popleft(), None


def _map_bytes(pair: tuple[Decoded, NDArray[np.float32] | None]) -> int:
    """Return the bytes of a map at the native resolution, as it is measured."""
    one, working = pair
    return 0 if working is None else working.itemsize * one.native_shape[0] * one.native_shape[1]


def _share_time(rows: list[ResultRow], network_s: float) -> list[ResultRow]:
    """Give each segmented picture its share of the network's time."""
    done = [row for row in rows if row["status"] == OK]
    for row in done:
        row["predict_ms"] = 1000 * network_s / len(done)
    return rows
