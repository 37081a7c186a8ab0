"""`spermseg calibrate`: all of a model but its weights, fitted to a dataset."""

import pytest
import torch
from support.untrained import write_untrained_model

from spermseg.cli.calibrate import Calibrate
from spermseg.errors import ConfigError, DatasetError
from spermseg.model.saved import load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return write_untrained_model(path, UNetConfig(filters=(4,), bridge=4), seed=5, min_area=7)


def test_the_weights_stay_and_the_rest_is_fitted(model, tiny_dataset, tmp_path, capsys):
    out = tmp_path / "fitted.safetensors"
    Calibrate(model=str(model), dataset=tiny_dataset.location.uri, out=str(out)).run()
    before, after = load_model(Location(str(model))), load_model(Location(str(out)))
    for name, tensor in before.network.state_dict().items():
        assert torch.equal(tensor, after.network.state_dict()[name]), name
    assert after.description.confidence != before.description.confidence
    assert after.description.calibration_data_sha256 == tiny_dataset.sha256
    assert after.description.mask_agreement is not None
    assert (after.description.min_area, after.description.training_data_sha256) == (7, "")
    assert f"threshold: 0.5 -> {after.description.threshold:g}" in capsys.readouterr().out


def test_it_writes_over_nothing(model, tiny_dataset):
    with pytest.raises(ConfigError, match="exists already"):
        Calibrate(model=str(model), dataset=tiny_dataset.location.uri, out=str(model)).run()


def test_a_dataset_without_what_the_model_knows_is_refused(tiny_dataset, tmp_path):
    path = write_untrained_model(
        tmp_path / "model", UNetConfig(filters=(4,), bridge=4, classes=("cilium",)), seed=0, min_area=0
    )
    with pytest.raises(DatasetError, match="the model has learned cilium"):
        Calibrate(model=str(path), dataset=tiny_dataset.location.uri, out=str(tmp_path / "out")).run()


def test_one_of_a_dataset_and_drawn_micrographs_is_needed(model, tmp_path):
    with pytest.raises(ConfigError, match="one of --dataset DATASET and --synthetic"):
        Calibrate(model=str(model), out=str(tmp_path / "out")).run()
