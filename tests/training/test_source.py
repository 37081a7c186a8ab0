"""What a training learns from: some pictures of a dataset, or synthetic ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.untrained import write_untrained_model

from spermseg.errors import ConfigError, DatasetError
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.saved import load_model
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import UNKNOWN
from spermseg.training.data.source import AnnotatedData, SyntheticData
from spermseg.training.learner import first_weights

NETWORK = UNetConfig(filters=(4, 6), bridge=8)
VIEW = Tiles(scale=0.25, tile=128, halo=32)
CONFIG = TrainConfig(augment="clinic", expansion=1)


def test_so_many_pictures_are_some_of_all_the_same_each_time_and_others_with_another_seed(tiny_dataset):
    every = AnnotatedData(dataset=tiny_dataset)
    some = AnnotatedData(dataset=tiny_dataset, limit=3)
    assert len(some.names("train")) == 3
    assert set(some.names("train")) < set(every.names("train"))
    assert some.names("train") == AnnotatedData(dataset=tiny_dataset, limit=3).names("train")
    assert len({tuple(AnnotatedData(dataset=tiny_dataset, limit=3, seed=seed).names("train")) for seed in range(5)}) > 1
    assert some.names("val") == every.names("val")
    assert some.counts == {**every.counts, "train": 3}
    assert some.sha256 != every.sha256 == tiny_dataset.sha256


def test_fewer_pictures_contain_those_of_still_fewer(tiny_dataset):
    """A learning curve adds pictures; it does not swap them."""
    splits = [set(AnnotatedData(dataset=tiny_dataset, limit=limit).names("train")) for limit in (2, 4, 6)]
    assert splits[0] < splits[1] < splits[2]


@pytest.mark.parametrize("limit", [0, 9])
def test_more_pictures_than_there_are_is_one_line(tiny_dataset, limit):
    with pytest.raises(DatasetError, match=f"got {limit} pictures to train on"):
        AnnotatedData(dataset=tiny_dataset, limit=limit).names("train")


def test_an_annotated_example_has_the_size_and_the_classes_that_were_asked_for(tiny_dataset):
    data = AnnotatedData(dataset=tiny_dataset)
    example = data.load(data.names("train")[0], WholeFrame(size=64), ("cell", "tail"))
    assert example.pixels.shape == (64, 64, 3)
    assert example.coverage.shape == (64, 64, 2)
    assert (example.coverage[..., 0] >= example.coverage[..., 1]).all()


def test_a_synthetic_tile_is_a_function_of_seed_epoch_and_slot_alone():
    def drawn(seed: int, epoch: int, slot: int) -> bytes:
        return SyntheticData(seed=seed).draw(epoch, slot, VIEW, ("cell",), CONFIG).pixels.tobytes()

    assert drawn(0, 1, 2) == drawn(0, 1, 2)
    assert len({drawn(0, 1, 2), drawn(1, 1, 2), drawn(0, 2, 2), drawn(0, 1, 3)}) == 4


@pytest.mark.parametrize("view", [VIEW, WholeFrame(size=128)])
def test_synthetic_examples_have_masks_of_all_parts_within_the_cell(view):
    data = SyntheticData(seed=3)
    found = np.zeros(len(data.classes), dtype=np.int64)
    values: set[int] = set()
    for name in data.names("val")[:6]:
        example = data.load(name, view, data.classes)
        assert example.pixels.shape == (128, 128, 3)
        assert example.coverage.shape == (128, 128, len(data.classes))
        found += example.coverage.sum(axis=(0, 1), dtype=np.int64)
        if isinstance(view, Tiles):
            assert (example.coverage[..., 0] >= example.coverage[..., 1:].max(axis=-1)).all()
            values |= set(np.unique(example.coverage).tolist())
    assert (found > 0).all()
    assert isinstance(view, WholeFrame) or len(values) > 10  # how much of a pixel, not whether


def test_what_is_drawn_is_part_of_the_digest():
    assert SyntheticData().sha256 == SyntheticData().sha256
    assert len({SyntheticData().sha256, SyntheticData(seed=1).sha256, SyntheticData(pictures=5).sha256}) == 3


def test_synthetic_data_has_no_names_to_train_on_and_makes_at_least_one_picture():
    with pytest.raises(DatasetError, match="made anew"):
        SyntheticData().names("train")
    with pytest.raises(ConfigError, match="0 pictures"):
        SyntheticData(pictures=0)


@pytest.fixture
def begun(tmp_path):
    """A model of two classes."""
    path = write_untrained_model(tmp_path / "model", replace(NETWORK, classes=("cell", "tail")), seed=1, min_area=0)
    return load_model(Location(str(path)))


def test_a_model_starts_a_network_of_its_shape_and_new_classes_start_from_scratch(begun):
    config = replace(NETWORK, classes=("head", "tail"))
    weights = first_weights(begun, config, seed=5)
    UNet(config).load_state_dict(weights)
    assert torch.equal(weights["bridge.0.weight"], begun.network.state_dict()["bridge.0.weight"])
    assert torch.equal(weights["head.weight"][1], begun.network.state_dict()["head.weight"][1])
    assert not torch.equal(weights["head.weight"][0], begun.network.state_dict()["head.weight"][0])


def test_a_model_of_another_shape_is_refused(begun):
    with pytest.raises(ConfigError, match="leave out --filters"):
        first_weights(begun, UNetConfig(filters=(8, 8)), seed=0)


def test_unannotated_pixels_near_the_edge_are_ignored_where_it_is_asked_for(tiny_dataset):
    plain, ignoring = AnnotatedData(dataset=tiny_dataset), AnnotatedData(dataset=tiny_dataset, ignore_border=20)
    name, view = plain.names("train")[0], Tiles(scale=0.5, tile=64, halo=16)
    mask, with_ignored = (data.load(name, view, ("cell", "tail")).coverage for data in (plain, ignoring))
    ignored = with_ignored == UNKNOWN
    assert ignored.any()
    assert np.array_equal(with_ignored[~ignored], mask[~ignored])
    assert not ignored[10:-10, 10:-10].any()
    assert (ignored[:10] | (mask[:10, :, :1] > 0)).all()  # a known cell is known, and so is where its parts are not
    assert plain.sha256 != ignoring.sha256
    with pytest.raises(ConfigError, match="-1 px"):
        AnnotatedData(dataset=tiny_dataset, ignore_border=-1)
