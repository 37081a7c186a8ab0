"""A unit of work from bytes to rows. No Ray: the pipeline calls these."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import spermseg
from spermseg.batch.plan import CHANGED, GONE, Planned
from spermseg.batch.results import OK, REJECTED
from spermseg.batch.settings import SegmentSettings
from spermseg.cells.instances import label_cells
from spermseg.cells.measure import encode_mask, measure_cells
from spermseg.errors import ArchiveError, ObjectChangedError, ObjectMissingError, SpermsegError, first_line
from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.quality import measure_quality
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel
from spermseg.storage.archives import unpack_member
from spermseg.storage.filesystem import Location

Row = dict[str, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
LARGEST_FILE = 2**30
"""Bytes; a larger file is rejected before it is fetched: no micrograph is that large, and memory is finite."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The bytes of a planned micrograph, or why there are none."""

    data: bytes = b""
    reason: str | None = None


def fetch(one: Planned, endpoint_url: str | None) -> Fetched:
    """Read and unpack the bytes of one micrograph; what is wrong with the upload becomes its reason.

    Reasons are the same words for all that is wrong alike, without names or places, since they are counted.

    Args:
        one: what is planned.
        endpoint_url: the S3 server of the uploads, where it is not AWS.

    Raises:
        StorageError: the storage failed or refused. That says nothing of the upload, which can be read another time.
    """
    if one.reason:
        return Fetched(reason=one.reason)
    largest = max(one.size, one.data_size)
    if largest > LARGEST_FILE:
        return Fetched(reason=f"the file has {largest} bytes; at most {LARGEST_FILE} are read")
    try:
        data = Location(one.uri, endpoint_url).read_range(one.offset, one.size, etag=one.etag)
        if one.packing:
            data = unpack_member(data, one.packing, one.data_size, one.crc32, LARGEST_FILE)
    except ObjectChangedError:
        return Fetched(reason=CHANGED)
    except ObjectMissingError:
        return Fetched(reason=GONE)
    except ArchiveError as error:
        return Fetched(reason=error.message)
    return Fetched(data=data)


@dataclass(kw_only=True, eq=False)
class _Decoded:
    """A micrograph on its way through the network; its pixels are let go as soon as the network has them."""

    row: Row
    pixels: NDArray[np.uint8] | None


class UnitSegmenter:
    """Segments units of micrographs with one model: decode in threads, predict, measure."""

    def __init__(
        self, saved: SavedModel, settings: SegmentSettings, config: PredictConfig, *, run_id: str, threads: int = 2
    ) -> None:
        self.settings = settings
        self.predictor = Predictor(saved, settings.view, config)
        self._pool = ThreadPoolExecutor(threads)
        self._ahead = 2 * threads
        self._constants = {
            "run_id": run_id,
            "model_sha256": saved.sha256,
            "recipe_sha256": settings.sha256,
            "version": spermseg.__version__,
            "um_per_px": settings.um_per_px,
        }

    def segment(self, unit: Sequence[Planned], fetched: Sequence[Fetched]) -> list[Row]:
        """Return one result row for each micrograph of a unit, in order.

        Args:
            unit: what is planned.
            fetched: the bytes of each, or why there are none.
        """
        started, idle_ms = time.perf_counter(), 0.0
        decoding = _map_ahead(self._pool, self._decode, zip(unit, fetched, strict=True), self._ahead)
        waiting: deque[_Decoded] = deque()

        def pictures() -> Iterator[NDArray[np.uint8]]:
            nonlocal idle_ms
            asked = time.perf_counter()
            for decoded in decoding:
                idle_ms += _ms_since(asked)
                waiting.append(decoded)
                if decoded.pixels is not None:
                    pixels, decoded.pixels = decoded.pixels, None
                    yield pixels
                asked = time.perf_counter()

        rows: list[Row] = []
        for probability in self.predictor.predict(pictures()):
            rows.extend(_rejected_first(waiting))
            rows.append(self._measure(waiting.popleft().row, probability))
        rows.extend(_rejected_first(waiting))
        return _share_time(rows, _ms_since(started) - idle_ms)

    def _decode(self, pair: tuple[Planned, Fetched]) -> _Decoded:
        one, fetched = pair
        row: Row = {**self._constants, "image_id": one.image_id, "uri": one.uri, "member": one.member}
        row |= {"group": one.group, "status": REJECTED, "reason": fetched.reason}
        if fetched.reason:
            return _Decoded(row=row, pixels=None)
        row["content_sha256"] = hashlib.sha256(fetched.data).hexdigest()
        started = time.perf_counter()
        try:
            picture = decode_micrograph(fetched.data, max_megapixels=self.settings.max_megapixels)
            quality = measure_quality(picture.pixels)
        except SpermsegError as error:
            return _Decoded(row={**row, "reason": _utf8(error.message)}, pixels=None)
        except Exception as error:  # noqa: BLE001 (whatever an upload does to a decoder, it is that upload's row)
            reason = f"the decoder failed: {type(error).__name__}: {first_line(error)}"
            return _Decoded(row={**row, "reason": _utf8(reason)}, pixels=None)
        height, width = picture.shape
        row |= {"status": OK, "height_px": height, "width_px": width, **asdict(quality)}
        return _Decoded(row={**row, "decode_ms": _ms_since(started)}, pixels=picture.pixels)

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


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Map in threads, in order, never more than `ahead` results before they are taken: memory is bounded."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) >= ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
