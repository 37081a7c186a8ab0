"""Bytes of the micrographs of a unit -> result rows. The pipeline calls this module; it does not use Ray."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

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
"""Limits on the probability maps that wait to be measured: their number, and their bytes together. A larger map waits
alone."""


@dataclass(frozen=True, eq=False)
class _Predicted:
    """A micrograph with its probability map. A rejected micrograph has no map."""

    micrograph: Decoded
    probability: NDArray[np.float32] | None = None
    """(Y, X) or (maps, Y, X), at the working resolution."""

    @property
    def native_bytes(self) -> int:
        """Bytes of the map at the native resolution, at which it is measured."""
        if self.probability is None:
            return 0
        height, width = self.micrograph.native_shape
        return self.probability.itemsize * height * width


@dataclass
class _Queue:
    """The micrographs of one unit, between the decoder and their maps. They keep their order."""

    watch: Watch
    waited_s: float = 0.0
    """Seconds that the network waited for decoded micrographs."""
    _entered: deque[Decoded] = field(default_factory=deque)
    """Micrographs that were taken from the decoder and have not left with their maps."""

    def pictures(self, decoded: Iterable[Decoded]) -> Iterator[NDArray[np.uint8]]:
        """Yield the pixels of the micrographs that are not rejected."""
        for micrograph in self._await(decoded):
            self._entered.append(micrograph)
            if micrograph.pixels is not None:
                yield micrograph.take_pixels()

    def with_maps(self, maps: Iterable[NDArray[np.float32]]) -> Iterator[_Predicted]:
        """Yield all micrographs in order, given the maps of `pictures`."""
        for probability in maps:
            self.watch.segmenting()
            yield from self._leading_rejected()
            yield _Predicted(self._entered.popleft(), probability)
        yield from self._leading_rejected()

    def _await(self, decoded: Iterable[Decoded]) -> Iterator[Decoded]:
        """Yield each micrograph, and count the time until it comes. The watch ends a decoder that hangs."""
        rest = iter(decoded)
        while True:
            asked = time.perf_counter()
            self.watch.decoding()
            micrograph = next(rest, None)
            self.watch.segmenting()
            if micrograph is None:
                return
            self.waited_s += time.perf_counter() - asked
            yield micrograph

    def _leading_rejected(self) -> Iterator[_Predicted]:
        while self._entered and self._entered[0].row["status"] != OK:
            yield _Predicted(self._entered.popleft())


class UnitSegmenter:
    """Segments units of micrographs with one model. Threads decode and measure while the network works.

    Args:
        saved: the model.
        settings: the settings that decide a mask.
        config: how the network is run.
        run_id: id of the run, for the rows.
        threads: number of threads that decode, and of threads that measure.
        decode: turns the bytes of a file into pixels.
        limits: time limits of a step. A step that takes longer ends this process. None sets no limit.
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
        """Time and memory that the last unit took."""
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
            unit: the planned micrographs.
            fetched: the bytes of each micrograph, or the reason why there are none.
        """
        pairs = zip(unit, fetched, strict=True)
        return self.segment_decoded(
            map_ahead(self._decoding, lambda pair: self._decoder.decode(*pair), pairs, count=self._ahead)
        )

    def segment_decoded(self, decoded: Iterable[Decoded]) -> list[ResultRow]:
        """Return the result rows of decoded and rejected micrographs, in order."""
        started, network_before_s = time.perf_counter(), self._predictor.network_s
        queue = _Queue(self._watch)
        maps = self._predictor.predict_working(queue.pictures(decoded))
        with self._watch:
            rows = list(self._measure_all(queue.with_maps(maps)))
        wall_s, network_s = time.perf_counter() - started, self._predictor.network_s - network_before_s
        self.spent = Spent.of(rows, wall_s=wall_s, waited_s=queue.waited_s, network_s=network_s)
        _share_time(rows, network_s)
        return rows

    def _measure_all(self, predicted: Iterable[_Predicted]) -> Iterator[ResultRow]:
        return map_ahead(
            self._measuring,
            self._measure,
            predicted,
            count=MAPS_AHEAD,
            size=lambda one: one.native_bytes,
            total=MAPS_BYTES,
        )

    def _measure(self, predicted: _Predicted) -> ResultRow:
        """Return the row of a micrograph, with its mask and its cells if it is not rejected."""
        micrograph, probability = predicted.micrograph, predicted.probability
        if probability is None:
            return micrograph.row
        started, settings = time.perf_counter(), self.settings
        found = Interpretation.of(
            probability, micrograph.native_shape, config=settings.cells, view=settings.view, judge=self._confidence
        )
        cells = measure_cells(found.labels, found.probability, settings.um_per_px)
        return micrograph.row | {
            "foreground_fraction": float(found.mask.mean()),
            "confidence": found.confidence,
            "mask": encode_mask(found.mask),
            "n_cells": len(cells),
            "n_heads": found.n_heads,
            "cells": [asdict(cell) for cell in cells],
            "measure_ms": 1000 * (time.perf_counter() - started),
        }


def _share_time(rows: list[ResultRow], network_s: float) -> None:
    """Note in each segmented row an equal share of the network's time."""
    done = [row for row in rows if row["status"] == OK]
    for row in done:
        row["predict_ms"] = 1000 * network_s / len(done)
