"""What `spermseg train` hands to the training."""

import json

import pytest
import torch
from support.untrained import write_untrained_model

from spermseg.cli import run_verb
from spermseg.cli.train import Train
from spermseg.errors import ConfigError, DatasetError
from spermseg.model.pretrained import PRETRAINED
from spermseg.model.saved import load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.training.data.source import SyntheticData


class HandedOverError(Exception):
    """Stops the command where the training would begin."""


@pytest.fixture
def job_of(monkeypatch, tmp_path):
    """Return the job of a command with these options."""

    def stop(job, *_):
        raise HandedOverError(job)

    monkeypatch.setattr("spermseg.cli.train.train_on_ray", stop)

    def job_of(**options):
        with pytest.raises(HandedOverError) as stopped:
            Train(out=str(tmp_path / "run"), **options).run()
        return stopped.value.args[0]

    return job_of


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"recipe": "paper"}, ("cell",)),
        ({"recipe": "clinic"}, ("cell", "head", "midpiece", "tail")),  # the tiny dataset has no acrosome
        ({"recipe": "clinic", "classes": ("tail", "head")}, ("tail", "head")),
    ],
)
def test_the_classes_are_those_asked_for_or_those_of_the_recipe_that_are_annotated(
    job_of, tiny_dataset, options, classes
):
    assert job_of(dataset=tiny_dataset.location.uri, **options).network.classes == classes


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"recipe": "paper"}, None),
        ({"recipe": "clinic"}, PRETRAINED),
        ({"recipe": "clinic", "classes": ("tail",), "scale": 0.5}, PRETRAINED),
        ({"recipe": "clinic", "init": "scratch"}, None),
        ({"recipe": "clinic", "bridge": 64}, None),
        ({"recipe": "clinic", "residual": True}, None),
        ({"recipe": "clinic", "synthetic": True}, None),
        ({"recipe": "clinic", "synthetic": True, "init": "pretrained"}, PRETRAINED),
    ],
)
def test_the_start_is_the_one_asked_for_or_the_recipes_where_its_network_is(job_of, tiny_dataset, options, start):
    dataset = None if options.get("synthetic") else tiny_dataset.location.uri
    found = job_of(dataset=dataset, **options).first_weights
    if start is None:
        assert found is None
    else:
        expected = load_model(Location(str(start))).network.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected if not name.startswith("head."))


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({"recipe": "paper"}, ("constant", 3e-4)),
        ({"recipe": "clinic"}, ("constant", 1e-3)),
        ({"recipe": "clinic", "init": "scratch"}, ("one-cycle", 3e-3)),
        ({"recipe": "clinic", "residual": True}, ("one-cycle", 3e-3)),
        ({"recipe": "clinic", "init": "scratch", "learning_rate": 1e-4}, ("one-cycle", 1e-4)),
    ],
)
def test_a_network_that_has_learned_nothing_takes_larger_steps_that_end_small(job_of, tiny_dataset, options, rate):
    config = job_of(dataset=tiny_dataset.location.uri, **options).config
    assert (config.schedule, config.learning_rate) == rate


def test_drawn_micrographs_have_all_classes_of_the_recipe(job_of):
    job = job_of(synthetic=True, recipe="clinic")
    assert job.network.classes == SyntheticData().classes == ("cell", "head", "acrosome", "midpiece", "tail")


@pytest.mark.parametrize(
    "options",
    [{"ignore_border": 60}, {"ignore_loose": "pretrained"}, {"expansion": 3}, {"places": 5}, {"superpose": 0.5}],
)
def test_what_says_nothing_of_synthetic_micrographs_is_not_taken_in_silence(options, tmp_path):
    (option,) = options
    with pytest.raises(ConfigError, match=f"got --{option.replace('_', '-')} with --synthetic"):
        Train(out=str(tmp_path), synthetic=True, recipe="clinic", **options).run()


def test_cells_without_their_heads_are_known_by_both(tiny_dataset, tmp_path):
    training = Train(
        out=str(tmp_path),
        dataset=tiny_dataset.location.uri,
        recipe="clinic",
        ignore_cut="yes",
        classes=("head", "tail"),
    )
    with pytest.raises(ConfigError, match="got --ignore-cut with the classes head, tail; it needs cell and head"):
        training.run()


def test_a_snapshot_of_an_epoch_that_never_comes_is_refused(tiny_dataset, tmp_path):
    for epoch in (0, 11):
        training = Train(out=str(tmp_path), dataset=tiny_dataset.location.uri, epochs=10, snapshots=(5, epoch))
        with pytest.raises(ConfigError, match=f"got a snapshot of epoch {epoch}; the training has epochs 1 to 10"):
            training.run()


def test_the_settings_say_what_of_which_dataset_is_seen(job_of, tiny_dataset, tmp_path):
    job_of(dataset=tiny_dataset.location.uri, recipe="clinic", pictures=2, ignore_border=60, ignore_loose="pretrained")
    assert json.loads((tmp_path / "run/settings.json").read_text())["data"] == {
        "dataset_sha256": tiny_dataset.sha256,
        "pictures": 2,
        "ignore_border": 60,
        "ignore_loose": load_model(Location(str(PRETRAINED))).sha256,
    }


def test_a_training_that_is_interrupted_says_how_it_goes_on(monkeypatch, tiny_dataset, tmp_path, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("spermseg.cli.train.train_on_ray", interrupt)
    with pytest.raises(SystemExit) as left:
        run_verb(Train, ["--dataset", tiny_dataset.location.uri, "--out", str(tmp_path / "run")])
    assert left.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "spermseg: interrupted; what is written stays, and --resume goes on after the last finished epoch"


def test_a_class_that_is_not_annotated_is_one_line(tiny_dataset, tmp_path):
    training = Train(out=str(tmp_path), dataset=tiny_dataset.location.uri, recipe="clinic", classes=("nucleus",))
    with pytest.raises(DatasetError, match="has no part nucleus; it has cell, "):
        training.run()


def test_a_start_whose_classes_are_all_unknown_to_the_dataset_is_one_line(tiny_dataset, tmp_path):
    network = UNetConfig(filters=(4, 6), bridge=8, classes=("acrosome",))
    model = write_untrained_model(tmp_path / "model", network, seed=0, min_area=0)
    training = Train(out=str(tmp_path / "run"), dataset=tiny_dataset.location.uri, init=str(model))
    with pytest.raises(DatasetError, match="has no part acrosome; it has cell, "):
        training.run()
