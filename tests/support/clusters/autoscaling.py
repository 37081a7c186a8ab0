"""A local Ray cluster that begins without a worker and starts nodes when work asks for them.

It uses Ray's fake node provider. Ray's own `AutoscalingCluster` ends every Ray process of the machine; this one ends
only what it started.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray._private.services import get_node_ip_address

from support.clusters.processes import end, free_port

HEAD_TYPE = "ray.head.default"
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}
EMPTY = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
IDLE_MINUTES = 0.05
STARTS_S = 120


@dataclass(frozen=True)
class AutoscalingCluster:
    """A cluster that is up."""

    address: str
    folder: Path
    """Of its processes: it stands in their command lines."""

    def raylets(self) -> list[psutil.Process]:
        """Return the process of each node but the head's, the oldest first."""
        nodes = [one for one in psutil.process_iter(["cmdline", "create_time"]) if self._is_raylet(one)]
        return sorted(nodes, key=lambda one: one.info["create_time"])[1:]

    def _is_raylet(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or [""]
        return words[0].endswith("/raylet/raylet") and any(str(self.folder) in word for word in words)


@contextmanager
def autoscaling_cluster(groups: dict[str, dict[str, float]], most: int) -> Iterator[AutoscalingCluster]:
    """Hold a cluster whose head runs no task, and whose groups begin at zero nodes.

    Args:
        groups: name of a group of nodes -> what a node of it has, such as `{"CPU": 1, "GPU": 1}`.
        most: nodes of each group.
    """
    folder = Path(tempfile.mkdtemp(prefix="as", dir="/tmp"))  # sockets lie in it: their paths may not be long
    address = f"{get_node_ip_address()}:{free_port()}"
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(_config(groups, most, address)))
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            _command(address, folder, config),
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    cluster = AutoscalingCluster(address, folder)
    try:
        _wait_until_up(head, folder / "head.log")
        yield cluster
    finally:
        nodes = cluster.raylets()
        end(head)
        for node in nodes:
            if node.is_running():
                node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _config(groups: dict[str, dict[str, float]], most: int, address: str) -> dict[str, Any]:
    workers = {
        name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}
        for name, resources in groups.items()
    }
    return {
        "cluster_name": "fake_multinode",
        "max_workers": most * len(groups),
        "provider": PROVIDER | {"gcs_address": address},
        "available_node_types": workers | {HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
        "head_node_type": HEAD_TYPE,
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in EMPTY},
    }


def _command(address: str, folder: Path, config: Path) -> list[str]:
    return [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
        *(f"--port={address.rpartition(':')[2]}", f"--autoscaling-config={config}", f"--temp-dir={folder}"),
        *("--num-cpus=0", f"--object-store-memory={256 << 20}"),
        *("--include-dashboard=False", "--disable-usage-stats"),
    ]


def _environment() -> dict[str, str]:
    own = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": f"{Path(__file__).parents[3]}:{Path(__file__).parents[2]}",
    }
    return os.environ | own


def _wait_until_up(head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTS_S
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)
