"""`spermseg experiment paper` on a tiny dataset, with real Ray trainings of an epoch or two."""

import csv
import json

import pytest

from spermseg.cli.experiment import Experiment
from spermseg.micrograph.clinic import ClinicConfig, write_clinic
from spermseg.micrograph.synthetic import DrawConfig
from spermseg.storage.filesystem import Location
from spermseg.training.prepare import PrepareConfig, prepare_dataset
from spermseg.training.split import SplitConfig


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of three rows."""
    folder = tmp_path_factory.mktemp("study")
    drawing = DrawConfig(height=160, width=200, scale=0.5, cells=(1, 3))
    clinic = write_clinic(folder / "clinic", ClinicConfig(patients=6, fields=1, upload_fields=1, drawing=drawing))
    split = SplitConfig(fractions=(0.5, 0.25, 0.25), group_pattern="(patient-[0-9]+)")
    prepare_dataset(clinic.images, clinic.annotations, Location(str(folder / "dataset")), PrepareConfig(split=split))
    return Experiment(
        study="paper",
        dataset=str(folder / "dataset"),
        out=str(folder / "out"),
        plain_epochs=(2, 1),
        augmented_epochs=(1,),
    ), folder / "out"


@pytest.mark.ray
def test_a_study_is_two_trainings_scored_on_every_split_and_is_not_done_twice(study, capsys):
    experiment, out = study
    assert experiment.run() == 0
    assert "=== training plain" in capsys.readouterr().out
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
    assert "=== training" not in capsys.readouterr().out
    assert json.loads((out / "scores/plain-2-test.json").read_text()) == score
    assert {path: path.read_bytes() for path in models} == models
