"""The bytes of a micrograph -> its pixels as the network sees them, and half of its row. No Ray; no PyTorch either."""

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
    """What turns the bytes of a file into a picture: `decode_micrograph`, or a stand-in for it."""

    def __call__(self, data: bytes, *, max_megapixels: float, view: View) -> Micrograph:
        """Return the picture, reduced to no less than the view sees; raise MicrographError where there is none."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What every row of a run says of its making."""

    run_id: str
    model_sha256: str
    recipe_sha256: str
    um_per_px: float | None
    version: str = spermseg.__version__

    def row(self, one: Planned, fetched: Fetched) -> ResultRow:
        """Return the row of a micrograph of which no more is known than its bytes, or why there are none."""
        row = {**vars(self), "image_id": one.image_id, "uri": one.uri, "member": one.member, "group": one.group}
        row |= {"retry_of": one.retry_of, "status": REJECTED, "reason": fetched.reason}
        return row if fetched.reason else row | {"content_sha256": hashlib.sha256(fetched.data).hexdigest()}


@dataclass(kw_only=True, eq=False)
class Decoded:
    """A micrograph on its way to the network, or the row that says why it is rejected."""

    row: ResultRow
    pixels: NDArray[np.uint8] | None = None
    """(Y, X, 3) at the working resolution; None where there is no picture, and when the network has it."""

    @property
    def native_shape(self) -> Shape:
        """Of a micrograph that is not rejected."""
        return self.row["height_px"], self.row["width_px"]

    def take_pixels(self) -> NDArray[np.uint8]:
        """Return the pixels, and let go of them."""
        pixels, self.pixels = self.pixels, None
        if pixels is None:
            raise ValueError(f"micrograph {self.row['image_id']} has no pixels; those of a decoded one are taken once")
        return pixels


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes micrographs. It has no state, so threads share it."""

    provenance: Provenance
    settings: SegmentSettings
    read: Decode

    def decode(self, one: Planned, fetched: Fetched) -> Decoded:
        """Return a micrograph at the working resolution, with what is known of it, or the row of a rejected one.

        Raises:
            MemoryError: the process has too little left, which may be another picture's fault.
        """
        row = self.provenance.row(one, fetched)
        if fetched.reason:
            return Decoded(row=row)
        started, view = time.perf_counter(), self.settings.view
        try:
            picture = self.read(fetched.data, max_megapixels=self.settings.max_megapixels, view=view)
        except SpermsegError as error:
            return Decoded(row={**row, "reason": _utf8(error.message)})
        except MemoryError:  # it is for the isolated try to tell
            raise
        except Exception as error:  # noqa: BLE001 (whatever an upload does to a decoder, it is that upload's row)
            reason = f"the decoder failed: {type(error).__name__}: {first_line(error)}"
            return Decoded(row={**row, "reason": _utf8(reason)})
        height, width = picture.native_shape
        working = view.working_shape((height, width))
        quality = measure_quality(figure_pixels(picture.pixels, picture.reduction, working))
        pixels = picture.seen_by(view)
        row |= {"status": OK, "height_px": height, "width_px": width, **asdict(quality)}
        row |= asdict(picture.depth) if picture.depth else {}
        return Decoded(row={**row, "decode_ms": 1000 * (time.perf_counter() - started)}, pixels=pixels)


def _utf8(text: str) -> str:
    """Return text that Parquet can hold: what a decoder says may quote bytes of the file that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()
