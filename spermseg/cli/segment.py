"""`spermseg segment`: a clinic's uploads -> a table."""

import math
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from spermseg.batch.night import FORECAST_FROM, Night
from spermseg.batch.pool import MAX_WORKERS, Workers
from spermseg.batch.reject_limit import check_rejected, read_reject_limit
from spermseg.batch.run import Progress, segment_night
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.cli.arguments.models import read_given_model
from spermseg.cli.arguments.options import (
    PATIENCE_MINUTES,
    Address,
    EndpointUrl,
    Gpu,
    ModelFile,
    ModelFloat,
    ModelInt,
    ModelSwitch,
    OptionalFloat,
    OptionalInt,
    PatienceMinutes,
    is_on,
    wants_gpu,
)
from spermseg.cli.terminal import say
from spermseg.credentials import without_secrets
from spermseg.errors import ConfigError
from spermseg.micrograph.decode import DEFAULT_MAX_MEGAPIXELS
from spermseg.model.engine import EngineName, Precision
from spermseg.model.predict import PredictConfig
from spermseg.storage.archives.directory import MAX_UNPACKED
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import Receipt

GB = 2**30
SHOW_LISTING_AFTER_S = 3
"""A shorter listing needs no progress bar."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Segment uploads into a table: one Parquet row for each micrograph, its cells or why it was rejected.

    Run the same command every night. Uploads that have a row are left alone, an interrupted run is completed, and new
    uploads become a run of their own. With another model, or another setting that decides a mask, all uploads are
    segmented again, and the old rows stay. Reads JPEG, PNG, TIFF and BMP, as files and in .zip, .tar and .tar.gz
    archives.

    Writes OUT/results/run=<run>/unit-<digest>.parquet (the table), OUT/runs/<run>/plan.parquet (the uploads of a run)
    and OUT/runs/<run>/receipt.json (the proof of a finished run). A job holds OUT/lock.json: one job at a time works on
    a table.

    Exit status: 0, every upload has its row; 1, a run stopped, and the same command goes on; 2, the arguments must be
    changed; 3, another job works on this table; 4, every upload has its row, and more than --max-rejected are rejected.

    Example: spermseg segment s3://clinic/uploads --model model.safetensors --out s3://clinic/results
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """The uploads: a folder or s3://bucket/prefix."""
    out: str
    """The table: a folder or s3://bucket/prefix, outside the uploads."""
    model: ModelFile = None
    """The model file that `spermseg train` wrote. The bundled model has seen synthetic micrographs
    only. It is a start; a model that has learned from your own pictures is better."""
    threshold: ModelFloat = None
    """Least probability of a pixel in the mask."""
    min_area: ModelInt = None
    """Least area of a cell, px."""
    require_head: ModelSwitch = None
    """Drop pieces that are connected to no head: loose tails, and tails of cells outside the picture."""
    um_per_px: OptionalFloat = None
    """Pixel size of these micrographs in micrometres. Adds areas in um2."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Larger pictures are rejected."""
    max_megapixels_per_group: OptionalFloat = None
    """Most megapixels of one group in a run (default: no limit). Pictures are counted in the order of their paths. The
    rest of the group is rejected; --retry-rejected with a higher limit takes it."""
    max_unpacked_gb: float = MAX_UNPACKED / GB
    """Most that one archive may unpack to, GiB. Members beyond that are rejected."""
    max_rejected: str = "50%"
    """Exit with 4 when a run rejects more: a share (20%) or a count (500) of its uploads. Its rows are written."""
    check_files: bool = False
    """Read every byte that runs of this model and these settings wrote, and segment again what is damaged. Without this
    option, only files that differ from the receipt in a listing are read."""
    retry_rejected: bool = False
    """Segment rejected uploads again that are still there, and no others. A new row replaces the rejected one."""
    take_over: bool = False
    """Take the table over at once. Without this option, the table of a killed job is taken over when its process is
    known to be gone, or when its lock was not renewed for 3 minutes. A job whose process is known to run is never
    interrupted. A job that does run elsewhere sees that it lost the lock, and stops; nothing is written twice."""
    engine: EngineName = "auto"
    """Inference engine: `torch`, `openvino` (on CPUs; the extra spermseg[openvino]), or `auto`, the faster one."""
    precision: Precision = "auto"
    """Precision of the network: `float32`, `bfloat16`, or `auto`: bfloat16 if the machine is fast at it and the model
    file says that its masks stay the same."""
    batch_megapixels: float = 2.0
    """Batch size in megapixels at the working resolution. Changes speed and memory, and no result."""
    workers: OptionalInt = None
    """Processes that segment, each with a model. Default on this machine: one for each GPU, or else for each CPU.
    Default on a cluster: as many as there is work for and the cluster gives."""
    max_workers: int = MAX_WORKERS
    """Most processes that a cluster and its autoscaler are asked for, if --workers is not given."""
    gpu: Gpu = "auto"
    """One GPU for each worker: `auto` if the cluster has them now, `always` to wait for those of an autoscaler or of
    another job, or `never`."""
    decode_threads: int = 2
    """Threads that decode in each worker, and as many that measure."""
    decode_apart: bool = False
    """Decode in tasks of their own, on any machine of the cluster, instead of in the workers' threads. For GPUs that
    are faster than the CPUs beside them; --profile shows it."""
    forecast: bool = True
    """Before a run of 500 uploads or more, segment 16 of them and forecast the run. The receipt has the forecast beside
    what the run took."""
    profile: bool = False
    """At the end, show the time of each stage, and which stage is the bottleneck."""
    address: Address = None
    """Ray cluster to segment on."""
    endpoint_url: EndpointUrl = None
    """S3 server of the uploads, the table and the model, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Segment, show the progress, and print the result."""
        limit = read_reject_limit(self.max_rejected)
        night = self._night()
        with ProgressBar() as bar:
            receipts = segment_night(night, bar.show, bar.show_listed)
        if self.profile and bar.last:
            say(*bar.last.profile.table().split("\n"))
        for receipt in receipts:
            _print_receipt(receipt)
        if receipts:
            say(f"table: {night.out.child('results').uri}; next: spermseg verify, spermseg report")
        elif self.retry_rejected:
            say(f"nothing to do: no upload of {night.source.uri} has a rejected row in {night.out.uri}; planned 0")
        else:
            say(f"nothing to do: every upload of {night.source.uri} has its row in {night.out.uri}; planned 0")
        check_rejected(receipts, limit)
        return 0

    def _night(self) -> Night:
        model = read_given_model(self.model, self.endpoint_url)
        require_head = is_on(self.require_head, model.description.require_head)
        cells = model.description.cells(threshold=self.threshold, min_area=self.min_area, require_head=require_head)
        return Night(
            source=Location(self.source, self.endpoint_url),
            out=Location(self.out, self.endpoint_url),
            model=model.data,
            settings=SegmentSettings(
                view=model.description.view,
                cells=cells,
                max_megapixels=self.max_megapixels,
                um_per_px=self.um_per_px,
            ),
            predict=PredictConfig(engine=self.engine, precision=self.precision, batch_megapixels=self.batch_megapixels),
            workers=Workers(
                count=self.workers,
                most=self.max_workers,
                gpu=wants_gpu(self.gpu),
                decode_threads=self.decode_threads,
                decode_apart=self.decode_apart,
                address=self.address,
            ),
            model_uri=model.uri,
            arguments=without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]]),
            take_over=self.take_over,
            check_files=self.check_files,
            retry_rejected=self.retry_rejected,
            max_unpacked=_bytes(self.max_unpacked_gb),
            max_megapixels_per_group=self.max_megapixels_per_group,
            forecast_from=FORECAST_FROM if self.forecast else None,
        )


