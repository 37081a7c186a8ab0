"""What one night is asked to do."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from spermseg.batch.pool import Workers
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.errors import ConfigError
from spermseg.model.predict import PredictConfig
from spermseg.storage.archives.directory import MAX_UNPACKED
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Identity


@dataclass(frozen=True, kw_only=True)
class Night:
    """What is to be segmented, with what, into what."""

    source: Location
    out: Location
    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    workers: Workers
    model_uri: str = ""
    """Where the model was read, for those who want to segment a row again."""
    arguments: tuple[str, ...] = ()
    """The words of the command line, for the receipt; from `credentials.without_secrets`."""
    take_over: bool = False
    """Do not wait until the lease of another job has expired, unless that job is known to run."""
    forecast: bool = True
    """Forecast a new run from a sample, where it is not a small one."""
    check_files: bool = False
    """Read the files of all runs of this model and these settings, rather than trust what a listing shows of them."""
    retry_rejected: bool = False
    """Plan what was rejected, and nothing else."""
    max_unpacked: int = MAX_UNPACKED
    """Bytes that one archive may unpack to; what is in it beyond is rejected."""
    max_megapixels_per_group: float | None = None
    """That a run takes of a group; what is in it beyond is rejected. None takes all."""

    def __post_init__(self) -> None:
        if self.max_unpacked < 1 or not (self.max_megapixels_per_group is None or self.max_megapixels_per_group > 0):
            raise ConfigError(
                f"got {self.max_unpacked} bytes an archive, {self.max_megapixels_per_group} megapixels a group; "
                "more than 0 is needed"
            )
        if self.source.contains(self.out) or self.out.contains(self.source):
            raise ConfigError(
                f"got the input {self.source.uri} and the output {self.out.uri}, one inside the other; "
                "give an output folder beside the input"
            )

    @cached_property
    def identity(self) -> Identity:
        """What makes the same upload the same."""
        return Identity(model_sha256=hashlib.sha256(self.model).hexdigest(), settings_sha256=self.settings.sha256)

    @property
    def model_and_settings(self) -> dict[str, str]:
        """What the plans of all runs say that this night's rows can be compared with."""
        return {"model_sha256": self.identity.model_sha256, "recipe_sha256": self.identity.settings_sha256}
