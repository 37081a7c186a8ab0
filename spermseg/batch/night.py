"""The request of one night: input, output, model and options."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property

from spermseg.batch.pool import Workers
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.errors import ConfigError
from spermseg.model.predict import PredictConfig
from spermseg.storage.archives.directory import MAX_UNPACKED
from spermseg.storage.filesystem import Location
from spermseg.table.plan import UNIT_MICROGRAPHS, Identity

FORECAST_FROM = 500
"""A smaller run takes less time than its forecast would."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """Input, output, model, settings and options of one night."""

    source: Location
    out: Location
    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    workers: Workers
    model_uri: str = ""
    """Where the model file is. The plan notes it, so that rows can be reproduced."""
    arguments: tuple[str, ...] = ()
    """The arguments of the command line without secrets, for the receipt; from `credentials.without_secrets`."""
    take_over: bool = False
    """Take the lease of another job at once, unless that job is known to run. Otherwise wait until it has expired."""
    forecast_from: int | None = FORECAST_FROM
    """Least micrographs of a run that is forecast from a sample. None makes no forecast."""
    check_files: bool = False
    """Read the files of all runs of this model and these settings. Otherwise a listing of the files is trusted."""
    retry_rejected: bool = False
    """Plan only uploads that were rejected."""
    unit_micrographs: int = UNIT_MICROGRAPHS
    """Most micrographs in a unit of work. A unit has one result file, and a killed worker repeats one unit."""
    max_unpacked: int = MAX_UNPACKED
    """Bytes that one archive may unpack to. Members beyond are rejected."""
    max_megapixels_per_group: float | None = None
    """Megapixels of a group in one run. Pictures beyond are rejected. None sets no limit."""

    def __post_init__(self) -> None:
        if self.max_unpacked < 1 or not (self.max_megapixels_per_group is None or self.max_megapixels_per_group > 0):
            raise ConfigError(
                f"got {self.max_unpacked} bytes an archive, {self.max_megapixels_per_group} megapixels a group; "
                "more than 0 is needed"
            )
        if self.unit_micrographs < 1:
            raise ConfigError(f"got {self.unit_micrographs} micrographs a unit; 1 or more is needed")
        if self.source.contains(self.out) or self.out.contains(self.source):
            raise ConfigError(
                f"got the input {self.source.uri} and the output {self.out.uri}, one inside the other; "
                "give an output folder beside the input"
            )

    @cached_property
    def identity(self) -> Identity:
        """The digests that, with an upload, give its image id."""
        return Identity(model_sha256=hashlib.sha256(self.model).hexdigest(), recipe_sha256=self.settings.sha256)

    @property
    def model_and_settings(self) -> dict[str, str]:
        """The model and the settings, as plans and receipts name them."""
        return asdict(self.identity)
