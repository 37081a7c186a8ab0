"""What the tests of the night share: the model, a folder of uploads, a Ray cluster, and the pipeline without Ray."""

import shutil
from pathlib import Path

import pytest
from dark_cells import darkness_model, night_over, picture, run_in_process, write_uploads
from ray.cluster_utils import Cluster

from spermseg.batch import plan, run
from spermseg.batch.run import segment_night
from spermseg.storage.filesystem import Location


@pytest.fixture(scope="session")
def model() -> bytes:
    return darkness_model()


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


@pytest.fixture
def out(tmp_path) -> Location:
    return Location(str(tmp_path / "results"))


@pytest.fixture
def small_units(monkeypatch):
    """Units of four micrographs, so that a few files make several."""
    monkeypatch.setattr(plan, "UNIT_MICROGRAPHS", 4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, model) -> Path:
    """A folder with uploads and a table of two finished runs, to copy."""
    folder = tmp_path_factory.mktemp("kept")
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    write_uploads(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "UNIT_MICROGRAPHS", 4)
        patch.setattr(run, "run_pipeline", run_in_process)
        segment_night(night_over(source, out, model), lambda _: None)
        source.child("patient-9/new.png").write_bytes(picture(6))
        segment_night(night_over(source, out, model), lambda _: None)
    return folder


@pytest.fixture
def night(kept, model):
    """The night over these uploads, where they were, so that they are the same; the table is as it was, to spoil."""
    held = kept / "held"
    if not held.exists():
        shutil.copytree(kept / "results", held)
    shutil.rmtree(kept / "results")
    shutil.copytree(held, kept / "results")
    return night_over(Location(str(kept / "uploads")), Location(str(kept / "results")), model)
