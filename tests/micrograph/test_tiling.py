"""Tiling: the laws of split and stitch over every shape, tile, halo and scale; masks; settings that cannot be used."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spermseg.errors import ConfigError, ShapeError
from spermseg.micrograph.tiling import ALIGNMENT, Tiles, View, WholeFrame, resize, to_native
from spermseg.model.unet import UNetConfig
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


def aligned(working: np.ndarray, view: Tiles) -> np.ndarray:
    """Return the picture as the tiles see it: mirrored below and to the right up to the alignment."""
    sides = [max(-(-side // ALIGNMENT) * ALIGNMENT, view.tile) - side for side in working.shape[:2]]
    return np.pad(working, ((0, sides[0]), (0, sides[1]), (0, 0)), mode="symmetric")


@settings(deadline=None)
@given(tilings(), shapes)
def test_cores_partition_the_picture(view, shape):
    owners = np.zeros(shape, int)
    for window in view.windows(*shape):
        owners[window.core_y, window.core_x] += 1
    assert (owners == 1).all()


@settings(deadline=None)
@given(tilings(), shapes)
def test_a_core_lies_in_its_window_and_keeps_its_halo_at_inner_edges(view, shape):
    for window in view.windows(*shape):
        for span, length in ((window.y, shape[0]), (window.x, shape[1])):
            assert span.read % ALIGNMENT == 0
            assert span.read <= span.core_start < span.core_stop <= span.read + view.tile
            if span.core_start > 0:
                assert span.core_start - span.read >= view.halo
            if span.core_stop < length:
                assert span.read + view.tile - span.core_stop >= view.halo


@settings(deadline=None)
@given(tilings(), shapes)
def test_no_window_reads_beyond_the_aligned_picture_and_none_is_read_twice(view, shape):
    windows = [(window.y.read, window.x.read) for window in view.windows(*shape)]
    assert len(set(windows)) == len(windows)
    for start, side in zip(np.max(windows, axis=0), shape, strict=True):
        assert start + view.tile == max(-(-side // ALIGNMENT) * ALIGNMENT, view.tile)


@settings(deadline=None)
@given(tilings(), shapes)
def test_split_then_stitch_is_the_identity(view, shape):
    working = noise((*shape, 3))
    tiles = view.split(working)
    assert tiles.shape[1:] == (view.tile, view.tile, 3)
    for channel in range(3):
        assert np.array_equal(view.stitch(tiles[..., channel].astype(np.float32), shape), working[..., channel])


@settings(deadline=None)
@given(tilings(), shapes, st.data())
def test_a_tiled_filter_whose_radius_fits_the_halo_equals_the_filter_of_the_whole(view, shape, data):
    radius = data.draw(st.integers(0, view.halo))
    kernel = np.random.default_rng(radius).normal(size=2 * radius + 1)

    def smooth(picture: np.ndarray) -> np.ndarray:
        green = np.ascontiguousarray(picture[..., 1]).astype(np.float64)
        return cv2.sepFilter2D(green, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)

    working = noise((*shape, 3))
    whole = smooth(aligned(working, view))[: shape[0], : shape[1]]
    maps = np.stack([smooth(tile) for tile in view.split(working)]).astype(np.float32)
    assert np.allclose(view.stitch(maps, shape), whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_a_filter_wider_than_the_halo_shows_at_the_seams():
    view = Tiles(scale=1, tile=64, halo=16)
    working = noise((200, 200, 3))
    whole = cv2.blur(aligned(working, view)[..., 1].astype(np.float32), (51, 51))[:200, :200]
    maps = np.stack(
        [cv2.blur(np.ascontiguousarray(tile[..., 1]).astype(np.float32), (51, 51)) for tile in view.split(working)]
    )
    assert not np.allclose(view.stitch(maps, (200, 200)), whole, rtol=1e-3)


@settings(deadline=None)
@given(tilings(), shapes)
def test_the_working_resolution_keeps_the_aspect_and_masks_fit_pictures(view, shape):
    working = view.working_pixels(noise((*shape, 3)))
    assert working.shape == (max(1, round(shape[0] * view.scale)), max(1, round(shape[1] * view.scale)), 3)
    assert view.working_mask(np.ones(shape, bool)).shape == working.shape[:2]


@settings(deadline=None)
@given(shapes)
def test_a_whole_frame_is_one_square_tile_that_stitches_to_itself(shape):
    view = WholeFrame(size=32)
    working = view.working_pixels(noise((*shape, 3)))
    tiles = view.split(working)
    assert tiles.shape == (1, 32, 32, 3)
    assert np.array_equal(view.stitch(tiles[..., 0].astype(np.float32), (32, 32)), working[..., 0])


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


@pytest.mark.parametrize("count", [0, 3, 5])
def test_maps_that_do_not_cover_the_picture_are_refused(count):
    view = Tiles(scale=1, tile=32, halo=0)
    with pytest.raises(ShapeError, match=r"4 tiles cover \(40, 64\)"):
        view.stitch(np.zeros((count, 32, 32), np.float32), (40, 64))
    with pytest.raises(ShapeError, match=r"one of \(32, 32\) is needed"):
        WholeFrame(size=32).stitch(np.zeros((2, 32, 32), np.float32), (32, 32))


@pytest.mark.parametrize(
    ("view", "wrong"),
    [
        (Tiles, {"scale": 0}),
        (Tiles, {"scale": 1.5}),
        (Tiles, {"scale": float("nan")}),
        (Tiles, {"tile": 500}),
        (Tiles, {"halo": 100}),
        (Tiles, {"halo": -16}),
        (Tiles, {"tile": 224, "halo": 112}),
        (WholeFrame, {"size": 0}),
        (WholeFrame, {"size": 250}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_say_what_is_needed(view, wrong):
    with pytest.raises(ConfigError, match=r"^got .* is needed$"):
        view(**wrong)


def test_the_default_halo_is_the_least_that_covers_the_reach_of_the_paper_network():
    assert Tiles().halo == -(-UNetConfig().reach // ALIGNMENT) * ALIGNMENT
    clinic = recipe("clinic")
    assert isinstance(clinic.view, Tiles)
    assert clinic.view.halo >= clinic.network.reach
