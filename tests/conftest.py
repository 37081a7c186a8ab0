"""What tests of several rooms share. Places to store things are a folder, moto, and Ceph's radosgw, the real thing."""

import gc
import itertools
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
import ray
import torch
from hypothesis import settings
from moto.server import ThreadedMotoServer
from support.clusters.kept import cluster_of
from support.dark_cells import darkness_model, night_over, picture, run_in_process, write_uploads
from support.forks.workers import forking_python

from spermseg.batch import run
from spermseg.batch.run import segment_night
from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.dataset.prepare import PrepareConfig, prepare_dataset
from spermseg.dataset.split import SplitConfig
from spermseg.storage import patience
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import Patience
from spermseg.storage.s3 import backend as s3
from spermseg.synthetic.clinic import ClinicConfig, write_clinic
from spermseg.synthetic.draw import DrawConfig

settings.register_profile("calm", deadline=None)  # a busy machine is no failure
settings.load_profile("calm")

LONGEST = (
    *("test_autoscaling.py", "test_distributed.py", "test_hostile_night.py", "test_real.py", "test_chaos.py"),
    *("test_jobs.py", "test_isolation.py", "test_experiment_command.py", "test_lock_command.py", "test_pipeline.py"),
    *("test_lost_ray.py", "test_connection.py", "test_repair.py", "test_misbehaving_storage.py", "test_run.py"),
)
"""Files that take half a minute and more."""
PORT_TRIES = 3
"""A port that was free a moment ago may be taken by now: Ray and the tests' own connections take many."""
RADOSGW = Path(__file__).with_name("radosgw.sh")
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing12",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, or one process would be left with them while the other has nothing to do."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Leave out of each collection of garbage what is there to stay: modules, and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ray_is_left_by_nobody() -> Iterator[None]:
    """See that a test leaves no Ray behind: a call of Ray's that nobody has connected for starts a cluster unasked."""
    yield
    assert not ray.is_initialized()


@dataclass(frozen=True)
class S3Server:
    """A server that is up, with the keys for it in the environment."""

    endpoint_url: str
    folder: Path | None = None
    """Where radosgw keeps its settings."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_bucket(self) -> Location:
        """Make an empty bucket."""
        name = f"bucket-{next(self._numbers)}"
        boto3.client("s3", endpoint_url=self.endpoint_url).create_bucket(Bucket=name)
        return Location(f"s3://{name}", self.endpoint_url)

    @contextmanager
    def without_key(self) -> Iterator[None]:
        """Take the key away from its user, for a while: radosgw only."""
        environment = {**os.environ, "CEPH_CONF": f"{self.folder}/ceph.conf"}
        key = ["--uid=t", "--key-type=s3", "--access-key=testing"]

        def admin(*words: str) -> None:
            subprocess.run(["radosgw-admin", "key", *words], env=environment, check=True, capture_output=True)

        admin("rm", *key)
        try:
            yield
        finally:
            admin("create", *key, "--secret=testing12")


@pytest.fixture(scope="session")
def s3_keys() -> Iterator[None]:
    """The keys that both servers take, in the environment, and so in that of every process started from here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        s3.client.cache_clear()
        yield
        s3.client.cache_clear()


@pytest.fixture(scope="session")
def moto_server(s3_keys: None) -> Iterator[S3Server]:
    """An imitation of S3 in this process, up in a second; it checks no keys."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request otherwise
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}")
    server.stop()


@pytest.fixture(scope="session")
def radosgw(s3_keys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Ceph's S3 server, up in a quarter of a minute; it checks keys, ranges and conditions."""
    if not all(shutil.which(name) for name in ("radosgw", "ceph-mon", "ceph-osd")):
        pytest.skip("the Debian packages radosgw ceph-mon ceph-osd are absent (tests/radosgw.sh install)")
    folder = tmp_path_factory.mktemp("radosgw")
    try:
        for _ in range(PORT_TRIES):
            command = ["bash", str(RADOSGW), "start", str(folder), str(_two_free_ports())]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode == 0:
                break
            subprocess.run(["bash", str(RADOSGW), "stop", str(folder)], check=True)
        assert done.returncode == 0, done.stderr
        yield S3Server(done.stdout.split()[-1], folder)
    finally:
        subprocess.run(["bash", str(RADOSGW), "stop", str(folder)], check=True)


@pytest.fixture(params=["local", "moto", "radosgw"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Location]:
    """Make an empty place to store things in, on each kind of storage in turn."""
    if request.param == "local":
        numbers = itertools.count()
        return lambda: Location(str(tmp_path / f"place-{next(numbers)}"))
    server: S3Server = request.getfixturevalue({"moto": "moto_server"}.get(request.param, request.param))
    return server.new_bucket


@pytest.fixture
def place(new_place: Callable[[], Location]) -> Location:
    """An empty folder `place` of an empty place, on each kind of storage in turn."""
    return new_place().child("place")


def _two_free_ports() -> int:
    """Return a port that is free, and so is the next one."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(autouse=True)
def waiting() -> Iterator[None]:
    """Let each test begin with the patience of a new process, which gives up waiting for a storage when it ends."""
    patience.wait_again()
    yield
    patience.be_patient(Patience())


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """One thread a process: tiny networks only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def python_that_forks() -> Iterator[Path]:
    """What starts the workers of a cluster in a tenth of a second."""
    with forking_python() as python:
        yield python


@pytest.fixture(scope="session")
def kept_cluster(s3_keys: None, python_that_forks: Path) -> Iterator[str]:
    """The address of a cluster with the CPUs of this machine, the keys of the S3 servers, and the tests' modules."""
    with cluster_of(python_that_forks, [max(2, os.cpu_count() or 2)]) as cluster:
        yield cluster.address


@pytest.fixture
def cluster(kept_cluster: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the kept cluster, which asks for no token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return kept_cluster


@pytest.fixture
def uploads(tmp_path: Path) -> Location:
    """A night's uploads in a folder."""
    source = Location(str(tmp_path / "uploads"))
    write_uploads(source)
    return source


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's stages one after the other in this process."""
    monkeypatch.setattr(run, "run_pipeline", run_in_process)


@pytest.fixture(scope="session")
def model() -> bytes:
    return darkness_model()


@pytest.fixture
def out(tmp_path) -> Location:
    return Location(str(tmp_path / "results"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory, model) -> Path:
    """A folder with uploads and a table of two finished runs, to copy."""
    folder = tmp_path_factory.mktemp("kept")
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    write_uploads(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        segment_night(night_over(source, out, model), lambda _: None)
        time.sleep(1)  # runs are in the order of their seconds
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


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Dataset:
    """Twelve small micrographs of six patients: 8 to train on, 2 to validate, 2 to test."""
    folder = tmp_path_factory.mktemp("tiny")
    draw = DrawConfig(height=160, width=200, scale=0.5, cells=(1, 3))
    clinic = write_clinic(folder / "clinic", ClinicConfig(patients=6, fields=2, upload_fields=1, draw=draw))
    out = Location(str(folder / "dataset"))
    split = SplitConfig(fractions=(0.66, 0.17, 0.17), group_pattern="(patient-[0-9]+)")
    prepare_dataset(clinic.images, clinic.annotations, out, PrepareConfig(split=split))
    return open_dataset(out)
