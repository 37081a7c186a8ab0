"""The bytes of a micrograph -> its pixels at the working resolution, and the columns of its row known by then.

This module uses neither Ray nor PyTorch.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import spermseg
from spermseg.batch.worker.fetch import Fetched
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.errors import SpermsegError, first_line
from spermseg.micrograph.decode import Micrograph
from spermseg.micrograph.layout import Shape
from spermseg.micrograph.quality import measure_quality
from spermseg.micrograph.reduction import figure_pixels
from spermseg.micrograph.tiling import View
from spermseg.table.plan import Planned
from spermseg.table.results import OK, REJECTED, ResultRow


class Decode(Protocol):
    """The type of `decode_micrograph`: a function from the bytes of a file to a picture."""

    def __call__(self, data: bytes, *, max_megapixels: float, view: View) -> Micrograph:
        """Return the picture. It may be reduced, but not below the working resolution of the view.

        Raises:
            MicrographError: the bytes are no usable picture.
        """


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The columns that are the same in every row of a run: what made the row."""

    run_id: str
    model_sha256: str
    recipe_sha256: str
    um_per_px: float | None
    version: str = spermseg.__version__

    def row(self, one: Planned, fetched: Fetched) -> ResultRow:
        """Return the row of a micrograph before it is decoded: rejected until the decoder succeeds.

        The row has a reason if the bytes could not be read, else their digest.
        """
        row = {**vars(self), "image_id": one.image_id, "uri": one.uri, "member": one.member, "group": one.group}
        row |= {"retry_of": one.retry_of, "status": REJECTED, "reason": fetched.reason}
        return row if fetched.reason else row | {"content_sha256": hashlib.sha256(fetched.data).hexdigest()}


@dataclass(kw_only=True, eq=False)
class Decoded:
    """A decoded micrograph with the first part of its row, or a rejected one with its whole row."""

    row: ResultRow
    pixels: NDArray[np.uint8] | None = None
    """(Y, X, 3) at the working resolution. None for a rejected micrograph, and once the pixels are taken."""

    @property
    def native_shape(self) -> Shape:
        """(height, width) of the picture as uploaded, px. A rejected micrograph has none."""
        return self.row["height_px"], self.row["width_px"]

    def take_pixels(self) -> NDArray[np.uint8]:
        """Return the pixels, and release them here: they can be taken once.

        Raises:
            ValueError: the micrograph is rejected, or its pixels were taken before.
        """
        pixels, self.pixels = self.pixels, None
        if pixels is None:
            raise ValueError(
                f"micrograph {self.row['image_id']} has no pixels: it is rejected, or they were taken before"
            )
        return pixels


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes micrographs. Threads can share a decoder, since it has no state."""

    provenance: Provenance
    settings: SegmentSettings
    read: Decode

    def decode(self, one: Planned, fetched: Fetched) -> Decoded:
        """Return a micrograph at the working resolution, or a rejected one with the reason.

        Raises:
            MemoryError: this process has too little memory. Another picture may be the cause.
        """
        row = self.provenance.row(one, fetched)
        if fetched.reason:
            return Decoded(row=row)
        started, view = time.perf_counter(), self.settings.view
        picture = self._picture(fetched.data)
        if isinstance(picture, str):
            return Decoded(row={**row, "reason": picture})
        height, width = picture.native_shape
        working = view.working_shape((height, width))
        quality = measure_quality(figure_pixels(picture.pixels, picture.reduction, working))
        pixels = picture.seen_by(view)
        row |= {"status": OK, "height_px": height, "width_px": width, **asdict(quality)}
        row |= asdict(picture.depth) if picture.depth else {}
        return Decoded(row={**row, "decode_ms": 1000 * (time.perf_counter() - started)}, pixels=pixels)

    def _picture(self, data: bytes) -> Micrograph | str:
        """Return the picture, or the reason to reject the upload."""
        try:
            return self.read(data, max_megapixels=self.settings.max_megapixels, view=self.settings.view)
        except SpermsegError as error:
            return _utf8(error.message)
        except MemoryError:  # only a trial in isolation can tell which picture is the cause
            raise
        except Exception as error:  # noqa: BLE001 (any other error of a decoder concerns this upload alone)
            return _utf8(f"the decoder failed: {type(error).__name__}: {first_line(error)}")


def _utf8(text: str) -> str:
    """Return text that Parquet can hold. An error of a decoder may quote bytes of the file that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
