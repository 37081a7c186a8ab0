"""The settings that decide a mask, and their digest."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter, ValidationError

from spermseg.cells.instances import CellConfig
from spermseg.errors import ConfigError, first_line
from spermseg.micrograph.decode import DEFAULT_MAX_MEGAPIXELS
from spermseg.micrograph.tiling import Tiles, WholeFrame


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """All that decides a result row beside the picture and the model."""

    view: WholeFrame | Tiles
    """How the network sees a micrograph: the view of the model."""
    cells: CellConfig = field(default_factory=CellConfig)
    """What counts as a cell."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Larger pictures are rejected."""
    um_per_px: float | None = None
    """Pixel size of all pictures of the run, um; None if unknown."""

    def __post_init__(self) -> None:
        numbers = (self.max_megapixels, 1.0 if self.um_per_px is None else self.um_per_px)
        if not all(0 < number < math.inf for number in numbers):
            raise ConfigError(
                f"got max_megapixels {self.max_megapixels}, um_per_px {self.um_per_px}; finite, more than 0 is needed"
            )

    @property
    def text(self) -> str:
        """The settings as JSON, for `read_settings`."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def sha256(self) -> str:
        """The digest of the settings in every result row."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_settings(text: str) -> SegmentSettings:
    """Return the settings of `SegmentSettings.text`.

    Raises:
        ConfigError: the text is not such JSON.
    """
    try:
        return TypeAdapter(SegmentSettings).validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"got settings that cannot be read: {first_line(error)}") from error
