"""Training on real Ray processes: outputs, kills, and one worker against two."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray.exceptions
import ray.train
import torch
from support.clusters.kept import cluster_of
from support.fault_proxy import Fault, FaultProxy, Kind
from support.forks.commands import ForkedPopen
from support.forks.workers import started_by

from spermseg.cli import run_verb
from spermseg.cli.train import Train
from spermseg.cluster import waiting_workers
from spermseg.cluster.connection import connected
from spermseg.errors import ConfigError, DatasetError, RunError, SpermsegError, StorageError
from spermseg.micrograph.tiling import WholeFrame
from spermseg.model.saved import load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.storage import patience
from spermseg.storage.filesystem import Location
from spermseg.training import distributed
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import coverage_of
from spermseg.training.data.sampling import Sampler, WorkingExample
from spermseg.training.data.source import AnnotatedData, SyntheticData
from spermseg.training.distributed import Scaling, cause_of, train_on_ray
from spermseg.training.fit import Fit, FitState
from spermseg.training.job import TrainJob

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

EPOCHS = 4
PROGRAM = "from spermseg.cli import main; main()"
OWN_RAY = {"RAY_ADDRESS": "local", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def on_the_kept_cluster(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster)


def words(dataset, run: Path, *more: str) -> list[str]:
    given = ["--dataset", dataset.location.uri, "--out", str(run), "--augment", "none"]
    return [*given, "--epochs", str(EPOCHS), "--learning-rate", "0.003", *more]


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: object
    stdout: str
    stderr: str


@pytest.fixture
def train(tiny_dataset, capfd) -> Callable[..., Ended]:
    """Train in this process, with what a folder and more words say."""

    def train(run: Path, *more: str) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_verb(Train, words(tiny_dataset, run, *more))
        return Ended(ended.value.code, *capfd.readouterr())

    return train


def history(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "history.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset, tmp_path_factory, kept_cluster) -> tuple[Path, Ended]:
    run = tmp_path_factory.mktemp("training") / "run"
    command = [sys.executable, "-c", PROGRAM, "train", *words(tiny_dataset, run, "--address", kept_cluster)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with ForkedPopen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        said, progress = training.communicate(timeout=1200)
    return run, Ended(training.returncode, said, progress)


def test_a_training_ends_with_a_model_its_curves_its_card_and_tensorboard_files(uninterrupted, tiny_dataset):
    run, done = uninterrupted
    assert done.status == 0, done.stderr
    saved = load_model(Location(str(run / "model.safetensors")))
    assert saved.description.recipe == "paper"
    assert saved.description.training_data_sha256 == tiny_dataset.sha256
    assert [int(record["epoch"]) for record in history(run)] == [1, 2, 3, 4]
    best = max(float(record["val_dice"]) for record in history(run))
    assert saved.description.scores["val_dice"] == pytest.approx(best)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (run / "model_card.md").read_text()
    assert "8 pictures" in card
    assert "| started from | scratch |" in card
    assert any((run / "tensorboard").iterdir())


def test_the_terminal_shows_progress_and_the_result_and_nothing_of_ray(uninterrupted):
    _, done = uninterrupted
    assert "epoch 4/4" in done.stderr
    assert "validation Dice 0." in done.stderr
    assert done.stdout.startswith("model: ")
    lines = done.stderr.replace("\r", "\n").splitlines()
    assert [line for line in lines if line.strip() and "step" not in line] == []


def test_a_second_training_into_the_same_folder_is_refused_in_one_line(uninterrupted, train):
    run, _ = uninterrupted
    again = train(run)
    assert again.status == 2
    assert again.stderr.splitlines() == [
        f"spermseg: {run} already holds a training; give --resume to continue it, or another --out"
    ]


def start_and_wait_for_an_epoch(command: list[str], dataset, run: Path, **environment: str) -> ForkedPopen:
    process = ForkedPopen(
        [*command, "train", *words(dataset, run)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 400
    while not (run / "history.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def assert_goes_on(train: Callable[..., Ended], run: Path, uninterrupted: Path) -> None:
    resumed = train(run, "--resume")
    assert resumed.status == 0, resumed.stderr
    assert history(run) == history(uninterrupted)
    assert (run / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


def test_a_killed_training_resumes_with_the_curves_of_an_uninterrupted_one(
    uninterrupted, tiny_dataset, train, tmp_path
):
    process = start_and_wait_for_an_epoch([sys.executable, "-c", PROGRAM], tiny_dataset, tmp_path / "run")
    process.kill()
    process.communicate(timeout=120)
    assert_goes_on(train, tmp_path / "run", uninterrupted[0])


def test_a_training_whose_ray_is_killed_ends_in_one_line_and_resumes(
    uninterrupted, tiny_dataset, train, tmp_path, monkeypatch, python_that_forks
):
    with monkeypatch.context() as patch:
        patch.delenv("RAY_AUTH_MODE")  # a Ray of its own asks for a token
        command = started_by(PROGRAM, python_that_forks)
        process = start_and_wait_for_an_epoch(command, tiny_dataset, tmp_path / "run", **OWN_RAY)
    rays = psutil.Process(process.pid).children(recursive=True)
    held = [one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in one.name()]
    for one in held:  # or the training may be over before its Ray is lost
        one.send_signal(signal.SIGSTOP)
    next(one for one in rays if one.name() == "gcs_server").kill()
    said = process.communicate(timeout=200)[1]
    for one in held:
        one.kill()
    assert process.returncode == 1
    line = "spermseg: Ray on this machine ended: its process gcs_server was killed, or the machine ran out of memory; "
    assert said.splitlines()[-1] == f"{line}what is written stays, and --resume goes on"
    assert "Traceback" not in said
    assert psutil.wait_procs(rays, timeout=30)[1] == []
    assert_goes_on(train, tmp_path / "run", uninterrupted[0])


def test_a_snapshot_of_an_epoch_that_a_killed_training_had_done_and_not_written_down_is_said_to_be_missing(
    uninterrupted, train, tmp_path
):
    run = shutil.copytree(uninterrupted[0], tmp_path / "run")
    (run / "history.csv").unlink()
    (run / "model.safetensors").unlink()
    resumed = train(run, "--resume", "--snapshots", "2")
    assert resumed.status == 0, resumed.stderr
    assert (
        "no model-epoch-2.safetensors: that epoch was finished before --snapshots named it"
        in resumed.stderr.splitlines()
    )
    assert (run / "model.safetensors").read_bytes() == (uninterrupted[0] / "model.safetensors").read_bytes()
    assert history(run) == history(uninterrupted[0])


def small_job(dataset, **changes) -> TrainJob:
    """A training whose seed is one at which rounding stays small: Adam makes a whole step of a gradient of almost 0."""
    return TrainJob(
        data=AnnotatedData(dataset=dataset),
        network=UNetConfig(filters=(8, 8), bridge=8),
        view=WholeFrame(size=64),
        config=replace(
            TrainConfig(batch_size=4, learning_rate=3e-3, expansion=2, freeze_batch_norm=True, seed=2), **changes
        ),
        threshold=0.5,
    )


def in_this_process(job: TrainJob, dataset, threads: int) -> FitState:
    """The same training without Ray; with as many threads, since they decide the order of float additions."""
    torch.set_num_threads(threads)
    splits = {
        split: [
            WorkingExample(
                pixels=dataset.read_working(example, job.view),
                coverage=coverage_of(dataset.read_mask(example), job.view)[..., None],
            )
            for example in dataset.examples(split)
        ]
        for split in ("train", "val")
    }
    try:
        train = Sampler(examples=splits["train"], tile=job.view.tile, scale=job.view.scale, config=job.config)
        return Fit(network_config=job.network, view=job.view, config=job.config, train=train, val=splits["val"]).run()
    finally:
        torch.set_num_threads(1)


def assert_same(state: FitState, reference: FitState) -> None:
    """Within 1e-4 of each weight and 1e-3 of each score: what the order of float additions may do."""
    for name, tensor in reference.weights.items():
        assert torch.allclose(state.weights[name].float(), tensor.float(), atol=1e-4), name
    for mine, its in zip(state.history, reference.history, strict=True):
        assert mine == pytest.approx(its, abs=1e-3)


def test_through_a_killed_worker_and_an_outage_of_its_storage_a_training_ends_as_if_nothing_had_been(
    tiny_dataset, moto_server, monkeypatch
):
    patience.be_patient(patience.Patience(longest_wait_s=0.2))
    job = small_job(tiny_dataset, epochs=30)
    killed, heard, before = [], [], set()

    def hear(line: str) -> None:
        heard.append(line)
        proxy.remove()

    monkeypatch.setattr(waiting_workers, "say_that_somebody_waits", hear)

    def kill_once(report) -> None:
        if report.history and not killed:
            proxy.inject(Fault(kind=Kind.SLOW_DOWN, times=None))  # until a worker that waits was heard here
            killed.extend(one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in one.name())
            for process in killed:
                process.kill()
            before.update(checkpoints(behind))

    behind = moto_server.new_bucket().child("run")
    with FaultProxy(moto_server.endpoint_url) as proxy:
        survived = train_on_ray(job, Location(behind.uri, proxy.endpoint_url), Scaling(gpu=False), kill_once)
        assert proxy.faults[Kind.SLOW_DOWN]
    assert heard[0].startswith(f"{behind.uri}/checkpoints/")
    assert "waiting for the storage, for up to " in heard[0]
    assert killed
    assert_same(survived, in_this_process(job, tiny_dataset, threads=os.cpu_count()))
    assert 2 <= len(checkpoints(behind) - before) <= 3  # one may be half written by the worker that was killed


def checkpoints(run: Location) -> set[str]:
    return {one.key.split("/")[1] for one in run.list() if one.key.count("/") == 2}


def test_the_progress_is_kept_beside_the_driver_and_outlives_every_other_node(python_that_forks):
    with cluster_of(python_that_forks, [1, 4, 4]) as nodes, connected(ray, nodes.address):
        boards = [distributed._board_beside_driver() for _ in range(6)]
        ray.get([board.post.remote("a report") for board in boards])
        for node in list(nodes.worker_nodes):
            nodes.remove_node(node, allow_graceful=False)
        assert ray.get([board.read.remote() for board in boards], timeout=60) == ["a report"] * 6


def test_a_training_that_is_interrupted_ends_as_any_other_command_and_goes_on_later(tiny_dataset, tmp_path):
    job, run, before = small_job(tiny_dataset, epochs=200), Location(str(tmp_path)), signal.getsignal(signal.SIGINT)
    reports = []

    def interrupt_once(report) -> None:
        if report.history and not reports:
            reports.append(report)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_on_ray(job, run, Scaling(gpu=False), interrupt_once)
    assert reports
    assert signal.getsignal(signal.SIGINT) is before
    done = train_on_ray(
        replace(job, config=replace(job.config, epochs=len(reports[0].history))),
        run,
        Scaling(gpu=False),
        lambda report: None,
    )
    assert done.history[: len(reports[0].history)] == reports[0].history


def test_two_workers_take_the_steps_of_one_with_the_same_global_batch(tiny_dataset, tmp_path):
    """Batch statistics are frozen: PyTorch synchronises them on GPUs only, see docs/training.md."""
    job = small_job(tiny_dataset, epochs=5)
    together = train_on_ray(job, Location(str(tmp_path)), Scaling(workers=2, gpu=False), lambda report: None)
    assert_same(together, in_this_process(job, tiny_dataset, threads=1))


class SyntheticHere:
    """The batches of synthetic data, drawn in this process one after the other."""

    def __init__(self, job: TrainJob) -> None:
        self.job, self.steps = job, 2

    def batches(self, epoch):
        for step in range(self.steps):
            slots = range(4 * step, 4 * step + 4)
            drawn = [self.job.data.draw(epoch, s, self.job.view, ("cell",), self.job.config) for s in slots]
            yield np.stack([one.pixels for one in drawn]), np.stack([one.coverage for one in drawn])


def test_drawings_stream_to_the_training_in_the_order_of_their_numbers(tiny_dataset, tmp_path):
    job = replace(small_job(tiny_dataset, epochs=2, augment="clinic"), data=SyntheticData(pictures=8, held_out=2))
    streamed = train_on_ray(job, Location(str(tmp_path)), Scaling(gpu=False), lambda report: None)
    torch.set_num_threads(os.cpu_count())
    try:
        val = [job.data.load(name, job.view, ("cell",)) for name in job.data.names("val")]
        fit = Fit(network_config=job.network, view=job.view, config=job.config, train=SyntheticHere(job), val=val)
        assert_same(streamed, fit.run())
    finally:
        torch.set_num_threads(1)


def test_a_batch_that_the_workers_cannot_share_is_refused_before_anything_starts(tiny_dataset, tmp_path):
    with pytest.raises(ConfigError, match="batch size 4 for 3 workers"):
        train_on_ray(small_job(tiny_dataset), Location(str(tmp_path)), Scaling(workers=3), lambda report: None)


def without_ray(monkeypatch, trainer) -> None:
    """Let a training ask a trainer of the test's, and no Ray."""
    monkeypatch.setattr(distributed, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(distributed, "heard", lambda _: nullcontext())
    monkeypatch.setattr(distributed, "_board_beside_driver", lambda: None)
    monkeypatch.setattr(distributed, "_trainer", trainer)


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (StorageError("s3://clinic: no answer"), StorageError, "^s3://clinic: no answer$"),
        (ValueError("no such thing"), DatasetError, "dataset could not be read: no such thing$"),
    ],
)
def test_what_goes_wrong_while_the_pictures_are_loaded_is_told_as_what_it_is(
    tiny_dataset, tmp_path, monkeypatch, raised, kind, said
):
    def fail(*_):
        raise ray.exceptions.RayTaskError("load", "Traceback ...", raised)

    without_ray(monkeypatch, trainer=fail)
    with pytest.raises(SpermsegError, match=said) as caught:
        train_on_ray(small_job(tiny_dataset), Location(str(tmp_path)), Scaling(gpu=False), lambda report: None)
    assert type(caught.value) is kind


