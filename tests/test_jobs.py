"""The scripts in `jobs/`, sent by the real `ray job submit` to a real head that this file starts and ends."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.clusters.processes import end, free_port
from support.untrained import write_untrained_model

from spermseg.dataset.prepare import PrepareConfig, prepare_dataset
from spermseg.dataset.split import SplitConfig
from spermseg.model.saved import load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.synthetic.clinic import Clinic, ClinicConfig, write_clinic
from spermseg.synthetic.draw import DrawConfig
from spermseg.table.receipt import list_runs, read_receipt
from spermseg.table.results import read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.ray

Process = subprocess.CompletedProcess[str]
ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
LITTER = (".venv/lib/huge.so", ".git/objects/pack", "demo/results/report.html", "dataset/images/a.jpg", "model.onnx")
"""What lies in a checkout that was worked in, and is not to travel."""
SENT_VERSION = "0+sent"
MISSING = "no-model.safetensors"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{RAY.parent}:{os.environ['PATH']}",  # a job's `python` is the one of the head's PATH
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Head:
    """A Ray head, and the checkout that jobs are sent from."""

    url: str
    folder: Path
    checkout: Path

    def submit(self, *entrypoint: str, options: Sequence[str] = ()) -> Process:
        """Run `ray job submit` until the job ends; its log is the output."""
        environment = {name: value for name, value in ENVIRONMENT.items() if name != "RAY_ADDRESS"}
        return subprocess.run(
            [RAY, "job", "submit", "--address", self.url, "--working-dir", ".", *options, "--", *entrypoint],
            cwd=self.checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="sj", dir="/tmp"))  # sockets lie in it: their paths may not be long
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            start_command(url, folder), env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_up(url, process, folder)
        yield Head(url=url, folder=folder, checkout=littered_checkout(tmp_path_factory.mktemp("checkout")))
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def start_command(url: str, folder: Path) -> list[str | Path]:
    """Return the command of a head that shares no port with any other on this machine."""
    ports = ("ray-client-server-port", "dashboard-agent-listen-port")
    return [
        *(RAY, "start", "--head", "--block", "--port=0", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"),
        *("--num-cpus=2", f"--object-store-memory={256 << 20}", "--disable-usage-stats"),
        *("--include-dashboard=true", f"--dashboard-port={url.rpartition(':')[2]}"),
        *(f"--{name}={free_port()}" for name in ports),
    ]


def wait_until_up(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the server of jobs, which is up later than the rest."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/jobs/", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the head did not come up:\n{(folder / 'head.log').read_text()[-3000:]}")


def littered_checkout(folder: Path) -> Path:
    """Return a copy of this project with what lies around in a checkout that was worked in."""
    for name in ("jobs", "spermseg"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "spermseg/__init__.py").open("a") as file:
        file.write(f"\n__version__ = {SENT_VERSION!r}\n")
    for name in (".gitignore", ".rayignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in LITTER:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    return folder


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    draw = DrawConfig(height=96, width=128, scale=0.4, cells=(1, 3))
    config = ClinicConfig(patients=3, fields=2, upload_patients=4, upload_fields=1, draw=draw)
    return write_clinic(tmp_path_factory.mktemp("clinic") / "clinic", config)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learned nothing: its masks are nonsense, its rows are not."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return write_untrained_model(path, UNetConfig(filters=(4, 8), bridge=8), seed=0, min_area=8)


@dataclass(frozen=True)
class Sent:
    """Every job, ended; the folders are where they wrote."""

    segment: Process
    train: Process
    evaluate: Process
    without_model: Process
    folder: Path

    @property
    def results(self) -> Location:
        return Location(str(self.folder / "results"))


@pytest.fixture(scope="module")
def sent(head: Head, clinic: Clinic, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Send all jobs at once: most of a job's time is waiting."""
    folder = tmp_path_factory.mktemp("sent")
    dataset, out, written, scores = ("dataset", "results", "run/model.safetensors", "scores")
    split = SplitConfig(fractions=(1 / 3, 1 / 3, 1 / 3), group_pattern="(patient-[0-9]+)")
    prepare_dataset(clinic.images, clinic.annotations, Location(str(folder / dataset)), PrepareConfig(split=split))

    def send(script: str, *words: str, **paths: str | Path) -> Process:
        options = [word for name, path in paths.items() for word in (f"--{name}", str(folder / path))]
        # an evaluation asks for a CPU, as on a cluster, whose head is not to do the work
        place = ("--entrypoint-num-cpus", "1") if script == "evaluate" else ()
        return head.submit("python", f"jobs/{script}.py", *words, *options, options=place)

    uploads = str(clinic.uploads)
    with ThreadPoolExecutor(3) as pool:
        segment = pool.submit(send, "segment", uploads, model=model, out=out)
        without_model = pool.submit(send, "segment", uploads, model=MISSING, out="nowhere")
        train = send("train", "--epochs", "1", "--augment", "none", dataset=dataset, out="run")
        evaluate = send("evaluate", model=written, dataset=dataset, out=scores)
    return Sent(segment.result(), train, evaluate, without_model.result(), folder)


def test_a_segment_job_writes_one_row_for_each_upload(sent: Sent, clinic: Clinic) -> None:
    assert sent.segment.returncode == 0, sent.segment.stdout
    assert verify(sent.results) == (clinic.uploads_ok + clinic.uploads_broken, [])
    (run_id,) = list_runs(sent.results)
    receipt = read_receipt(RunFolder(sent.results, run_id)) or {}
    assert {name: receipt[name] for name in clinic.expected} == clinic.expected


def test_only_the_code_travels_to_the_cluster(head: Head, sent: Sent) -> None:
    arrived = list(head.folder.glob("session_*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    names = {path.relative_to(place).parts[0] for place in arrived for path in place.rglob("*") if path.is_file()}
    assert names == {"jobs", "spermseg"}


def test_driver_and_workers_run_the_code_that_was_sent_not_the_one_installed(sent: Sent) -> None:
    (run_id,) = list_runs(sent.results)
    assert (read_receipt(RunFolder(sent.results, run_id)) or {})["version"] == SENT_VERSION
    assert {name for table in read_units(sent.results) for name in table["version"].to_pylist()} == {SENT_VERSION}


def test_a_train_job_writes_a_model_that_an_evaluate_job_reads(sent: Sent) -> None:
    assert sent.train.returncode == 0, sent.train.stdout
    assert sent.evaluate.returncode == 0, sent.evaluate.stdout
    metrics = json.loads((sent.folder / "scores/metrics.json").read_bytes())
    assert metrics["n_images"] == 2
    assert metrics["model_sha256"] == load_model(Location(str(sent.folder / "run/model.safetensors"))).sha256


def test_a_job_that_fails_exits_with_1_and_says_why_in_a_line_and_with_which_status(sent: Sent) -> None:
    failed = sent.without_model
    assert failed.returncode == 1
    said = {line for line in failed.stdout.splitlines() if line.startswith("spermseg: ")}  # Ray repeats the log's end
    assert len(said) == 1
    assert MISSING in said.pop()
    assert "Traceback" not in failed.stdout
    assert "failed with exit code 2" in failed.stdout  # our own status, in the job's message
