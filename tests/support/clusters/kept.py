"""A Ray cluster of this machine whose workers are forks, started once and kept: each test that connects is a job."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from ray.cluster_utils import Cluster

from spermseg.cluster.settings import OWN, init_options
from support.forks.workers import started_with

TESTS = Path(__file__).parents[2]
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",  # else each node measures all of its processes every 5 s
    "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS))),
}


OF_A_NODE = {"include_log_monitor": False}
"""A log monitor reads all log files ten times a second, and nobody reads what it says."""


@contextmanager
def cluster_of(python: Path, cpus: Sequence[int]) -> Iterator[Cluster]:
    """Hold a cluster of nodes without GPUs.

    Args:
        python: what starts a worker.
        cpus: of each node.
    """
    node = {"num_gpus": 0, "object_store_memory": 200 * 2**20, **OF_A_NODE}
    nodes = [node | {"num_cpus": number} for number in cpus]
    with patch.dict(os.environ, ENVIRONMENT), started_with(python):
        init_options(OWN)  # sets what a Ray of our own is told in the environment
        cluster = Cluster(initialize_head=True, head_node_args=nodes[0] | {"include_dashboard": False})
        for node in nodes[1:]:
            cluster.add_node(**node)
    try:
        yield cluster
    finally:
        cluster.shutdown()
