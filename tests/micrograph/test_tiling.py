"""Tiling: the laws of split and stitch over every shape, tile, halo and scale; masks; settings that cannot be used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spermseg.errors import ConfigError
from spermseg.micrograph.tiling import ALIGNMENT, Tiles, View, WholeFrame, resize, to_native
from spermseg.model.unet_config import UNetConfig
from spermseg.recipes import recipe

lengths = st.integers(1, 300)
shapes = st.tuples(lengths, lengths)
small_shapes = st.tuples(st.integers(1, 100), st.integers(1, 100))


@st.composite
def tilings(draw: st.DrawFn) -> Tiles:
    halo = draw(st.integers(0, 4))
    return Tiles(
        scale=draw(st.floats(0.05, 1.0)),
        tile=ALIGNMENT * draw(st.integers(2 * halo + 1, 2 * halo + 6)),
        halo=ALIGNMENT * halo,
    )


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(deadline=None)
@given(tilings(), shapes, st.integers(1, 200_000))
def test_windows_are_tiles_where_the_halo_is_short_of_the_reach_and_else_as_large_as_allowed(view, shape, window_px):
    short = view.layout(shape, reach=view.halo + 1, window_px=window_px)
    assert short.window == (view.tile, view.tile)
    long = view.layout(shape, reach=view.halo, window_px=window_px)
    assert long.padded == short.padded
    height, width = long.window
    assert height * width <= window_px or long.window == (2 * view.halo + ALIGNMENT,) * 2
    if long.padded[0] * long.padded[1] <= window_px:
        assert long.window == long.padded


@settings(deadline=None)
@given(tilings(), shapes)
def test_the_working_resolution_keeps_the_aspect_and_masks_fit_pictures(view, shape):
    working = view.working_pixels(noise((*shape, 3)))
    assert working.shape == (max(1, round(shape[0] * view.scale)), max(1, round(shape[1] * view.scale)), 3)
    assert working.shape[:2] == view.working_shape(shape)
    assert view.working_mask(np.ones(shape, bool)).shape == working.shape[:2]


@settings(deadline=None)
@given(shapes)
def test_a_whole_frame_is_one_square_window(shape):
    view = WholeFrame(size=32)
    working = view.working_pixels(noise((*shape, 3)))
    layout = view.layout(view.working_shape(shape), reach=107, window_px=1)
    (tile,) = layout.split(working)
    assert tile.shape == (32, 32, 3)
    assert np.array_equal(tile, working)


def test_a_whole_frame_says_by_how_much_it_shrinks_the_papers_pictures():
    view, native = WholeFrame(size=256), (2056, 2452)
    height, width = np.divide(view.working_shape(native), native)
    assert view.scale == pytest.approx((height * width) ** 0.5)
    assert WholeFrame(size=4096).scale == 1


@pytest.mark.parametrize("view", [WholeFrame(size=32), Tiles(scale=0.5, tile=32, halo=0)], ids=str)
@settings(deadline=None)
@given(shape=shapes, full=st.booleans())
def test_an_empty_mask_stays_empty_and_a_full_one_full(view: View, shape, full):
    assert (view.working_mask(np.full(shape, full)) == full).all()


@settings(deadline=None)
@given(arrays(bool, (20, 24)))
def test_a_working_pixel_is_in_when_at_least_half_of_what_it_covers_is(mask):
    covered = mask.reshape(10, 2, 12, 2).mean(axis=(1, 3))
    assert np.array_equal(Tiles(scale=0.5, tile=32, halo=0).working_mask(mask), covered >= 0.5)


@settings(deadline=None)
@given(arrays(np.uint8, (12, 16, 3)))
def test_shrinking_takes_the_mean_of_what_a_pixel_covers(pixels):
    mean = pixels.reshape(4, 3, 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize(pixels, (4, 4)) - mean).max() <= 0.5 + 1e-6


@settings(deadline=None)
@given(small_shapes, small_shapes)
def test_a_map_brought_to_native_keeps_its_range_and_a_flat_one_its_value(shape, native):
    probability = noise(shape).astype(np.float32) / 255
    found = to_native(probability, native)
    assert found.shape == native
    assert found.dtype == np.float32
    assert probability.min() - 1e-6 <= found.min() <= found.max() <= probability.max() + 1e-6
    assert np.allclose(to_native(np.full(shape, 0.3, np.float32), native), 0.3)


@pytest.mark.parametrize(
    ("view", "wrong"),
    [
        (Tiles, {"scale": 0}),
        (Tiles, {"scale": 1.5}),
        (Tiles, {"scale": float("nan")}),
        (Tiles, {"tile": 500}),
        (Tiles, {"halo": 100}),
        (Tiles, {"halo": -16}),
        (WholeFrame, {"size": 0}),
        (WholeFrame, {"size": 250}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_say_what_is_needed(view, wrong):
    with pytest.raises(ConfigError, match=r"^got .* is needed$"):
        view(**wrong)


def test_tiles_of_which_the_halos_leave_nothing_are_of_use_only_where_these_cover_the_reach():
    view = Tiles(scale=1.0, tile=224, halo=112)
    assert view.layout((1000, 1000), reach=107, window_px=512**2).window[0] > 224
    with pytest.raises(ConfigError, match=r"^got tile 224, halo 112 and a network that sees 219 px .* is needed$"):
        view.layout((1000, 1000), reach=219, window_px=512**2)


def test_the_default_halo_is_the_least_that_covers_the_reach_of_the_paper_network():
    assert Tiles().halo == -(-UNetConfig().reach // ALIGNMENT) * ALIGNMENT
    clinic = recipe("clinic")
    assert isinstance(clinic.view, Tiles)
    assert clinic.view.halo >= clinic.network.reach
