"""A night on a cluster that begins with no node but its head: GPU nodes come, one is lost in mid-run, all leave.

The driver asks Ray for GPUs, and its workers compute on the CPU: all but the device is the real thing.
"""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from autoscaling_cluster import AutoscalingCluster, autoscaling_cluster
from dark_cells import darkness_model, night_over, picture
from hostile_decoder import slow_decode

from spermseg.batch import plan
from spermseg.batch.pipeline import PipelineJob, Workers
from spermseg.batch.run import Progress, segment_night
from spermseg.batch.verify import verify
from spermseg.batch.worker import Segmenting
from spermseg.storage.filesystem import Location

PICTURES, UNIT, NODES = 96, 2, 2
DECODING_S = 0.8
"""Of a picture: the work lasts until another node is up."""
LEAVES_S = 90

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that have a GPU of Ray's compute on the CPU."""
    segmenting = PipelineJob.segmenting

    def without_gpu(job: PipelineJob, workers: Workers, *, use_gpu: bool) -> Segmenting:
        assert use_gpu
        return segmenting(job, workers, use_gpu=False)

    monkeypatch.setattr(PipelineJob, "segmenting", without_gpu)


class Loss:
    """Ends a node with all that runs on it, once all nodes are up and some units are done."""

    def __init__(self, cluster: AutoscalingCluster) -> None:
        self.cluster = cluster
        self.most_nodes = 0
        self.lost: psutil.Process | None = None

    def __call__(self, progress: Progress) -> None:
        nodes = self.cluster.raylets()
        self.most_nodes = max(self.most_nodes, len(nodes))
        if self.lost is None and progress.done and len(nodes) == NODES:
            self.lost = nodes[0]
            for process in [*self.lost.children(recursive=True), self.lost]:
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    process.kill()


def test_a_night_starts_gpu_nodes_from_zero_loses_one_and_leaves_none_behind(
    tmp_path: Path, on_cpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(plan, "UNIT_MICROGRAPHS", UNIT)
    uploads, out = Location(str(tmp_path / "uploads")), Location(str(tmp_path / "results"))
    for number in range(PICTURES):
        uploads.child(f"patient-{number % 5}/{number:03}.png").write_bytes(picture(number % 9, height=300 + number))
    with autoscaling_cluster({"gpu": {"CPU": 1, "GPU": 1}}, most=NODES) as cluster:
        assert cluster.raylets() == []
        loss = Loss(cluster)
        decode = partial(slow_decode, seconds=DECODING_S)
        workers = Workers(gpu=True, address=cluster.address, decode=decode)
        (receipt,) = segment_night(night_over(uploads, out, darkness_model(), workers=workers), loss)
        assert loss.most_nodes == NODES
        assert loss.lost is not None
        assert (receipt.planned, receipt.ok) == (PICTURES, PICTURES)
        assert verify(out) == (PICTURES, [])
        assert not ray.is_initialized()
        deadline = time.monotonic() + LEAVES_S
        while cluster.raylets():
            assert time.monotonic() < deadline, "nodes without work stay"
            time.sleep(1)
