"""`spermseg experiment paper` on a tiny dataset, with real Ray trainings of an epoch or two."""

import csv
import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tyro
from support.clusters.kept import cluster_of
from support.forks.commands import ForkedPopen

from spermseg.cli.experiment import Experiment
from spermseg.cli.train import Train
from spermseg.cli.training_run import side_by_side
from spermseg.cli.training_run.side_by_side import command_line, train_side_by_side
from spermseg.dataset.prepare import PrepareConfig, prepare_dataset
from spermseg.dataset.split import SplitConfig
from spermseg.errors import ConfigError, RunError
from spermseg.storage.filesystem import Location
from spermseg.synthetic.clinic import ClinicConfig, write_clinic
from spermseg.synthetic.draw import DrawConfig


@pytest.fixture(autouse=True)
def forked_trainings(monkeypatch, python_that_forks):
    """Each training is a process of its own, which starts at once."""
    started = SimpleNamespace(Popen=ForkedPopen, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(side_by_side, "subprocess", started)


@pytest.fixture(scope="module")
def two_machines(python_that_forks):
    """The address of a cluster of two machines of two CPUs, for one training each."""
    with pytest.MonkeyPatch.context() as patch, cluster_of(python_that_forks, [2, 2]) as cluster:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield cluster.address


@pytest.fixture(scope="module")
def study(tmp_path_factory, two_machines):
    """A study of three rows."""
    folder = tmp_path_factory.mktemp("study")
    draw = DrawConfig(height=160, width=200, scale=0.5, cells=(1, 3))
    clinic = write_clinic(folder / "clinic", ClinicConfig(patients=6, fields=1, upload_fields=1, draw=draw))
    split = SplitConfig(fractions=(0.5, 0.25, 0.25), group_pattern="(patient-[0-9]+)")
    prepare_dataset(clinic.images, clinic.annotations, Location(str(folder / "dataset")), PrepareConfig(split=split))
    return Experiment(
        study="paper",
        dataset=str(folder / "dataset"),
        out=str(folder / "out"),
        plain_epochs=(2, 1),
        augmented_epochs=(1,),
        address=two_machines,
    ), folder / "out"


@pytest.mark.ray
def test_a_study_is_two_trainings_scored_on_every_split_and_is_not_done_twice(study, capsys):
    experiment, out = study
    assert experiment.run() == 0
    assert "training plain, augmented: 100%" in capsys.readouterr().err  # side by side: both machines have room
    for training in ("plain", "augmented"):
        assert "model:" in (out / training / "log.txt").read_text()
    with (out / "tables.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = [("no", "1"), ("no", "2"), ("yes", "1")]
    assert {(one["augmented"], one["epochs"]) for one in lines} == set(rows)
    assert len(lines) == 3 * 3 * 5  # rows, splits, scores
    score = json.loads((out / "scores/plain-2-test.json").read_text())
    (dice,) = (one for one in lines if (one["epochs"], one["split"], one["score"]) == ("2", "test", "dice"))
    assert float(dice["pooled"]) == pytest.approx(score["network_resolution"]["pooled"]["dice"], abs=1e-4)
    tables = (out / "tables.md").read_text()
    assert [f"## Table {number}," in tables for number in ("I", "II", "III", "IV")] == [True] * 4
    for name in ("augmentation", "failed", "augmented-1-test", "plain-1-train"):
        assert (out / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "plain/curves.png").exists()

    models = {path: path.read_bytes() for path in out.rglob("model-epoch-*.safetensors")}
    assert sorted(path.name for path in models) == [f"model-epoch-{epoch}.safetensors" for epoch in (1, 1, 2)]
    assert len(set(models.values())) == 3
    (out / "scores/plain-2-test.json").unlink()
    assert experiment.run() == 0
    assert "training" not in capsys.readouterr().err
    assert json.loads((out / "scores/plain-2-test.json").read_text()) == score
    assert {path: path.read_bytes() for path in models} == models

    with pytest.raises(ConfigError, match="trained with --seed 0 --precision float32; give the same, or another --out"):
        replace(experiment, seed=1).run()
    training, other = out.parent / "clinic/training", out.parent / "other"
    split = SplitConfig(fractions=(0.5, 0.25, 0.25), group_pattern="(patient-[0-9]+)", seed=1)
    prepare_dataset(training / "images", training / "annotations", Location(str(other)), PrepareConfig(split=split))
    with pytest.raises(ConfigError, match="was trained on another dataset"):
        replace(experiment, dataset=str(other)).run()


def test_a_training_is_started_by_the_words_that_give_it():
    training = Train(
        dataset="here", out="there", epochs=3, snapshots=(1, 3), augment="none", resume=True, learning_rate=0.5
    )
    words = command_line(training)
    assert tyro.cli(Train, args=words) == training
    assert "--recipe" not in words  # what is not given is left to the program


def test_a_training_that_fails_is_named_with_its_log_and_the_others_end(tmp_path, capsys):
    trainings = {name: Train(dataset=str(tmp_path / "none"), out=str(tmp_path / name), epochs=1) for name in "ab"}
    with pytest.raises(RunError, match=r"2 of 2 trainings failed; see .*/a/log.txt, .*/b/log.txt"):
        train_side_by_side(trainings, at_once=2)
    assert "is not a dataset" in (tmp_path / "a/log.txt").read_text()
