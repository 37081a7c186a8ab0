"""What one night is asked to do."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

from spermseg.batch.pipeline import Workers
from spermseg.batch.plan import Identity
from spermseg.batch.settings import SegmentSettings
from spermseg.errors import ConfigError
from spermseg.model.predict import PredictConfig
from spermseg.storage.filesystem import Location


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
    """The words of the command line, for the receipt; from `without_secrets`."""
    take_over: bool = False
    """Take the table from a job that is gone but still holds its lock."""
    forecast: bool = True
    """Forecast a new run from a sample, where it is not a small one."""
    check_files: bool = False
    """Read the files of all runs of this model and these settings, rather than trust what a listing shows of them."""
    retry_rejected: bool = False
    """Plan what was rejected, and nothing else."""

    def __post_init__(self) -> None:
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


def without_secrets(words: list[str]) -> tuple[str, ...]:
    """Return the words of a command line, whatever stands before the `@` of a URL's server masked.

    >>> without_secrets(["--endpoint-url", "https://key:secret@s3.clinic", "s3://clinic/ada@noon.png"])
    ('--endpoint-url', 'https://***@s3.clinic', 's3://clinic/ada@noon.png')
    """
    return tuple(re.sub(r"://[^/\s]*@", "://***@", word) for word in words)
