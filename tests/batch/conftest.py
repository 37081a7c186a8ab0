"""What the tests of the night share: the model, a folder of uploads, a Ray cluster, and the pipeline without Ray."""

from pathlib import Path

import pytest
from ray.cluster_utils import Cluster


@pytest.fixture(scope="package")
def cluster(s3_keys):
    """The address of a cluster of two CPUs, whose processes have the keys of the S3 servers, and the tests' modules.

    One for all tests, since each costs several seconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 * 2**20}
        started = Cluster(initialize_head=True, head_node_args=head)
        yield started.address
        started.shutdown()
