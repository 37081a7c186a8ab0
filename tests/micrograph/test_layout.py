"""Layouts: the laws of split and place over every shape, window and halo; and that no other windows compute less."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.errors import ShapeError
from spermseg.micrograph.layout import ALIGNMENT, Layout, aligned, choose_window

shapes = st.tuples(st.integers(1, 300), st.integers(1, 300))
MOST = 200 * 200


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Windows of any size, over a picture that mirrors beyond its end."""
    shape, halo = draw(shapes), ALIGNMENT * draw(st.integers(0, 4))
    least = 2 * halo + ALIGNMENT
    padded = tuple(aligned(side) + ALIGNMENT * draw(st.integers(0, 2)) for side in shape)
    window = tuple(ALIGNMENT * draw(st.integers(min(least, side) // ALIGNMENT, side // ALIGNMENT)) for side in padded)
    return Layout(shape=shape, padded=padded, window=window, halo=halo)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def padded(picture: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the picture as the windows see it."""
    sides = [wide - side for wide, side in zip(layout.padded, layout.shape, strict=True)]
    return np.pad(picture, ((0, sides[0]), (0, sides[1]), (0, 0)), mode="symmetric")


def stitched(layout: Layout, tiles: list[np.ndarray]) -> np.ndarray:
    whole = np.full((*tiles[0].shape[:-2], *layout.shape), np.nan)
    for number, tile in enumerate(tiles):
        layout.place(number, tile, whole)
    return whole


@settings(deadline=None)
@given(layouts())
def test_cores_partition_the_picture(layout):
    owners = np.zeros(layout.shape, int)
    for row, column in layout.spans:
        owners[row.core, column.core] += 1
    assert (owners == 1).all()
    assert layout.pixels == len(list(layout.spans)) * layout.window[0] * layout.window[1]


@settings(deadline=None)
@given(layouts())
def test_a_core_lies_in_its_window_and_keeps_its_halo_at_inner_edges(layout):
    for spans in layout.spans:
        for span, length, window in zip(spans, layout.shape, layout.window, strict=True):
            assert span.read % ALIGNMENT == 0
            assert span.read <= span.core_start < span.core_stop <= span.read + window
            if span.core_start > 0:
                assert span.core_start - span.read >= layout.halo
            if span.core_stop < length:
                assert span.read + window - span.core_stop >= layout.halo


@settings(deadline=None)
@given(layouts())
def test_no_window_reads_beyond_the_padded_picture_and_none_is_read_twice(layout):
    windows = [(row.read, column.read) for row, column in layout.spans]
    assert len(set(windows)) == len(windows) == len(layout)
    for start, side, window in zip(np.max(windows, axis=0), layout.padded, layout.window, strict=True):
        assert start + window <= side


@settings(deadline=None)
@given(layouts())
def test_split_then_place_is_the_identity(layout):
    picture = noise((*layout.shape, 3))
    tiles = list(layout.split(picture))
    assert {tile.shape for tile in tiles} == {(*layout.window, 3)}
    assert np.array_equal(stitched(layout, [np.moveaxis(tile, -1, 0) for tile in tiles]), np.moveaxis(picture, -1, 0))


def smooth(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    green = np.ascontiguousarray(picture[..., 1]).astype(np.float64)
    return cv2.sepFilter2D(green, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


@settings(deadline=None)
@given(layouts(), st.data())
def test_a_filter_whose_radius_fits_the_halo_equals_the_filter_of_the_whole(layout, data):
    radius = data.draw(st.integers(0, layout.halo))
    kernel = np.random.default_rng(radius).normal(size=2 * radius + 1)
    picture = noise((*layout.shape, 3))
    whole = smooth(padded(picture, layout), kernel)[: layout.shape[0], : layout.shape[1]]
    found = stitched(layout, [smooth(tile, kernel) for tile in layout.split(picture)])
    assert np.allclose(found, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_a_filter_wider_than_the_halo_shows_at_the_seams():
    layout = Layout(shape=(200, 200), padded=(208, 208), window=(64, 64), halo=16)
    picture, kernel = noise((200, 200, 3)), np.ones(51) / 51
    found = stitched(layout, [smooth(tile, kernel) for tile in layout.split(picture)])
    assert not np.allclose(found, smooth(padded(picture, layout), kernel)[:200, :200], rtol=1e-3)


def computed(padded_shape: tuple[int, int], window: tuple[int, int], halo: int) -> int:
    return Layout(shape=padded_shape, padded=padded_shape, window=window, halo=halo).pixels


def test_more_windows_than_are_needed_may_waste_less():
    assert computed((144, 144), choose_window((144, 144), 0, 512), 0) == 144 * 144


@settings(deadline=None)
@given(
    st.tuples(st.integers(9, 24), st.integers(9, 24)),
    st.integers(0, 4),
    st.integers(1, MOST),
    st.sampled_from([ALIGNMENT, 2 * ALIGNMENT]),
    st.data(),
)
def test_no_other_allowed_windows_compute_fewer_pixels(blocks, halo_blocks, most, multiple, data):
    shape, halo = (multiple * blocks[0], multiple * blocks[1]), multiple * halo_blocks
    chosen = choose_window(shape, halo, most, multiple)
    assert not any(side % multiple for side in chosen)
    least = 2 * halo_blocks + 1
    other = tuple(multiple * data.draw(st.integers(least, side)) for side in blocks)
    if other[0] * other[1] <= most:
        assert computed(shape, chosen, halo) <= computed(shape, other, halo)
        assert chosen[0] * chosen[1] <= most


def test_a_large_picture_is_read_through_few_large_windows():
    layout = Layout(shape=(1028, 1228), padded=(1040, 1232), window=choose_window((1040, 1232), 112, 10**6), halo=112)
    assert layout.window == (1040, 736)
    assert len(layout) == 2


def test_a_picture_of_another_shape_is_refused():
    layout = Layout(shape=(40, 64), padded=(48, 64), window=(48, 64), halo=0)
    with pytest.raises(ShapeError, match=r"got a picture \(64, 40\); \(40, 64\) is needed"):
        next(layout.split(noise((64, 40, 3))))
