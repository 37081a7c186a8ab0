"""One pixel rule: laws first, then fidelity against exact areas, then examples."""

import io
import tracemalloc
from fractions import Fraction
from math import cos, pi, sin

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from spermseg.annotation.rasterise import Bitmap, Ellipse, Polygon, RunLength, rasterise
from spermseg.errors import AnnotationError

SIZE = 24
# Fractions of 2, some outside the picture: centres then often lie exactly on edges.
coordinate = st.integers(-4 * 8, (SIZE + 4) * 8).map(lambda eighths: eighths / 8)
vertices = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8)


def mask_of(points, height=SIZE, width=SIZE):
    return rasterise([Polygon(points=tuple(points))], height, width)


def is_inside(points, x, y):
    """Even-odd by rational arithmetic: count the edges that cross the row to the left of, or at, the centre."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        low, high = sorted((Fraction(y0), Fraction(y1)))
        if low <= y < high:
            crossing = Fraction(x0) + (y - Fraction(y0)) * (Fraction(x1) - Fraction(x0)) / (Fraction(y1) - Fraction(y0))
            crossings += crossing <= x
    return crossings % 2 == 1


@settings(max_examples=60, deadline=None)
@given(vertices)
def test_a_pixel_belongs_to_a_polygon_exactly_when_its_centre_lies_inside(points):
    half = Fraction(1, 2)
    exact = [[is_inside(points, x + half, y + half) for x in range(12)] for y in range(10)]
    np.testing.assert_array_equal(mask_of(points, 10, 12), exact)


@settings(max_examples=60, deadline=None)
@given(vertices, st.integers(0, 7))
def test_neither_direction_nor_first_vertex_matters(points, start):
    start %= len(points)
    np.testing.assert_array_equal(mask_of(points), mask_of(points[::-1]))
    np.testing.assert_array_equal(mask_of(points), mask_of(points[start:] + points[:start]))


@settings(max_examples=60, deadline=None)
@given(st.tuples(coordinate, coordinate), st.integers(3, 9), st.data())
def test_polygons_that_share_edges_neither_share_nor_lose_a_pixel(centre, number, data):
    angles = [2 * pi * index / number for index in range(number)]
    radii = data.draw(st.lists(st.floats(1, 12), min_size=number, max_size=number))
    rim = [
        (centre[0] + radius * cos(angle), centre[1] + radius * sin(angle))
        for radius, angle in zip(radii, angles, strict=True)
    ]
    fan = [mask_of([centre, rim[index - 1], rim[index]]).astype(int) for index in range(number)]
    np.testing.assert_array_equal(sum(fan), mask_of(rim).astype(int))


@settings(max_examples=60, deadline=None)
@given(vertices, st.integers(-30, 30), st.integers(-30, 30))
def test_a_shift_by_whole_pixels_shifts_the_mask(points, right, down):
    shifted = mask_of([(x + right + 40, y + down + 40) for x, y in points], 110, 110)
    original = mask_of([(x + 40, y + 40) for x, y in points], 110, 110)
    np.testing.assert_array_equal(shifted, np.roll(original, (down, right), (0, 1)))


@settings(max_examples=60, deadline=None)
@given(vertices)
def test_the_mask_of_a_crop_is_the_crop_of_the_mask(points):
    np.testing.assert_array_equal(mask_of(points, 10, 13), mask_of(points)[:10, :13])


OFFSETS = [(x / 8 + 0.03, y / 8 + 0.05) for x in range(8) for y in range(8)]


def exact_area(points):
    x, y = np.array(points).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def areas_at_offsets(points):
    return np.array([mask_of([(x + dx, y + dy) for x, y in points], 64, 64).sum() for dx, dy in OFFSETS])


def ribbon(width, length, angle, centre=(31.0, 31.0)):
    along, across = np.array([cos(angle), sin(angle)]), np.array([-sin(angle), cos(angle)])
    corners = [
        (-length / 2, -width / 2),
        (length / 2, -width / 2),
        (length / 2, width / 2),
        (-length / 2, width / 2),
    ]
    return [tuple(np.array(centre) + u * along + v * across) for u, v in corners]


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([(8, 8), (40.5, 13.25), (30, 47.75)], id="triangle"),
        pytest.param([(10, 10), (50, 10), (50, 50), (30, 20), (10, 50)], id="concave"),
        pytest.param([(20 + 4 * cos(k), 20 + 3 * sin(k)) for k in np.arange(0, 2 * pi, 0.3)], id="head"),
    ],
)
def test_over_subpixel_offsets_polygons_have_their_exact_area(points):
    areas = areas_at_offsets(points)
    assert areas.mean() == pytest.approx(exact_area(points), rel=0.005)
    assert np.abs(areas - exact_area(points)).max() < 0.1 * exact_area(points)


@pytest.mark.parametrize("radius", [1.5, 3.0, 7.3, 20.0])
def test_over_subpixel_offsets_circles_have_their_exact_area(radius):
    circles = [Ellipse(x=31 + dx, y=31 + dy, radius_x=radius, radius_y=radius) for dx, dy in OFFSETS]
    areas = [rasterise([circle], 64, 64).sum() for circle in circles]
    assert np.mean(areas) == pytest.approx(pi * radius**2, rel=0.015)


@pytest.mark.parametrize("angle", [0.1, 0.5, pi / 4, 1.2])
def test_over_subpixel_offsets_3_px_ribbons_have_their_exact_area(angle):
    areas = areas_at_offsets(ribbon(3, 40, angle))
    assert areas.mean() == pytest.approx(120, rel=0.005)
    assert np.abs(areas - 120).max() < 0.2 * 120  # the worst is at 45 degrees: 4.24 px of a row are 4 or 5 centres


@pytest.mark.parametrize("offset", [0.0, 0.125, 0.5, 0.9, 0.999])
def test_an_upright_3_px_ribbon_is_3_px_wide_at_every_offset(offset):
    mask = mask_of([(5 + offset, 2), (8 + offset, 2), (8 + offset, 20), (5 + offset, 20)])
    assert set(mask[2:20].sum(axis=1)) == {3}
    assert mask.sum() == 3 * 18


def test_truncated_vertices_and_painted_borders_would_make_a_3_px_ribbon_a_quarter_too_large():
    painted = []
    for dx, dy in OFFSETS:
        canvas = np.zeros((64, 64), np.uint8)
        points = np.array(ribbon(3, 40, 0.5)) + np.array([dx, dy])
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
        painted.append(canvas.sum())
    assert np.mean(painted) > 1.25 * 120
    assert areas_at_offsets(ribbon(3, 40, 0.5)).mean() == pytest.approx(120, rel=0.005)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("offset", [0.5, 0.75, 0.9])
def test_truncating_vertices_costs_a_5_px_square_half_its_iou(offset):
    def square(corner):
        return [(corner, corner), (corner + 5, corner), (corner + 5, corner + 5), (corner, corner + 5)]

    centres = np.arange(SIZE) + 0.5
    covered = (centres >= 10 + offset) & (centres < 15 + offset)
    exact = covered[:, None] & covered
    kept = mask_of(square(10 + offset))
    truncated = mask_of(square(10))
    assert iou(kept, exact) == 1
    assert exact.sum() == 25
    if offset > 0.5:  # from there on the nearest whole pixel is the next one
        assert iou(truncated, exact) == pytest.approx(16 / 34)


def test_centres_on_a_shared_edge_belong_to_the_square_whose_left_edge_it_is():
    left, right = mask_of([(2, 2), (6.5, 2), (6.5, 8), (2, 8)]), mask_of([(6.5, 2), (9, 2), (9, 8), (6.5, 8)])
    assert not (left & right).any()
    assert right[2:8, 6].all()
    assert not left[:, 6].any()


def test_a_keyhole_polygon_keeps_its_hole():
    outer, inner = [(2, 2), (20, 2), (20, 20), (2, 20)], [(8, 8), (8, 14), (14, 14), (14, 8)]
    mask = mask_of([*outer, outer[0], *inner, inner[0]])
    assert mask.sum() == 18 * 18 - 6 * 6
    assert not mask[8:14, 8:14].any()


def test_a_rotated_ellipse_is_turned_clockwise_as_shown():
    mask = rasterise([Ellipse(x=12, y=12, radius_x=10, radius_y=2, angle=pi / 4)], SIZE, SIZE)
    assert mask[17, 17]
    assert not mask[6, 17]
    assert mask.sum() == pytest.approx(pi * 20, rel=0.05)


def test_several_shapes_are_a_union_not_a_parity():
    square = Polygon(points=((2, 2), (8, 2), (8, 8), (2, 8)))
    assert rasterise([square, square], SIZE, SIZE).sum() == 36


def test_run_lengths_that_fall_short_are_an_error():
    with pytest.raises(AnnotationError, match=r"add up to 5 px; 3 x 2 = 6 are needed"):
        rasterise([RunLength(width=3, height=2, counts=(2, 3))], 2, 3)


def test_an_absurd_run_length_mask_is_refused_before_it_is_allocated():
    with pytest.raises(AnnotationError, match="1000000000 x 1000000000"):
        rasterise([RunLength(width=10**9, height=10**9, counts=(10**18,))], 2, 3)


def png_of(pixels, text=None):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", pnginfo=text)
    return data.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.integers(-6, SIZE + 6), st.integers(-6, SIZE + 6))
def test_a_bitmap_is_cropped_to_the_picture(x, y):
    pixels = (np.arange(30).reshape(6, 5) % 3 > 0).astype(np.uint8) * 255
    mask = rasterise([Bitmap(x=x, y=y, width=5, height=6, png=png_of(pixels))], SIZE, SIZE)
    expected = np.zeros((SIZE + 24, SIZE + 24), bool)
    expected[y + 12 : y + 18, x + 12 : x + 17] = pixels > 0
    np.testing.assert_array_equal(mask, expected[12:-12, 12:-12])


def test_a_bitmap_of_another_size_than_its_box_or_not_a_png_is_an_error():
    png = png_of(np.ones((6, 5), np.uint8))
    with pytest.raises(AnnotationError, match="a mask of 5 x 6 px in a box of 9 x 6 px"):
        rasterise([Bitmap(x=0, y=0, width=9, height=6, png=png)], SIZE, SIZE)
    with pytest.raises(AnnotationError, match="not a readable PNG"):
        rasterise([Bitmap(x=0, y=0, width=5, height=6, png=png[:45])], SIZE, SIZE)
    text = PngInfo()
    text.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(AnnotationError, match="not a readable PNG"):
        rasterise([Bitmap(x=0, y=0, width=5, height=6, png=png_of(np.ones((6, 5), np.uint8), text))], SIZE, SIZE)
    with pytest.raises(AnnotationError, match="larger than its picture"):
        rasterise([Bitmap(x=0, y=0, width=5, height=6, png=png)], 2, 2)


def test_a_zigzag_takes_no_memory_for_every_row_that_its_edges_cross(monkeypatch):
    zigzag = Polygon(points=((0.0, 0.0), (30.0, 1000.0)) * 2000 + ((40.0, 500.0),))
    tracemalloc.start()
    mask = rasterise([zigzag], 1000, 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20  # 4 million crossings at once would be 300 MB
    monkeypatch.setattr("spermseg.annotation.rasterise.CROSSINGS_AT_ONCE", 1 << 40)
    np.testing.assert_array_equal(mask, rasterise([zigzag], 1000, 40))
    assert mask.any()
