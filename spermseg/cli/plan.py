"""`spermseg plan`: what a night will take."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import tyro
from tqdm import tqdm

from spermseg.batch.forecast import Forecast, Uploads, cpus, extrapolate, measure_sample
from spermseg.batch.listing import list_uploads
from spermseg.batch.pool import Workers
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.cli.arguments.models import read_given_model
from spermseg.cli.arguments.options import PATIENCE_MINUTES, EndpointUrl, ModelFile, OptionalInt, PatienceMinutes
from spermseg.cli.terminal import say
from spermseg.errors import ConfigError
from spermseg.micrograph.decode import DEFAULT_MAX_MEGAPIXELS
from spermseg.model.predict import PredictConfig
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Identity, Planned

GPUS = (1, 4, 16)
MB, GB = 1e6, 2**30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Forecast what segmenting uploads will take: pictures, megapixels, time, memory, size of the table.

    Lists all uploads, and segments 16 random ones in a separate process. Nothing is written. Uploads that already have
    a row in a table are counted, too.

    Example: spermseg plan s3://clinic/uploads --model model.safetensors
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """The uploads: a folder or s3://bucket/prefix."""
    model: ModelFile = None
    """The model file that `spermseg train` wrote."""
    workers: OptionalInt = None
    """Processes that would segment, each with a model and a CPU (default: the number of CPUs of this machine)."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Larger pictures would be rejected."""
    endpoint_url: EndpointUrl = None
    """S3 server of the uploads and the model, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """List, segment a sample, and print."""
        workers = cpus() if self.workers is None else self.workers
        if workers < 1:
            raise ConfigError(f"got {workers} workers; 1 or more is needed")
        source, segmenting = Location(self.source, self.endpoint_url), self._segmenting()
        uploads, passed_over = Uploads(), Counter[str]()
        for _ in tqdm(
            uploads.passing(_listed(source, segmenting, passed_over)), desc="listing", unit="upload", unit_scale=True
        ):
            pass
        if not uploads.count:
            raise ConfigError(f"got {source.uri}, which holds no file; a folder with micrographs is needed")
        sample = measure_sample(uploads.kept, segmenting, source)
        say(*describe(extrapolate(sample, uploads.count), uploads.bytes, workers).split("\n"))
        say(f"forecast from {sample.uploads} uploads, {sample.ok} of them ok")
        for kind, count in sorted(passed_over.items()):
            say(f"{count} {kind} were passed over")
        return 0

    def _segmenting(self) -> Segmenting:
        model = read_given_model(self.model, self.endpoint_url)
        about = model.description
        settings = SegmentSettings(view=about.view, cells=about.cells(), max_megapixels=self.max_megapixels)
        return Workers().segmenting(model.data, settings, PredictConfig(device="cpu"), run_id="forecast")


def _listed(source: Location, segmenting: Segmenting, passed_over: Counter[str]) -> Iterator[Planned]:
    said = segmenting.provenance
    identity = Identity(model_sha256=said.model_sha256, recipe_sha256=said.recipe_sha256)
    return list_uploads(source, identity, passed_over)


def describe(forecast: Forecast, fetched_bytes: int, workers: int) -> str:
    """Return a forecast as lines for a person."""
    rejected = f"about {forecast.rejected:,} of them rejected"
    lines = [
        ("uploads", f"{forecast.uploads:,}, {rejected}; {fetched_bytes / MB:,.0f} MB"),
        ("pictures", f"{forecast.megapixels:,.0f} megapixels, {forecast.windows:,.0f} windows of the network"),
        ("this machine", f"{_duration(forecast.seconds(workers))} with {workers} workers, a CPU each"),
    ]
    threads = Workers.decode_threads
    for gpus in GPUS:
        least = _duration(forecast.least_seconds_on_gpus(gpus, threads))
        lines.append((f"{gpus} GPU{'s' * (gpus > 1)}", f"at least {least}, with {threads} CPUs beside each"))
    lines.append(("memory", f"{forecast.worker_bytes / GB:.1f} GB a worker"))
    lines.append(("table", f"{forecast.table_bytes / MB:,.1f} MB"))
    return "\n".join(f"{name:<14}{what}" for name, what in lines)


def _duration(seconds: float) -> str:
    """Return seconds as a person would say them.

    >>> [_duration(seconds) for seconds in (42, 600, 9000)]
    ['42 s', '10 min', '2.5 h']
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
