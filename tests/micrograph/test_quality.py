"""Quality: the laws of each figure, the cheap figures against plain definitions, and pictures of any size."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spermseg.micrograph.quality import measure_quality

PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


@settings(deadline=None)
@given(PICTURES)
def test_figures_are_finite_and_in_their_range_for_a_picture_of_any_size(pixels):
    quality = measure_quality(pixels)
    assert 0 <= quality.focus < np.inf
    assert 0 <= quality.brightness <= 255
    assert 0 <= quality.saturated_fraction <= 1
    assert 0 <= quality.unevenness < np.inf


@settings(deadline=None)
@given(arrays(np.uint8, (12, 9, 3), elements=st.sampled_from([0, 1, 254, 255])))
def test_the_saturated_share_counts_pixels_black_or_white_in_every_channel(pixels):
    extreme = (pixels == 0).all(axis=2) | (pixels == 255).all(axis=2)
    assert measure_quality(pixels).saturated_fraction == extreme.mean()


@settings(deadline=None)
@given(PICTURES)
def test_focus_is_the_variance_of_the_laplacian_of_green(pixels):
    green = np.pad(pixels[..., 1].astype(float), 1, mode="reflect" if min(pixels.shape[:2]) > 1 else "edge")
    laplacian = green[:-2, 1:-1] + green[2:, 1:-1] + green[1:-1, :-2] + green[1:-1, 2:] - 4 * green[1:-1, 1:-1]
    if min(pixels.shape[:2]) > 1:
        assert measure_quality(pixels).focus == pytest.approx(laplacian.var(), rel=1e-9, abs=1e-9)


def test_blur_lowers_the_focus_the_more_the_stronger_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    blurred = [pixels, *(cv2.GaussianBlur(pixels, (0, 0), sigma) for sigma in (0.6, 1.0, 2.0, 4.0))]
    focus = [measure_quality(picture).focus for picture in blurred]
    assert focus == sorted(focus, reverse=True)
    assert focus[0] > 100 * focus[-1]


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(1, 50), st.integers(1, 50))
def test_a_flat_picture_is_evenly_lit_and_has_no_focus(level, height, width):
    quality = measure_quality(np.full((height, width, 3), level, np.uint8))
    assert quality.unevenness == 0
    assert quality.focus == 0
    assert quality.brightness == pytest.approx(level, abs=1)


@settings(deadline=None)
@given(st.integers(1, 60))
def test_a_gradient_of_light_raises_the_unevenness_by_its_range(fall):
    light = np.linspace(200 - fall, 200, 320)
    pixels = np.repeat(np.tile(light, (240, 1))[..., None], 3, axis=2).round().astype(np.uint8)
    assert measure_quality(pixels).unevenness == pytest.approx(fall / (200 - fall / 2), rel=0.1, abs=0.02)


def test_cells_do_not_count_as_uneven_light():
    pixels = np.full((960, 1280, 3), 220, np.uint8)
    empty = measure_quality(pixels).unevenness
    rng = np.random.default_rng(1)
    for x, y in rng.integers(40, 920, (40, 2)):
        cv2.ellipse(pixels, (int(x), int(y)), (22, 14), 30, 0, 360, (90, 60, 120), -1)
    assert measure_quality(pixels).unevenness - empty < 0.05
