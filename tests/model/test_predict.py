"""The predictor: the same maps whatever shares the batch, the same tiled as whole, in order, and no reading ahead."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.errors import ConfigError
from spermseg.micrograph.decode import Micrograph
from spermseg.micrograph.tiling import Tiles, View, WholeFrame, resize, to_native
from spermseg.model.predict import (
    PredictConfig,
    Predictor,
    choose_device,
    fold_batch_norm,
    network_input,
    predict_working,
)
from spermseg.model.saved import ModelDescription, SavedModel
from spermseg.model.unet import UNet, UNetConfig

SMALL = UNetConfig(filters=(4, 6), bridge=8)
THRESHOLD = 0.5


@cache
def trained_looking(config: UNetConfig, seed: int = 0) -> UNet:
    """A network in which every number counts: statistics of real activations, and logits of 1.5 around 0."""
    torch.manual_seed(seed)
    network = UNet(config)
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(4, config.in_channels, 64, 64))
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
        logits = network.eval()(torch.rand(4, config.in_channels, 64, 64))
        scale = 1.5 / logits.std(dim=(0, 2, 3))
        network.head.bias.sub_(logits.mean(dim=(0, 2, 3))).mul_(scale)
        network.head.weight.mul_(scale[:, None, None, None])
    return network


def saved_model(network: UNet, view: WholeFrame | Tiles) -> SavedModel:
    description = ModelDescription(
        network=network.config,
        view=view,
        threshold=THRESHOLD,
        min_area=0,
        recipe="paper",
        settings={},
        training_data_sha256="",
    )
    return SavedModel(network=network, description=description, sha256="")


def predictor(view: WholeFrame | Tiles, network: UNet | None = None, batch_size: int = 4) -> Predictor:
    network = network or trained_looking(SMALL)
    return Predictor(saved_model(network, view), view, PredictConfig(device="cpu", batch_size=batch_size))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


TILES = Tiles(scale=1, tile=64, halo=16)
VIEWS = [WholeFrame(size=48), TILES, Tiles(scale=0.5, tile=32, halo=0)]
SIZES = [(50, 130), (64, 64), (1, 1), (97, 33), (200, 16), (48, 48)]


@pytest.mark.parametrize("view", VIEWS, ids=str)
@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.sampled_from(SIZES), max_size=5), batch_size=st.integers(1, 9))
def test_a_map_depends_neither_on_the_batch_size_nor_on_its_neighbours_and_the_order_is_kept(view, sizes, batch_size):
    network = trained_looking(SMALL)
    pictures = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    alone = predictor(view, network, batch_size=1)
    together = list(predictor(view, network, batch_size).predict(pictures))
    assert len(together) == len(pictures)
    for found, one in zip(together, pictures, strict=True):
        (expected,) = alone.predict([one])
        assert found.shape == one.shape[:2]
        assert np.allclose(found, expected, atol=1e-5)
        near = np.abs(expected - THRESHOLD) < 1e-5
        assert np.array_equal((found >= THRESHOLD) | near, (expected >= THRESHOLD) | near)


def test_the_maps_of_the_networks_used_here_are_not_flat():
    (found,) = predictor(TILES).predict([picture(100, 100)])
    assert found.std() > 0.1
    assert 0.2 < (found >= THRESHOLD).mean() < 0.8


@pytest.mark.parametrize("shape", [(64, 160), (300, 97), (20, 20)])
def test_tiles_whose_halo_covers_the_reach_give_the_map_of_the_whole_picture(shape):
    network = trained_looking(SMALL)
    view = Tiles(scale=1, tile=96, halo=32)
    assert view.halo >= network.config.reach
    found = predictor(view, network).predict_at_working(picture(*shape))
    assert np.allclose(found, whole_map(network, picture(*shape), view), atol=1e-5)


def test_tiles_of_the_default_halo_give_the_map_of_the_whole_picture_with_the_paper_network():
    network = trained_looking(UNetConfig())
    view = Tiles(scale=1, tile=240)
    found = predictor(view, network).predict_at_working(picture(32, 300))
    assert np.allclose(found, whole_map(network, picture(32, 300), view), atol=1e-5)


def test_a_halo_short_of_the_reach_shows_at_the_seams():
    network = trained_looking(SMALL)
    view = Tiles(scale=1, tile=48, halo=0)
    found = predictor(view, network).predict_at_working(picture(96, 96))
    assert not np.allclose(found, whole_map(network, picture(96, 96), view), atol=1e-3)


def whole_map(network: UNet, pixels: np.ndarray, view: Tiles) -> np.ndarray:
    """Return the map of a picture in one piece, mirrored up to the alignment as the tiles are."""
    height, width = pixels.shape[:2]
    sides = [max(-(-side // 16) * 16, view.tile) - side for side in (height, width)]
    padded = np.pad(pixels, ((0, sides[0]), (0, sides[1]), (0, 0)), mode="symmetric")
    with torch.inference_mode():
        logits = network(network_input(torch.from_numpy(padded[np.newaxis])))
    return torch.sigmoid(logits)[0, 0, :height, :width].numpy()


@pytest.mark.parametrize("config", [SMALL, UNetConfig(), UNetConfig(filters=(3,), bridge=3, classes=("a", "b"))])
def test_folding_batch_norm_changes_no_logit_and_leaves_the_network_as_it_was(config):
    network = trained_looking(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(folded(x), network(x), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_no_pictures_give_no_maps():
    assert list(predictor(TILES).predict([])) == []


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_map_of_one_picture_at_working_resolution_is_what_is_brought_to_native(view):
    one = picture(100, 150)
    model = predictor(view)
    working = model.predict_at_working(one)
    assert working.shape == view.working_pixels(one).shape[:2]
    if working.shape == one.shape[:2]:
        assert np.array_equal(working, next(model.predict([one])))


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("by", [1, 2, 4])
def test_the_map_of_a_reduced_picture_is_native_and_that_of_the_pixels_that_are_left(view, by):
    left = picture(40, 60)
    (found,) = predictor(view).predict([Micrograph(pixels=left, reduction=by)])
    assert found.shape == (40 * by, 60 * by)
    working = resize(left, view.working_shape((40 * by, 60 * by)))
    (expected,) = predict_working(predictor(view)._forward, view, [working], 4)
    assert np.array_equal(found, to_native(expected[0], found.shape))


def test_the_cell_is_as_probable_as_its_likeliest_part():
    config = UNetConfig(filters=(4,), bridge=4, classes=("head", "tail"))
    network = trained_looking(config)
    one = picture(48, 48)
    found = predictor(WholeFrame(size=48), network).predict_at_working(one)
    with torch.inference_mode():
        parts = torch.sigmoid(network(network_input(torch.from_numpy(one[np.newaxis]))))[0]
    assert np.allclose(found, parts.amax(dim=0).numpy(), atol=1e-5)
    assert np.array_equal(found, next(predictor(WholeFrame(size=48), network).predict([one])))
    assert not np.allclose(found, parts[0].numpy(), atol=1e-2)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("size", [(48, 48), (64, 130)])
def test_pictures_are_read_no_further_ahead_than_a_batch_needs(batch_size, size):
    tiles = len(TILES.split(picture(*size)))
    read = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal read
        for number in range(40):
            read += 1
            yield picture(*size, seed=number)

    maps = predictor(TILES, batch_size=batch_size).predict(pictures())
    for done, _ in enumerate(maps):
        assert read - done <= -(-batch_size // tiles) + 1
    assert read == 40


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_every_batch_but_the_last_is_full_and_tiles_come_in_order(batch_size):
    sizes: list[int] = []

    def forward(tiles: np.ndarray) -> np.ndarray:
        sizes.append(len(tiles))
        return tiles[..., 0][:, np.newaxis].astype(np.float32)

    pictures = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    maps = list(predict_working(forward, TILES, pictures, batch_size))
    assert [np.array_equal(m[0], p[..., 0]) for m, p in zip(maps, pictures, strict=True)] == [True] * len(SIZES)
    assert set(sizes[:-1]) <= {batch_size}
    assert sizes[-1] <= batch_size
    assert sum(sizes) == sum(len(TILES.split(p)) for p in pictures)


def test_half_precision_moves_a_probability_by_a_few_hundredths_at_most():
    network = trained_looking(SMALL)
    model = Predictor(saved_model(network, TILES), TILES, PredictConfig(device="cpu", precision="bfloat16"))
    one = picture(100, 100)
    found, exact = model.predict_at_working(one), predictor(TILES, network).predict_at_working(one)
    assert not np.array_equal(found, exact)
    assert np.abs(found - exact).max() < 0.1
    assert np.abs(found - exact).mean() < 0.01


def test_the_network_sees_colours_from_0_to_1_without_a_copy_of_the_layout():
    tiles = torch.from_numpy(np.stack([picture(16, 32), picture(16, 32, seed=1)]))
    x = network_input(tiles)
    assert x.shape == (2, 3, 16, 32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x[1, 2], tiles[1, :, :, 2] / 255)


def test_auto_is_a_gpu_where_there_is_one_and_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for absent in ("cuda", "cuda:0", "warp"):
        with pytest.raises(ConfigError, match=f"got device '{absent}', but PyTorch sees only cpu here"):
            choose_device(absent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="cpu, cuda, cuda:0, cuda:1 here"):
        choose_device("cuda:2")


def test_settings_that_cannot_be_used_say_what_is_needed():
    with pytest.raises(ConfigError, match="1 or more is needed"):
        PredictConfig(batch_size=0)
    with pytest.raises(ConfigError, match="one of auto, float32, bfloat16 is needed"):
        PredictConfig(precision="float16")


def test_every_view_is_a_view():
    views: list[View] = [WholeFrame(), Tiles()]
    assert [view.tile for view in views] == [256, 512]
