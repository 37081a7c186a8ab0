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

from spermseg.batch.night import Night
from spermseg.batch.pipeline import Workers
from spermseg.batch.pool import MAX_WORKERS
from spermseg.batch.reject_limit import check_rejected, read_reject_limit
from spermseg.batch.run import Progress, segment_night
from spermseg.batch.worker.settings import SegmentSettings
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
from spermseg.model.description import describe_model, read_model
from spermseg.model.engine import EngineName, Precision
from spermseg.model.predict import PredictConfig
from spermseg.model.pretrained import model_location
from spermseg.storage.archives.directory import MAX_UNPACKED
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import Receipt

GB = 2**30
SHOW_LISTING_AFTER_S = 3
"""A listing that ends before needs no bar."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Segment uploads into a table: one Parquet row a micrograph, found or rejected with a reason.

    Run it every night with the same arguments: what has a row is left alone, a run that was cut off is completed, and
    new uploads are added as a run of their own. With another model, or another setting that decides a mask, everything
    is segmented again, beside the old rows. Reads JPEG, PNG, TIFF and BMP, as files and inside .zip, .tar and .tar.gz
    archives.

    Writes OUT/results/run=<run>/unit-<digest>.parquet (the table), OUT/runs/<run>/plan.parquet (what was there to do)
    and OUT/runs/<run>/receipt.json (the run is finished; what came of it). While it works it holds and renews
    OUT/lock.json: one job at a time on a table.

    Exits with 0 when every upload has its row, with 1 when a run stopped (the same command goes on), with 2 when
    something about the arguments must be mended first, with 3 when another job works on this table, and with 4 when
    every upload has its row and more were rejected than --max-rejected.

    Example: spermseg segment s3://clinic/uploads --model model.safetensors --out s3://clinic/results
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """The uploads: a folder or s3://bucket/prefix."""
    out: str
    """The table: a folder or s3://bucket/prefix, outside the uploads."""
    model: ModelFile = None
    """The model file that `spermseg train` wrote. The bundled one has seen synthetic micrographs only:
    good enough to begin with, and beaten by any that has learned from your own."""
    threshold: ModelFloat = None
    """Probability from which a pixel is a cell's."""
    min_area: ModelInt = None
    """Least area of a cell, px."""
    require_head: ModelSwitch = None
    """Drop pieces that are connected to no head: loose tails, and those of cells outside of the picture."""
    um_per_px: OptionalFloat = None
    """Pixel size of these micrographs in micrometres, where known: adds areas in um2."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Larger pictures are rejected."""
    max_megapixels_per_group: OptionalFloat = None
    """The most that a run takes of one group: once its pictures, in the order of their paths, have more, the rest of
    the group is rejected, and --retry-rejected with a higher limit takes it. All of every group, unless given."""
    max_unpacked_gb: float = MAX_UNPACKED / GB
    """What one archive may unpack to, in GiB; what is in it beyond is rejected."""
    max_rejected: str = "50%"
    """Exit with 4 when a run rejects more: a share (20%) or a count (500) of its uploads. Its rows are written."""
    check_files: bool = False
    """Read every byte that the runs of this model and these settings wrote, and segment again what is damaged. Without
    it, that is done where a listing shows other files than the run's receipt tells."""
    retry_rejected: bool = False
    """Segment again what was rejected and still is there, and nothing else. Each new row replaces the rejected one."""
    take_over: bool = False
    """For the impatient. The table of a job that was killed is taken over unasked: at once where its process is known
    to be gone, else when it has not renewed its lock for 3 minutes. With this it is not waited for, unless its process
    is known to run. Left-over workers do no harm, since a result is written once; a job that runs after all stops at
    its next step, because it sees that the lock is no longer its own."""
    engine: EngineName = "auto"
    """What runs the network: `torch`, `openvino` (on CPUs; the extra spermseg[openvino]), or the faster one of those
    that are installed."""
    precision: Precision = "auto"
    """What the network computes in: `float32`, `bfloat16`, or bfloat16 where the machine is fast at it and the model's
    masks were found to stay the same."""
    batch_megapixels: float = 2.0
    """What the network reads at once, at its working resolution; changes speed and memory only."""
    workers: OptionalInt = None
    """Processes that hold a model each. Unless given: on this machine one a GPU, or one a CPU where there is none; on a
    cluster as many as there is work for, and it gives."""
    max_workers: int = MAX_WORKERS
    """Processes that a cluster, and its autoscaler, is asked for at most where --workers is not given."""
    gpu: Gpu = "auto"
    """One GPU a worker: `auto` when the cluster has them now, `always` to wait for those of an autoscaler or of another
    job, or `never`."""
    decode_threads: int = 2
    """Threads that decode, and as many that measure, in each worker."""
    decode_apart: bool = False
    """Decode in tasks of their own, on any machine of the cluster, rather than in the workers' threads: for GPUs that
    outrun the CPUs beside them. --profile tells."""
    forecast: bool = True
    """Before a run of 500 uploads or more, segment 16 of them in a process of its own and note what the run will take;
    the receipt then says both."""
    profile: bool = False
    """At the end, show where the time went, stage by stage, and which stage is the bottleneck."""
    address: Address = None
    """Ray cluster to segment on."""
    endpoint_url: EndpointUrl = None
    """S3 server of the uploads, the table and the model, where it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Segment, show how far it is, and print what came of it."""
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
        place = model_location(self.model, self.endpoint_url)
        model = read_model(place)
        description = describe_model(model, place.uri)
        require_head = is_on(self.require_head, description.require_head)
        return Night(
            source=Location(self.source, self.endpoint_url),
            out=Location(self.out, self.endpoint_url),
            model=model,
            settings=SegmentSettings(
                view=description.view,
                cells=description.cells(threshold=self.threshold, min_area=self.min_area, require_head=require_head),
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
            model_uri=place.uri,
            arguments=without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]]),
            take_over=self.take_over,
            check_files=self.check_files,
            retry_rejected=self.retry_rejected,
            max_unpacked=_bytes(self.max_unpacked_gb),
            max_megapixels_per_group=self.max_megapixels_per_group,
            forecast=self.forecast,
        )


def _bytes(gigabytes: float) -> int:
    if not 0 < gigabytes < math.inf:
        raise ConfigError(f"got {gigabytes} GiB that an archive may unpack to; finite, more than 0 is needed")
    return math.ceil(gigabytes * GB)


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """What a person watches, a bar a run: pictures done, megapixels a second, rejected so far, time left.

    Before it, where listing takes a while, how many uploads are listed.
    """

    def __init__(self) -> None:
        self.last: Progress | None = None
        """How far the latest run is."""
        self._run_id: str | None = None  # of the bar
        self._bar: tqdm[Any] | None = None

    def show_listed(self, count: int) -> None:
        """Show how many uploads are listed so far; nothing where that takes no time."""
        if self._bar is None or self._run_id is not None:
            self._close()
            self._run_id = None
            self._bar = tqdm(desc="listing", unit="upload", unit_scale=True, delay=SHOW_LISTING_AFTER_S)
        self._bar.update(count - self._bar.n)

    def show(self, progress: Progress) -> None:
        """Show how far a run is. Speed and time left are those of this start: what it found done says nothing."""
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
