"""Which bits of 16 a camera used, and what of a picture does not count in telling it."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.picture_files import encode_tiff, smooth

from spermseg.micrograph.decode import decode_micrograph
from spermseg.micrograph.depth import SENSOR_BITS, Depth, find_depth, highest_8_bits

TOP = 65535
HEIGHT, WIDTH = 120, 160
BRIGHT_FIELD = smooth(HEIGHT, WIDTH)[..., 1] // 2 + 120
"""Of 8 bits: its background is bright."""


def camera(bits: int) -> np.ndarray:
    return BRIGHT_FIELD.astype(np.uint16) << (bits - 8)


def dark_field(bits: int, radius: int, brightest: float, blur: float = 2.0) -> np.ndarray:
    """Return a picture of glowing discs on black, as a lens draws them; what is too bright is saturated."""
    drawn = np.zeros((HEIGHT, WIDTH), np.float32)
    for x in range(20, WIDTH, 40):
        cv2.circle(drawn, (x, HEIGHT // 2), radius, brightest, -1)
    drawn = cv2.GaussianBlur(drawn, (0, 0), blur) + 0.01
    noise = np.random.default_rng(0).normal(0, 0.002, drawn.shape)
    return ((drawn + noise).clip(0, 1) * (2**bits - 1)).astype(np.uint16)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(SENSOR_BITS),
    st.integers(0, HEIGHT - 1),
    st.integers(0, WIDTH - 1),
    st.integers(0, TOP),
    st.sampled_from([(HEIGHT, WIDTH), (20, 24)]),
)
def test_one_pixel_whatever_its_value_changes_no_other(bits, y, x, value, shape):
    calm = camera(bits)[: shape[0], : shape[1]].copy()
    hot = calm.copy()
    hot[y % shape[0], x % shape[1]] = value
    others = np.ones(calm.shape, bool)
    others[y % shape[0], x % shape[1]] = False
    before, after = (highest_8_bits(one, find_depth(one)) for one in (calm, hot))
    assert np.array_equal(before[others], after[others])
    assert np.array_equal(before, BRIGHT_FIELD[: shape[0], : shape[1]])


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("value", [TOP, 60000])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_burned_in_scale_bar_is_set_aside_and_told(bits, antialiased, value, colours):
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.rectangle(drawn, (100, 100), (150, 104), 255, -1)
    cv2.putText(drawn, "20 um", (100, 96), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA if antialiased else 8)
    bar = drawn.astype(float) / 255
    picture = (camera(bits) * (1 - bar) + value * bar).astype(np.uint16)
    depth = find_depth(picture if colours == 1 else np.repeat(picture[..., np.newaxis], colours, axis=2))
    assert depth == Depth(bits=bits, clipped_fraction=np.mean(picture >= 2**bits))
    assert 0 < depth.clipped_fraction < 0.05
    assert np.array_equal(highest_8_bits(picture, depth)[drawn == 0], BRIGHT_FIELD[drawn == 0])
    assert (highest_8_bits(picture, depth)[drawn == 255] == 255).all()


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("radius", [2, 4, 8, 12])
@pytest.mark.parametrize("brightest", [0.6, 1.0, 3.0], ids=["dim", "bright", "saturated"])
def test_what_glows_on_black_is_no_outlier(bits, radius, brightest):
    picture = dark_field(bits, radius, brightest)
    expected = next(one for one in SENSOR_BITS if picture.max() < 2**one)
    assert find_depth(picture) == Depth(bits=expected, clipped_fraction=0.0)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2])
def test_a_picture_of_16_bits_with_saturated_areas_stays_one(share):
    picture = camera(16)
    picture[: int(HEIGHT * share) + 1] = TOP
    assert find_depth(picture) == Depth(bits=16, clipped_fraction=0.0)


def test_as_many_bright_pixels_as_a_picture_has_of_its_own_are_none_to_set_aside():
    picture = camera(12)
    picture[:8] = TOP
    assert find_depth(picture).bits == 16


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"extratags": [(281, 3, 1, 4095, True)]}, 12),
        ({"extratags": [(281, 3, 1, 3700, True)]}, 12),
        ({"extratags": [(281, 3, 1, 65535, True)]}, 10),
        ({"description": '<OME><Pixels ID="Pixels:0" SignificantBits="12" Type="uint16"/></OME>'}, 12),
        ({"description": '<OME><Pixels ID="Pixels:0" SignificantBits="16" Type="uint16"/></OME>'}, 10),
        ({"description": "ImageJ=1.54f\nmin=0.0\nmax=16383.0\n"}, 14),
        ({"description": "ImageJ=1.54f\nmin=0.0\nmax=15000.0\n"}, 10),
        ({"extratags": [(281, 3, 1, 255, True)]}, 10),
        ({}, 10),
    ],
    ids=[
        "MaxSampleValue",
        "the largest of the picture",
        "all that fit",
        "OME-XML",
        "OME-XML, all that fit",
        "ImageJ, a camera's range",
        "ImageJ, some range",
        "what the picture contradicts",
        "nothing",
    ],
)
def test_what_the_file_tells_of_its_camera_counts_before_its_pixels(options, bits):
    found = decode_micrograph(encode_tiff(camera(10), **options))
    assert found.depth == Depth(bits=bits, clipped_fraction=0.0)
    assert np.array_equal(found.pixels[..., 0], camera(10) >> (bits - 8))


def test_what_the_file_tells_counts_where_the_pixels_leave_a_doubt():
    picture = dark_field(16, 4, 1.0)
    assert find_depth(picture).bits == 16
    told = decode_micrograph(encode_tiff(picture, extratags=[(281, 3, 1, 4095, True)]))
    assert told.depth == Depth(bits=12, clipped_fraction=np.mean(picture > 4095))


def test_white_as_0_is_turned_within_the_bits_of_the_camera():
    stored = 4095 - camera(12) - 15
    stored[5, 7] = TOP
    found = decode_micrograph(encode_tiff(stored, photometric="miniswhite"))
    assert found.depth == Depth(bits=12, clipped_fraction=1 / stored.size)
    expected = BRIGHT_FIELD.copy()
    expected[5, 7] = 0
    assert np.array_equal(found.pixels[..., 0], expected)


def test_a_picture_of_8_bits_has_no_depth_to_tell():
    assert decode_micrograph(encode_tiff(BRIGHT_FIELD)).depth is None
