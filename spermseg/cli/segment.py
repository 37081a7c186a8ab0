"""`spermseg segment`: a clinic's uploads -> a table."""

from dataclasses import dataclass
from typing import Any

import tyro
from tqdm import tqdm

from spermseg.batch.pipeline import Workers
from spermseg.batch.receipt import Receipt
from spermseg.batch.run import Night, Progress, segment_night
from spermseg.batch.settings import SegmentSettings
from spermseg.cells.instances import CellConfig
from spermseg.micrograph.decode import DEFAULT_MAX_MEGAPIXELS
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import decode_model
from spermseg.storage.filesystem import Location


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Segment uploads into a table: one Parquet row a micrograph, found or rejected with a reason.

    Run it every night with the same arguments: what has a row is left alone, new uploads are added, and a run that was
    cut off is continued. Reads JPEG, PNG, TIFF and BMP, as files and inside .zip and .tar archives.

    Example: spermseg segment s3://clinic/uploads --model model.safetensors --out s3://clinic/results
    """

    source: tyro.conf.Positional[str]
    """The uploads: a folder or s3://bucket/prefix."""
    model: str
    """The model file that `spermseg train` wrote."""
    out: str
    """The table: a folder or s3://bucket/prefix, outside the uploads."""
    threshold: float | None = None
    """Probability from which a pixel is a cell's; the model's own where not given."""
    min_area: int | None = None
    """Least area of a cell, px; the model's own where not given."""
    um_per_px: float | None = None
    """Pixel size of these micrographs in micrometres, where known: adds areas in um2."""
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    """Larger pictures are rejected."""
    batch_size: int = 16
    """Tiles that the network reads at once; changes speed and memory only."""
    workers: int | None = None
    """Processes that hold a model each; one a GPU, or one a CPU where there is none, where not given."""
    gpu: bool | None = None
    """One GPU a worker; where not given, when the cluster has them."""
    decode_threads: int = 2
    """Threads that decode in each worker."""
    address: str | None = None
    """Ray cluster; this machine, or the cluster of `RAY_ADDRESS`, where not given."""
    endpoint_url: str | None = None
    """S3 server of the uploads, the table and the model, where it is not AWS."""

    def run(self) -> int:
        """Segment, show how far it is, and print what came of it."""
        model = Location(self.model, self.endpoint_url).read_bytes()
        description = decode_model(model, self.model).description
        night = Night(
            source=Location(self.source, self.endpoint_url),
            out=Location(self.out, self.endpoint_url),
            model=model,
            settings=SegmentSettings(
                view=description.view,
                cells=CellConfig(
                    threshold=description.threshold if self.threshold is None else self.threshold,
                    min_area=description.min_area if self.min_area is None else self.min_area,
                ),
                max_megapixels=self.max_megapixels,
                um_per_px=self.um_per_px,
            ),
            predict=PredictConfig(batch_size=self.batch_size),
            workers=Workers(count=self.workers, gpu=self.gpu, decode_threads=self.decode_threads, address=self.address),
        )
        bar: tqdm[Any]
        with tqdm(desc="segmenting", unit="picture") as bar:
            receipt = segment_night(night, lambda progress: _show(bar, progress))
        if receipt is None:
            print(f"nothing to do: every upload of {night.source.uri} has its row in {night.out.uri}; planned 0")
            return 0
        _print_receipt(receipt, night.out)
        return 0


def _show(bar: "tqdm[Any]", progress: Progress) -> None:
    bar.total = progress.planned
    bar.n = progress.done
    if not bar.postfix and not progress.megapixels:
        bar.initial = progress.done  # a continued run: what was there already says nothing of the speed
    elapsed = bar.format_dict["elapsed"] or 1
    bar.set_postfix_str(f"{progress.megapixels / elapsed:.1f} Mpx/s, {progress.rejected} rejected")


def _print_receipt(receipt: Receipt, out: Location) -> None:
    print(
        f"run {receipt.run_id}: planned {receipt.planned}, ok {receipt.ok}, rejected {receipt.rejected}; "
        f"{receipt.cells} cells in {receipt.megapixels:.1f} megapixels, {receipt.duration_s:.0f} s"
    )
    for reason, count in sorted(receipt.reasons.items(), key=lambda item: -item[1]):
        print(f"  {count:>6}  {reason}")
    print(f"table: {out.child('results').uri}; next: spermseg verify, spermseg report")
