"""The Python API: load a model, segment one picture, read the table of results. It does not use Ray.

model = spermseg.load_model()
found = model.segment("slide.jpg")
found.mask, found.cells, found.confidence
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spermseg.cells.interpret import Interpretation
from spermseg.cells.measure import Cell, measure_cells
from spermseg.errors import ShapeError
from spermseg.micrograph.decode import Micrograph, decode_micrograph
from spermseg.model.description import ModelDescription
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.pretrained import model_location
from spermseg.model.saved import SavedModel
from spermseg.model.saved import load_model as read_model
from spermseg.storage.filesystem import Location
from spermseg.table.latest import read_current

if TYPE_CHECKING:
    import pandas as pd

Picture = str | PathLike[str] | bytes | NDArray[np.uint8]
"""The path or s3:// URI of a file, its bytes, or its pixels (Y, X, 3) uint8 RGB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The result for one picture: the same mask, cells and confidence as in its row of a table."""

    labels: NDArray[np.int32]
    """(Y, X) instance labels. 0 is background, and label n is the cell `cells[n - 1]`."""
    probability: NDArray[np.float32]
    """(Y, X) probability of the class `cell`, 0-1."""
    cells: tuple[Cell, ...]
    """The measures of each cell."""
    n_heads: int | None
    """Number of heads; None if the model does not count them."""
    confidence: float
    """Estimate of the Dice coefficient of the mask, 0-1."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(Y, X) bool, True for cells."""
        return self.labels > 0

    def to_pandas(self) -> "pd.DataFrame":
        """Return the measures of the cells, one row for each, in the order of the labels."""
        import pandas as pd

        return pd.DataFrame([asdict(cell) for cell in self.cells], columns=list(Cell.__annotations__))


class Model:
    """A model that is ready to segment pictures.

    Args:
        saved: the model file.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        ConfigError: the device does not exist.
    """

    def __init__(self, saved: SavedModel, *, device: str = "auto") -> None:
        about = saved.description
        self.description: ModelDescription = about
        """The description in the model file."""
        self.sha256 = saved.sha256
        """SHA-256 of the model file, which identifies the model in every table."""
        self._cells = about.cells()
        self._predictor = Predictor(saved, about.view, PredictConfig(device=device), heads=about.require_head)

    def segment(self, picture: Picture, *, um_per_px: float | None = None) -> Segmentation:
        """Segment one picture.

        Args:
            picture: a path or s3:// URI, the bytes of a file, or pixels (Y, X, 3) uint8 RGB.
            um_per_px: the pixel size; without it, areas are in px only.

        Raises:
            MicrographError: the picture cannot be decoded.
            ObjectMissingError: there is no such file.
            ShapeError: the pixels have another shape or type.
        """
        view, one = self.description.view, self._read(picture)
        (maps,) = self._predictor.predict_working([one.seen_by(view)])
        judge = self.description.confidence
        found = Interpretation.of(maps, one.native_shape, config=self._cells, view=view, judge=judge)
        return Segmentation(
            labels=found.labels,
            probability=found.probability,
            cells=tuple(measure_cells(found.labels, found.probability, um_per_px)),
            n_heads=found.n_heads,
            confidence=found.confidence,
        )

    def _read(self, picture: Picture) -> Micrograph:
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise ShapeError(f"got pixels {picture.shape} {picture.dtype}; (Y, X, 3) uint8 RGB is needed")
            return Micrograph(pixels=picture)
        data = picture if isinstance(picture, bytes) else Location(fspath(picture)).read_bytes()
        return decode_micrograph(data, view=self.description.view)


def load_model(
    place: str | PathLike[str] | None = None, *, endpoint_url: str | None = None, device: str = "auto"
) -> Model:
    """Load a model.

    Args:
        place: the path or s3:// URI of a model file; None takes the bundled model.
        endpoint_url: URL of an S3 server other than AWS.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        ModelFileError: the file is no model file.
        ObjectMissingError: there is no such file.
        ConfigError: the device does not exist.
    """
    return Model(read_model(model_location(None if place is None else fspath(place), endpoint_url)), device=device)


def read_table(
    out: str | PathLike[str], *, columns: Sequence[str] | None = None, endpoint_url: str | None = None
) -> pa.Table:
    """Read the current rows of a table, one for each micrograph.

    Args:
        out: the folder or s3:// URI that `spermseg segment` wrote to.
        columns: names of the columns; None reads all. `mask` and `cells` are the large ones.
        endpoint_url: URL of an S3 server other than AWS.

    Raises:
        RunError: the table has no run, or a file is damaged.
    """
    return pa.concat_tables(read_current(Location(fspath(out), endpoint_url), columns))