def test_a_cluster_that_is_lost_under_a_training_is_one_line(tiny_dataset, tmp_path, monkeypatch):
    def fail(*_):
        raise ray.exceptions.ActorUnavailableError("The actor is unavailable: Socket closed\nMore of it", None)

    without_ray(monkeypatch, trainer=fail)
    lost = "the training was lost: .*Socket closed; its last epoch is kept: --resume goes on$"
    with pytest.raises(RunError, match=lost) as caught:
        train_on_ray(small_job(tiny_dataset), Location(str(tmp_path)), Scaling(gpu=False), lambda report: None)
    assert "\n" not in caught.value.message


def test_the_cause_of_a_failed_training_is_what_a_worker_raised():
    raised = "Traceback (most recent call last):\n  File ...\nRuntimeError: size mismatch for head.weight"
    workers = ray.train.WorkerGroupError("[Rank 1 Error Snippet]: ...", {1: RuntimeError(raised)})
    assert cause_of(workers) == "RuntimeError: size mismatch for head.weight"
    assert cause_of(ray.train.ControllerError(OSError("no space left\nfor 2 GB"))) == "no space left"
    died = ray.train.WorkerGroupError("...", {0: RuntimeError("The actor died.\n\tclass_name: RayTrainWorker")})
    assert cause_of(died) == "The actor died."
