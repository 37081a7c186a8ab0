"""Where chaos is played: a local Ray cluster, an S3 server behind a proxy, and the command."""

import logging
import os
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
from support.fault_proxy import FaultProxy
from support.forked_workers import forking_python, started_with

from spermseg.storage.filesystem import Location

TESTS = Path(__file__).resolve().parents[2] / "tests"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing12",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_num_workers_soft_limit": "8",  # a node of one CPU would end idle processes, and start new ones all the time
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join((str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")]))),
}


COMMAND = """
import functools, pathlib, sys
from support.chaos_night import noting_decode
from spermseg.table import plan
from spermseg.cli import main, segment

plan.UNIT_MICROGRAPHS = int(sys.argv.pop(1))
decode = functools.partial(noting_decode, notes=pathlib.Path(sys.argv.pop(1)))
segment.Workers = functools.partial(segment.Workers, decode=decode)
main()
"""
"""`spermseg`, with small units, and a note of each picture that is decoded."""
NODES = 2
"""Beside the head, which works on nothing: one CPU each, room for one process with a model and one or two tasks."""


@dataclass(kw_only=True)
class Stage:
    """What all rounds share."""

    unit: int
    """Pictures of a unit of work."""
    cluster: Cluster
    proxy: FaultProxy
    server_url: str
    folder: Path
    """Where the logs are kept."""

    def place(self, name: str) -> Location:
        """Return a place of the bucket, seen around the proxy."""
        return Location(f"s3://chaos/{name}", self.server_url)

    def segment(self, name: str, log: Path, *more: str) -> subprocess.Popen[bytes]:
        """Start the command, with what it prints in a file."""
        program = (sys.executable, "-c", COMMAND, str(self.unit), str(log.with_suffix(".decoded")))
        night = ("s3://chaos/uploads", "--model", "s3://chaos/model.safetensors", "--out", f"s3://chaos/{name}")
        cluster = ("--address", self.cluster.address, "--workers", str(NODES), "--decode-threads", "1")
        words = (*program, "segment", *night, "--endpoint-url", self.proxy.endpoint_url, *cluster, *more)
        with log.open("ab") as file:
            return subprocess.Popen(words, stdout=file, stderr=file)

    def add_node(self) -> None:
        """Add a node that works."""
        self.cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)

    def ray_processes(self, pattern: str) -> list[psutil.Process]:
        """Return the processes of this cluster whose title, which Ray sets to what they do, fits a pattern."""
        return [one for one in psutil.Process().children(recursive=True) if re.search(pattern, title(one))]


@contextmanager
def forks() -> Iterator[None]:
    """Let the workers of all nodes that are started until the block ends be forks, which start in no time."""
    with forking_python() as python, started_with(python):
        yield


def title(process: psutil.Process) -> str:
    """Return the title of a process; empty where it is gone."""
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """An imitation of S3 in a process of its own; yields its URL."""
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
    """Ceph's S3 server; yields its URL."""
    words = ["bash", str(TESTS / "radosgw.sh")]
    try:
        done = subprocess.run([*words, "start", str(folder / "radosgw")], capture_output=True, text=True, check=True)
        yield done.stdout.split()[-1]
    finally:
        subprocess.run([*words, "stop", str(folder / "radosgw")], check=True)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A Ray cluster of a head, which works on nothing, and of nodes that work."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield started
    finally:
        for node in [*started.worker_nodes, started.head_node]:
            started.remove_node(node, allow_graceful=False)
        started.shutdown()  # forgets the address, which Ray notes for the whole machine
