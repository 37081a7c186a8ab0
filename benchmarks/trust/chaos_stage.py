"""The setting of all rounds of chaos: a local Ray cluster, an S3 server behind a proxy, and the command."""

import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster
from support.clusters import kept
from support.fault_proxy import FaultProxy
from support.forks.commands import ForkedPopen
from support.forks.workers import forking_python, started_with

from spermseg.storage.filesystem import Location

TESTS = Path(__file__).resolve().parents[2] / "tests"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing12",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_EC2_METADATA_DISABLED": "true",
    **kept.ENVIRONMENT,
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_num_workers_soft_limit": "8",  # else a node of one CPU ends idle processes and starts new ones all the time
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


OF_A_NODE = {"object_store_memory": 100 * 2**20, **kept.OF_A_NODE}
COMMAND = """
import functools, pathlib, sys
from support.chaos_night import noting_decode
from spermseg.cli import main, segment

segment.Night = functools.partial(segment.Night, unit_micrographs=int(sys.argv.pop(1)))
decode = functools.partial(noting_decode, notes=pathlib.Path(sys.argv.pop(1)))
segment.Workers = functools.partial(segment.Workers, decode=decode)
main()
"""
"""`spermseg` with small units, and a record of each decoded picture."""
NODES = 2
"""Nodes beside the head, which runs no tasks. Each node has one CPU, for one process with a model and a few tasks."""


@dataclass(kw_only=True)
class Stage:
    """The cluster, server and folder that all rounds share."""

    unit: int
    """Pictures of a unit of work."""
    cluster: Cluster
    proxy: FaultProxy
    server_url: str
    folder: Path
    """Folder of the logs."""
    start: type[subprocess.Popen[str]] = subprocess.Popen
    """What starts the command."""

    def place(self, name: str) -> Location:
        """Return a location in the bucket that bypasses the proxy."""
        return Location(f"s3://chaos/{name}", self.server_url)

    def segment(self, name: str, log: Path, *more: str) -> subprocess.Popen[str]:
        """Start the command; its output goes to a file."""
        program = (sys.executable, "-c", COMMAND, str(self.unit), str(log.with_suffix(".decoded")))
        night = ("s3://chaos/uploads", "--model", "s3://chaos/model.safetensors", "--out", f"s3://chaos/{name}")
        cluster = ("--address", self.cluster.address, "--workers", str(NODES), "--decode-threads", "1")
        words = (*program, "segment", *night, "--endpoint-url", self.proxy.endpoint_url, *cluster, *more)
        with log.open("ab") as file:
            return self.start(words, stdout=file, stderr=file, text=True)

    def add_node(self) -> None:
        """Add a node that runs tasks."""
        self.cluster.add_node(num_cpus=1, **OF_A_NODE)

    def ray_processes(self, pattern: str) -> list[psutil.Process]:
        """Return the processes of this cluster whose title matches a pattern. Ray writes the task into the title."""
        return [one for one in psutil.Process().children(recursive=True) if re.search(pattern, title(one))]


@contextmanager
def forks() -> Iterator[type[subprocess.Popen[str]]]:
    """Let the workers of all nodes that start within the block be forks, and yield what forks commands."""
    with forking_python() as python, started_with(python):
        yield ForkedPopen


def title(process: psutil.Process) -> str:
    """Return the title of a process; empty where the process has ended."""
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """Run moto, which imitates S3, in a separate process; yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@contextmanager
def radosgw(folder: Path) -> Iterator[str]:
    """Run Ceph's S3 server; yield its URL."""
    words = ["bash", str(TESTS / "radosgw.sh")]
    try:
        done = subprocess.run([*words, "start", str(folder / "radosgw")], capture_output=True, text=True, check=True)
        yield done.stdout.split()[-1]
    finally:
        subprocess.run([*words, "stop", str(folder / "radosgw")], check=True)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a Ray cluster with a head that runs no tasks; nodes are added later."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    head = {"num_cpus": 0, "include_dashboard": False, **OF_A_NODE}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield started
    finally:
        for node in [*started.worker_nodes, started.head_node]:
            started.remove_node(node, allow_graceful=False)
        started.shutdown()  # Ray stores the address for the whole machine; this removes it
