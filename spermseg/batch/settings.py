"""The settings that decide a mask, and their digest."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from spermseg.cells.instances import CellConfig
from spermseg.errors import ConfigError
from spermseg.micrograph.decode import DEFAULT_MAX_MEGAPIXELS
from spermseg.micrograph.tiling import Tiles, WholeFrame


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """What, beside the picture and the model, decides a result row."""

    view: WholeFrame | Tiles
    """How the network sees a micrograph; the model's own."""
    cells: CellConfig = field(default_factory=CellConfig)
    """What counts as a cell."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Larger pictures are rejected."""
    um_per_px: float | None = None
    """Pixel size of all pictures of the run; None where unknown."""

    def __post_init__(self) -> None:
        if not self.max_megapixels > 0 or not (self.um_per_px is None or self.um_per_px > 0):
            raise ConfigError(
                f"got max_megapixels {self.max_megapixels}, um_per_px {self.um_per_px}; more than 0 is needed"
            )

    @property
    def sha256(self) -> str:
        """The digest that stands in every result row."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
