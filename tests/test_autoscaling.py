"""A night on a cluster that begins with no node but its head: GPU nodes come, one is lost in mid-run, all leave.

The driver asks Ray for GPUs, and its workers compute on the CPU: all but the device is the real thing.
"""

import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from support.clusters.autoscaling import AutoscalingCluster, autoscaling_cluster
from support.dark_cells import darkness_model, night_over, picture
from support.hostile_decoder import waiting_decode

from spermseg.batch.pipeline import PipelineJob
from spermseg.batch.pool import Workers
from spermseg.batch.run import Progress, segment_night
from spermseg.batch.worker.process import Segmenting
from spermseg.storage.filesystem import Location
from spermseg.table.verify import verify

PICTURES, UNIT, NODES = 64, 2, 2
DECODING_S = 0.3
COMES_S, LEAVES_S = 300, 90

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that have a GPU of Ray's compute on the CPU."""
    segmenting = PipelineJob.segmenting

    def without_gpu(job: PipelineJob, workers: Workers, *, use_gpu: bool) -> Segmenting:
        assert use_gpu
        return segmenting(job, workers, use_gpu=False)

    monkeypatch.setattr(PipelineJob, "segmenting", without_gpu)


class Loss:
    """Lets pictures be decoded once all nodes are up, and ends one, with all that runs on it, when some are done."""

    def __init__(self, cluster: AutoscalingCluster, all_up: Path) -> None:
        self.cluster, self.all_up = cluster, all_up
        self.lost: psutil.Process | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        deadline = time.monotonic() + COMES_S
        while len(self.cluster.raylets()) < NODES and time.monotonic() < deadline:
            time.sleep(0.5)
        self.all_up.touch()

    def __call__(self, progress: Progress) -> None:
        if self.lost is None and progress.done and len(nodes := self.cluster.raylets()) == NODES:
            self.lost = nodes[0]
            for process in [*self.lost.children(recursive=True), self.lost]:
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    process.kill()


def test_a_night_starts_gpu_nodes_from_zero_loses_one_and_leaves_none_behind(
    tmp_path: Path, on_cpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    uploads, out = Location(str(tmp_path / "uploads")), Location(str(tmp_path / "results"))
    for number in range(PICTURES):
        uploads.child(f"patient-{number % 5}/{number:03}.png").write_bytes(picture(number % 9, height=300 + number))
    with autoscaling_cluster({"gpu": {"CPU": 1, "GPU": 1}}, most=NODES) as cluster:
        assert cluster.raylets() == []
        loss = Loss(cluster, tmp_path / "all-up")
        decode = partial(waiting_decode, until=loss.all_up, seconds=DECODING_S)
        workers = Workers(gpu=True, address=cluster.address, decode=decode, hang_s=2 * COMES_S)
        night = night_over(uploads, out, darkness_model(), workers=workers, unit_micrographs=UNIT)
        (receipt,) = segment_night(night, loss)
        assert loss.lost is not None
        assert (receipt.planned, receipt.ok) == (PICTURES, PICTURES)
        assert verify(out) == (PICTURES, [])
        assert not ray.is_initialized()
        deadline = time.monotonic() + LEAVES_S
        while cluster.raylets():
            assert time.monotonic() < deadline, "nodes without work stay"
            time.sleep(1)
