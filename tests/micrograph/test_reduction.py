"""Reduction: JPEGs decoded no larger than a network sees them, in place, and figures that no format changes."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.picture_files import BIG, FILES, WHOLE_AND_REDUCED, encode, smooth

from spermseg.micrograph.decode import Micrograph, decode_micrograph
from spermseg.micrograph.quality import measure_quality
from spermseg.micrograph.reduction import exact_reduction, figure_pixels
from spermseg.micrograph.tiling import Tiles, View, WholeFrame, resize
from spermseg.synthetic.draw import draw_micrograph

sides = st.integers(1, 3000)
shapes = st.tuples(sides, sides)
views = st.one_of(
    st.builds(Tiles, scale=st.floats(0.01, 1.0), tile=st.just(16), halo=st.just(0)),
    st.sampled_from([WholeFrame(size=size) for size in (16, 64, 256, 512)]),
)
REDUCING = {2: WHOLE_AND_REDUCED["half"], 4: WHOLE_AND_REDUCED["quarter"], 8: WHOLE_AND_REDUCED["eighth"]}
reducing = pytest.mark.parametrize(("by", "view"), REDUCING.items(), ids=str)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode("JPEG", BIG, exif=exif, quality=95)


@given(shapes, views)
def test_a_reduction_leaves_no_rest_and_no_less_than_the_network_sees_and_no_larger_one_does(native, view):
    working = view.working_shape(native)
    by = exact_reduction(native, working)

    def usable(factor: int) -> bool:
        divides = all(side % factor == 0 for side in native)
        return divides and all(side // factor >= least for side, least in zip(native, working, strict=True))

    assert by == 1 or usable(by)
    assert not any(usable(factor) for factor in (2, 4, 8) if factor > by)


@pytest.mark.parametrize(
    ("native", "view", "by"),
    [
        ((1024, 1280), Tiles(), 2),
        ((1024, 1280), Tiles(scale=1.0), 1),
        ((1024, 1280), Tiles(scale=0.3), 2),
        ((1024, 1280), WholeFrame(size=256), 4),
        ((3888, 5184), WholeFrame(size=256), 8),
        ((1024, 1281), Tiles(), 1),
        ((240, 320), WholeFrame(size=256), 1),
    ],
    ids=str,
)
def test_pictures_of_cameras_are_reduced_as_the_recipes_see_them(native: tuple[int, int], view: View, by: int):
    assert exact_reduction(native, view.working_shape(native)) == by


@reducing
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_the_mean_of_the_pixels_that_each_of_its_own_stands_for_however_it_lies(
    orientation, by, view
):
    whole, reduced = decode_micrograph(turned(orientation)), decode_micrograph(turned(orientation), view=view)
    assert (reduced.reduction, reduced.native_shape) == (by, whole.native_shape)
    height, width = whole.native_shape
    mean = whole.pixels.reshape(height // by, by, width // by, by, 3).mean(axis=(1, 3))
    assert np.abs(reduced.pixels - mean).mean() < 1.5
    # half a pixel aside it would be another picture
    aside = np.roll(whole.pixels, by, axis=1).reshape(height // by, by, width // by, by, 3).mean(axis=(1, 3))
    assert np.abs(reduced.pixels - mean)[:, 1:].mean() < np.abs(reduced.pixels - aside)[:, 1:].mean() / 4


@reducing
@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("JPEG")])
def test_every_kind_of_jpeg_is_reduced_to_a_part_without_a_rest(name, by, view):
    found = decode_micrograph(FILES[name], view=view)
    assert found.reduction == min(by, 4), "84 x 60"
    assert found.native_shape == (60, 84)
    mean = resize(decode_micrograph(FILES[name]).pixels, found.pixels.shape[:2])
    assert np.abs(found.pixels.astype(int) - mean).mean() < 4


@reducing
def test_a_cmyk_jpeg_is_reduced_as_any_other(by, view):
    data = encode("JPEG", BIG.convert("CMYK"), quality=95, subsampling=0)
    found = decode_micrograph(data, view=view)
    assert found.reduction == by
    assert np.abs(found.pixels.astype(int) - resize(np.asarray(BIG), found.pixels.shape[:2])).mean() < 4


@given(sides.filter(lambda side: side < 200), sides.filter(lambda side: side < 200), st.sampled_from(sorted(REDUCING)))
@settings(max_examples=40, deadline=None)
def test_a_jpeg_of_any_size_has_the_native_shape_of_its_header(height, width, by):
    data = encode("JPEG", Image.fromarray(smooth(height, width)))
    found = decode_micrograph(data, view=REDUCING[by])
    assert found.native_shape == (height, width)
    assert found.reduction == 1 or (height % found.reduction, width % found.reduction) == (0, 0)


@reducing
@pytest.mark.parametrize("name", ["PNG", "TIFF", "TIFF JPEG", "BMP"])
def test_other_formats_are_decoded_whole(name, by, view):
    found = decode_micrograph(FILES[name], view=view)
    assert found.reduction == 1
    assert np.array_equal(found.pixels, decode_micrograph(FILES[name]).pixels)


@given(shapes.filter(lambda shape: shape[0] * shape[1] < 250_000), views)
@settings(max_examples=60, deadline=None)
def test_figures_are_measured_at_one_resolution_however_the_picture_was_decoded(native, view):
    working = view.working_shape(native)
    found = set()
    for by in {1, exact_reduction(native, working)}:
        pixels = np.zeros((native[0] // by, native[1] // by, 3), np.uint8)
        found.add(figure_pixels(pixels, by, working).shape)
    assert len(found) == 1
    assert all(figures == 1 or figures <= side // 2 for figures, side in zip(found.pop(), native, strict=False))


@pytest.mark.parametrize("view", [Tiles(), WholeFrame(size=256), Tiles(scale=1.0)], ids=str)
def test_the_figures_of_a_picture_are_nearly_the_same_in_every_format_and_size_that_cannot_be_divided(view: View):
    pixels = draw_micrograph(3).pixels
    jpeg = encode("JPEG", Image.fromarray(pixels), quality=98, subsampling=0)
    odd = encode("JPEG", Image.fromarray(pixels[:-1, :-1]), quality=98, subsampling=0)
    figures = [
        asdict(measure_quality(figure_pixels(one.pixels, one.reduction, view.working_shape(one.native_shape))))
        for one in (
            decode_micrograph(encode("PNG", Image.fromarray(pixels), compress_level=1), view=view),
            decode_micrograph(jpeg, view=view),
            decode_micrograph(odd, view=view),
        )
    ]
    for other in figures[1:]:
        assert other["focus"] == pytest.approx(figures[0]["focus"], rel=0.05)
        assert other["brightness"] == pytest.approx(figures[0]["brightness"], abs=0.5)
        assert other["unevenness"] == pytest.approx(figures[0]["unevenness"], abs=0.02)


def test_a_patch_that_is_saturated_counts_and_a_single_pixel_is_lost_in_the_mean():
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[10, 10] = 255
    pixels[32:48, 32:48] = 255
    figures = figure_pixels(pixels, 1, (32, 32))
    assert measure_quality(figures).saturated_fraction == 16 * 16 / 64**2


def test_a_picture_that_was_not_reduced_is_native():
    assert Micrograph(pixels=np.zeros((3, 5, 3), np.uint8)).native_shape == (3, 5)
    assert Micrograph(pixels=np.zeros((3, 5, 3), np.uint8), reduction=4).native_shape == (12, 20)
