import io
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from spermseg.errors import ConfigError, ShapeError
from spermseg.report import figures

SHAPE = (24, 32)
masks = npst.arrays(np.bool_, SHAPE)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (*shape, 3), dtype=np.uint8)


@given(mask=masks, thickness=st.integers(1, 4))
def test_an_outline_hides_no_pixel_of_a_cell_and_stays_near_it(mask, thickness):
    pixels = noise()
    drawn = figures.overlay(pixels, mask, colour=(255, 0, 255), thickness=thickness)
    changed = (drawn != pixels).any(axis=2)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * thickness + 1,) * 2)).astype(bool)
    touching = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))).astype(bool)
    assert not changed[mask].any()
    assert not changed[~near].any()
    assert changed[touching & ~mask].all()


def test_an_outline_leaves_its_input_alone():
    pixels, mask = noise(), np.eye(*SHAPE, dtype=bool)
    before = pixels.copy()
    figures.overlay(pixels, mask)
    assert np.array_equal(pixels, before)


@given(predicted=masks, truth=masks)
def test_each_pixel_shows_what_the_two_masks_say_of_it(predicted, truth):
    black = np.zeros((*SHAPE, 3), np.uint8)
    drawn = figures.agreement(black, predicted, truth, legend=False)
    regions = (predicted & truth, predicted & ~truth, ~predicted & truth)
    for region, (_, colour) in zip(regions, figures.AGREEMENT_LEGEND, strict=True):
        hue = np.array(colour) / max(colour)
        assert np.allclose(drawn[region] / max(1, drawn[region].max(initial=0)), hue, atol=0.02)
    assert not drawn[~predicted & ~truth].any()


@pytest.mark.parametrize("width", [3, 40, 450, 1280])
def test_the_legend_is_a_strip_below_the_unchanged_picture(width):
    pixels, empty = noise((30, width)), np.zeros((30, width), bool)
    bare = figures.agreement(pixels, empty, empty, legend=False)
    named = figures.agreement(pixels, empty, empty)
    assert np.array_equal(named[:30], bare)
    assert named.shape[1:] == (width, 3)
    strip = named[30:].reshape(-1, 3).tolist()
    assert all(list(colour) in strip for _, colour in figures.AGREEMENT_LEGEND)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 200), wide=st.integers(1, 200), width=st.integers(1, 150))
def test_a_jpeg_is_never_wider_than_asked_nor_larger_than_the_picture(height, wide, width):
    size = Image.open(io.BytesIO(figures.encode_jpeg(noise((height, wide)), width))).size
    assert size[0] == min(width, wide)
    assert math.isclose(size[1], height * size[0] / wide, abs_tol=1)


def test_a_jpeg_keeps_the_order_of_the_colours():
    red = np.full((16, 16, 3), (250, 10, 10), np.uint8)
    pixel = np.asarray(Image.open(io.BytesIO(figures.encode_jpeg(red, 16))))[8, 8]
    assert np.abs(pixel.astype(int) - (250, 10, 10)).max() < 6


@pytest.mark.parametrize(
    ("pixels", "mask"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool)),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), bool)),
        (np.zeros((0, 5, 3), np.uint8), np.zeros((0, 5), bool)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), bool)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)),
    ],
)
def test_pictures_and_masks_that_do_not_fit_are_refused(pixels, mask):
    with pytest.raises(ShapeError, match="is needed"):
        figures.overlay(pixels, mask)
    with pytest.raises(ShapeError, match="is needed"):
        figures.agreement(pixels, mask, mask)


def test_settings_that_draw_nothing_are_refused():
    with pytest.raises(ConfigError, match="outline of 0 px"):
        figures.overlay(noise(), np.zeros(SHAPE, bool), thickness=0)
    with pytest.raises(ConfigError, match="width of 0 px"):
        figures.encode_jpeg(noise(), 0)
    with pytest.raises(ConfigError, match="no picture"):
        figures.comparison_figure([])


def test_a_comparison_has_a_row_of_four_for_each_picture(drawn_axes):
    item = {"pixels": noise(), "truth": np.eye(*SHAPE, dtype=bool), "predicted": np.ones(SHAPE, bool)}
    names = ["best: a$^$.jpg", "median: " + "b" * 200]
    png = figures.comparison_figure([figures.Comparison(name=name, dice=0.4321, **item) for name in names])
    titles = [axes.get_title("left") for axes in drawn_axes[-1]]
    assert titles[0] == "best: a$^$.jpg\nDice 0.432"
    assert titles[1:4] == ["truth", "prediction", "agreement"]
    assert len(titles) == 8
    assert len(titles[4]) < 60
    assert Image.open(io.BytesIO(png)).width > 1000