def _bytes(gigabytes: float) -> int:
    if not 0 < gigabytes < math.inf:
        raise ConfigError(f"got {gigabytes} GiB that an archive may unpack to; finite, more than 0 is needed")
    return math.ceil(gigabytes * GB)


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """The progress bar of each run: pictures done, megapixels per second, rejected pictures, time left.

    If the listing takes a while, a bar with the number of listed uploads comes first.
    """

    def __init__(self) -> None:
        self.last: Progress | None = None
        """The latest progress of the latest run."""
        self._run_id: str | None = None  # the run that the bar shows
        self._bar: tqdm[Any] | None = None

    def show_listed(self, count: int) -> None:
        """Show the number of listed uploads. A short listing shows nothing."""
        if self._bar is None or self._run_id is not None:
            self._close()
            self._run_id = None
            self._bar = tqdm(desc="listing", unit="upload", unit_scale=True, delay=SHOW_LISTING_AFTER_S)
        self._bar.update(count - self._bar.n)

    def show(self, progress: Progress) -> None:
        """Show the progress of a run. Speed and time left ignore what earlier starts of the run finished."""
        self.last = progress
        if self._bar is None or progress.run_id != self._run_id:
            self._close()
            self._run_id = progress.run_id
            self._bar = tqdm(desc="segmenting", unit="picture", total=progress.planned, initial=progress.done)
        elapsed = self._bar.format_dict["elapsed"]
        speed = progress.megapixels / elapsed if elapsed else 0.0
        self._bar.n = progress.done
        self._bar.set_postfix_str(f"{speed:.1f} Mpx/s, {progress.rejected} rejected")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _print_receipt(receipt: Receipt) -> None:
    heads = "" if receipt.heads is None else f"{receipt.heads} heads, "
    say(
        f"run {receipt.run_id}: planned {receipt.planned}, ok {receipt.ok}, rejected {receipt.rejected}; "
        f"{heads}{receipt.cells} cells in {receipt.megapixels:.1f} megapixels, {receipt.duration_s:.0f} s"
    )
    for kind, count in sorted(receipt.passed_over.items()):
        say(f"  {count} {kind} were passed over")
    if receipt.forecast:
        told = receipt.forecast
        say(
            f"  forecast: {told['seconds']:.0f} s by {told['workers']:.0f} workers with a CPU of this machine each, "
            f"{told['megapixels']:.1f} megapixels, {told['table_bytes'] / 1e6:.1f} MB, "
            f"{told['worker_bytes'] / 1e6:.0f} MB a worker",
            f"  it took:  {receipt.duration_s:.0f} s, {receipt.megapixels:.1f} megapixels, "
            f"{receipt.table_bytes / 1e6:.1f} MB, {receipt.worker_bytes / 1e6:.0f} MB a worker",
        )
    for reason, count in sorted(receipt.reasons.items(), key=lambda item: (-item[1], item[0])):
        say(f"  {count:>6}  {reason}")
