"""The predictor: the same maps whatever shares the batch, the same tiled as whole, in order, and no reading ahead."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.untrained import SMALL, trained_looking, working_map

from spermseg.errors import ConfigError, ShapeError
from spermseg.micrograph.decode import Micrograph
from spermseg.micrograph.layout import Shape
from spermseg.micrograph.tiling import Tiles, View, WholeFrame, resize, to_native
from spermseg.model.description import ModelDescription
from spermseg.model.predict import GPU_BATCHES, PredictConfig, Predictor, network_input, predict_working, window_layout
from spermseg.model.saved import SavedModel
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.prefetch import map_ahead

THRESHOLD = 0.5


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


def predictor(view: WholeFrame | Tiles, network: UNet | None = None, *, batch_px: int = 4 * 64**2, **how) -> Predictor:
    network = network or trained_looking(SMALL)
    config = PredictConfig(device="cpu", batch_megapixels=batch_px / 1e6, **({"engine": "torch"} | how))
    return Predictor(saved_model(network, view), view, config)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


TILES = Tiles(scale=1, tile=64, halo=16)
VIEWS = [WholeFrame(size=48), TILES, Tiles(scale=0.5, tile=32, halo=0)]
SIZES = [(50, 130), (64, 64), (1, 1), (97, 33), (200, 16), (48, 48)]


@pytest.mark.parametrize("view", VIEWS, ids=str)
@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.sampled_from(SIZES), max_size=5), batch_px=st.integers(1, 40_000))
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_map_depends_neither_on_the_batch_size_nor_on_its_neighbours_and_the_order_is_kept(
    view, engine, sizes, batch_px
):
    network = trained_looking(SMALL)
    pictures = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    alone = predictor(view, network, batch_px=1)
    together = list(predictor(view, network, batch_px=batch_px, engine=engine).predict(pictures))
    assert len(together) == len(pictures)
    for found, one in zip(together, pictures, strict=True):
        (expected,) = alone.predict([one])
        assert found.shape == one.shape[:2]
        assert np.allclose(found, expected, atol=1e-5)
        near = np.abs(expected - THRESHOLD) < 1e-5
        assert np.array_equal((found >= THRESHOLD) | near, (expected >= THRESHOLD) | near)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.sampled_from(SIZES), max_size=5), batch_px=st.integers(1, 40_000))
def test_a_network_that_works_ahead_in_a_thread_of_its_own_as_a_gpu_does_gives_the_same_maps(sizes, batch_px):
    pictures = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    layout = window_layout(TILES, SMALL, batch_px)

    def forward(tiles: np.ndarray) -> np.ndarray:
        return tiles[..., 0].astype(np.float32)

    with ThreadPoolExecutor(1) as pool:
        ahead = partial(map_ahead, pool, count=GPU_BATCHES)
        found = list(predict_working(forward, layout, pictures, batch_px, ahead))
    assert len(found) == len(pictures)
    assert all(np.array_equal(one, whole[..., 0]) for one, whole in zip(found, pictures, strict=True))


def test_the_maps_of_the_networks_used_here_are_not_flat():
    (found,) = predictor(TILES).predict([picture(100, 100)])
    assert found.std() > 0.1
    assert 0.2 < (found >= THRESHOLD).mean() < 0.8


@pytest.mark.parametrize("shape", [(64, 160), (300, 97), (20, 20)])
def test_tiles_whose_halo_covers_the_reach_give_the_map_of_the_whole_picture(shape):
    network = trained_looking(SMALL)
    view = Tiles(scale=1, tile=96, halo=32)
    assert view.halo >= network.config.reach
    found = working_map(predictor(view, network), picture(*shape))
    assert np.allclose(found, whole_map(network, picture(*shape), view), atol=1e-5)


def test_tiles_of_the_default_halo_give_the_map_of_the_whole_picture_with_the_paper_network():
    network = trained_looking(UNetConfig())
    view = Tiles(scale=1, tile=240)
    found = working_map(predictor(view, network), picture(32, 300))
    assert np.allclose(found, whole_map(network, picture(32, 300), view), atol=1e-5)


def test_windows_of_a_deeper_network_lie_on_its_own_grid():
    network = trained_looking(UNetConfig(filters=(2, 2, 2, 2, 2), bridge=3))
    view = Tiles(scale=1, tile=480, halo=224)
    assert (network.config.multiple, network.config.reach <= view.halo) == (32, True)
    pixels = picture(530, 760)
    found = working_map(predictor(view, network, batch_px=480 * 544), pixels)
    assert np.allclose(found, whole_map(network, pixels, view, multiple=32), atol=1e-5)


def test_a_halo_short_of_the_reach_shows_at_the_seams():
    network = trained_looking(SMALL)
    view = Tiles(scale=1, tile=48, halo=0)
    found = working_map(predictor(view, network), picture(96, 96))
    assert not np.allclose(found, whole_map(network, picture(96, 96), view), atol=1e-3)


def whole_map(network: UNet, pixels: np.ndarray, view: Tiles, multiple: int = 16) -> np.ndarray:
    """Return the map of a picture in one piece, mirrored up to the alignment as the tiles are."""
    height, width = pixels.shape[:2]
    sides = [max(-(-side // multiple) * multiple, view.tile) - side for side in (height, width)]
    padded = np.pad(pixels, ((0, sides[0]), (0, sides[1]), (0, 0)), mode="symmetric")
    with torch.inference_mode():
        logits = network(network_input(torch.from_numpy(padded[np.newaxis])))
    return torch.sigmoid(logits)[0, 0, :height, :width].numpy()


def test_no_pictures_give_no_maps():
    assert list(predictor(TILES).predict([])) == []


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_map_of_one_picture_at_working_resolution_is_what_is_brought_to_native(view):
    one = picture(100, 150)
    model = predictor(view)
    working = working_map(model, one)
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
    (expected,) = predictor(view).predict_working([working])
    assert np.array_equal(found, to_native(expected, found.shape))


def test_the_cell_and_its_head_are_two_of_the_parts():
    network = trained_looking(UNetConfig(filters=(4, 6), bridge=8, classes=("cell", "head", "tail")))
    saved, config = saved_model(network, TILES), PredictConfig(device="cpu", engine="torch")
    parts = Predictor(saved, TILES, config, parts=True).predict_parts(picture(90, 120))
    (both,) = Predictor(saved, TILES, config, heads=True).predict_working([picture(90, 120)])
    np.testing.assert_allclose(both, [parts["cell"], parts["head"]], atol=1e-6)


def test_a_network_that_knows_no_heads_cannot_say_where_they_are():
    with pytest.raises(ConfigError, match="has learned cell; dropping components without a head needs the class head"):
        Predictor(saved_model(trained_looking(SMALL), TILES), TILES, heads=True)


def test_the_cell_is_as_probable_as_its_likeliest_part():
    config = UNetConfig(filters=(4,), bridge=4, classes=("head", "tail"))
    network = trained_looking(config)
    one = picture(48, 48)
    found = working_map(predictor(WholeFrame(size=48), network), one)
    with torch.inference_mode():
        parts = torch.sigmoid(network(network_input(torch.from_numpy(one[np.newaxis]))))[0]
    assert np.allclose(found, parts.amax(dim=0).numpy(), atol=1e-5)
    assert np.array_equal(found, next(predictor(WholeFrame(size=48), network).predict([one])))
    assert not np.allclose(found, parts[0].numpy(), atol=1e-2)


@pytest.mark.parametrize("batch_px", [1, 64**2, 4 * 64**2, 16 * 64**2])
@pytest.mark.parametrize("size", [(48, 48), (64, 130)])
def test_pictures_are_read_no_further_ahead_than_a_batch_needs(batch_px, size):
    layout = window_layout(TILES, SMALL, batch_px)(size)
    read = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal read
        for number in range(40):
            read += 1
            yield picture(*size, seed=number)

    maps = predictor(TILES, batch_px=batch_px).predict(pictures())
    for done, _ in enumerate(maps):
        assert read - done <= -(-batch_px // layout.pixels) + 1
    assert read == 40


@settings(deadline=None)
@given(st.lists(st.sampled_from(SIZES), max_size=12), st.integers(1, 5))
def test_batches_are_full_but_where_the_windows_change_their_shape_and_tiles_come_in_order(sizes, windows):
    batches: list[tuple[int, Shape]] = []
    batch_px = windows * TILES.tile**2

    def forward(tiles: np.ndarray) -> np.ndarray:
        batches.append((len(tiles), tiles.shape[1:3]))
        return tiles[..., 0].astype(np.float32)

    def layout(shape: Shape):
        return TILES.layout(shape, reach=TILES.halo + (shape[0] % 2), window_px=batch_px)

    pictures = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    maps = list(predict_working(forward, layout, pictures, batch_px))
    assert [np.array_equal(m, p[..., 0]) for m, p in zip(maps, pictures, strict=True)] == [True] * len(sizes)
    for (count, shape), (_, after) in pairwise(batches):
        assert shape != after or (count + 1) * shape[0] * shape[1] > batch_px
    assert all(count == 1 or count * shape[0] * shape[1] <= batch_px for count, shape in batches)
    assert sum(count for count, _ in batches) == sum(len(layout(size)) for size in sizes)


def test_maps_of_several_classes_are_stitched_as_well():
    def forward(tiles: np.ndarray) -> np.ndarray:
        return np.moveaxis(tiles, -1, 1).astype(np.float32)

    one = picture(97, 130)
    (found,) = predict_working(forward, window_layout(TILES, SMALL, 1), [one], 1)
    assert np.array_equal(found, np.moveaxis(one, -1, 0))


def test_windows_that_the_network_cannot_halve_are_refused():
    with pytest.raises(ShapeError, match="got 48 x 48 px; multiples of 32 are needed, for example 64 x 64"):
        window_layout(WholeFrame(size=48), UNetConfig(filters=(2,) * 5), 1)((48, 48))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_half_precision_moves_a_probability_by_a_few_hundredths_at_most(engine):
    network = trained_looking(SMALL)
    one = picture(100, 100)
    found = working_map(predictor(TILES, network, engine=engine, precision="bfloat16"), one)
    exact = working_map(predictor(TILES, network), one)
    assert np.abs(found - exact).max() < 0.1
    assert np.abs(found - exact).mean() < 0.01
    if engine == "torch":  # OpenVINO takes float32 where the processor has no bfloat16
        assert not np.array_equal(found, exact)


def test_the_network_sees_colours_from_0_to_1_without_a_copy_of_the_layout():
    tiles = torch.from_numpy(np.stack([picture(16, 32), picture(16, 32, seed=1)]))
    x = network_input(tiles)
    assert x.shape == (2, 3, 16, 32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x[1, 2], tiles[1, :, :, 2] / 255)


@pytest.mark.parametrize("wrong", [0, -1, 1001, float("nan")])
def test_a_batch_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="more than 0 and at most 1000 is needed"):
        PredictConfig(batch_megapixels=wrong)


def test_a_precision_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="one of auto, float32, bfloat16 is needed"):
        PredictConfig(precision="float16")


def test_every_view_is_a_view():
    views: list[View] = [WholeFrame(), Tiles()]
    assert [view.tile for view in views] == [256, 512]
