"""Synthetic micrographs: what is shown is what is labelled, pixel by pixel."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spermseg.annotation.formats import read_annotations
from spermseg.annotation.rasterise import rasterise
from spermseg.errors import ConfigError
from spermseg.synthetic.draw import DrawConfig, draw_micrograph, labelme_annotation, paint
from spermseg.synthetic.shapes import (
    ACROSOME,
    HEAD,
    MIDPIECE,
    NUCLEUS,
    TAIL,
    VACUOLE,
    blob,
    draw_cell,
    signed_area,
)

ORDINARY = DrawConfig(height=256, width=320, scale=0.3, cells=(1, 8))
CLEAN = replace(
    ORDINARY, debris=0, unevenness=0, blur=0, defocus=0, sharpening=0, noise=0, stain_variation=0, scale=0.5
)
SEEDS = st.integers(0, 2**32)


def cell_mask(drawn, fine=1):
    """The union of all labelled shapes, on a grid this many times finer than the picture's."""
    height, width = (length * fine for length in drawn.pixels.shape[:2])
    mask = np.zeros((height, width), bool)
    for shape in drawn.shapes:
        mask |= rasterise([shape.outline(fine)], height, width)
    return mask


def grow(mask, pixels=1):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2)) > 0


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_same_seed_and_config_give_the_same_bytes(seed):
    first, second = draw_micrograph(seed, ORDINARY), draw_micrograph(seed, ORDINARY)
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert labelme_annotation(first, "a.png") == labelme_annotation(second, "a.png")
    assert draw_micrograph(seed + 1, ORDINARY).pixels.tobytes() != first.pixels.tobytes()


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_on_a_clean_slide_exactly_the_labelled_pixels_are_dark(seed):
    drawn = draw_micrograph(seed, CLEAN)
    height, width = drawn.pixels.shape[:2]
    samples = cell_mask(drawn, fine=4).reshape(height, 4, width, 4).sum(axis=(1, 3))  # of 16 in each pixel
    background = np.array([225, 227, 231])
    drop = (background - drawn.pixels.astype(int)).max(axis=2)  # grey levels
    assert (drop > 0)[samples >= 4].all(), "a labelled pixel was not drawn"
    assert not (drop > 12)[~grow(samples > 0)].any(), "something was drawn that has no label"
    assert (drawn.pixels <= background).all()


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_the_edge_of_a_drawn_part_is_the_edge_of_its_mask(seed):
    cell = draw_cell(np.random.default_rng(seed), (160, 128), 0.5, 0)
    for shape in cell:
        covered = paint([[shape.points]], [1.0], 256, 320) > 0.5
        mask = rasterise([shape.outline()], 256, 320)
        differing = (covered ^ mask).sum()
        # Half covered and centre inside are the same thing for a straight edge, nearly for a curved one.
        assert differing <= 3 + 0.03 * grow(mask).sum() if shape.label != VACUOLE else differing <= 6


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(1, 40), st.floats(45, 75), st.floats(45, 75))
def test_painted_coverage_adds_up_to_the_exact_area(seed, radius, x, y):
    outline = blob(np.random.default_rng(seed), np.array([x, y]), radius)
    painted = paint([[outline]], [1.0], 120, 120).sum()
    assert painted == pytest.approx(abs(signed_area(outline)), rel=0.01, abs=0.15)


def test_a_square_covers_exactly_its_pixels():
    square = np.array([[10.0, 10], [20, 10], [20, 20], [10, 20]])
    layer = paint([[square]], [1.0], 32, 40)
    expected = np.zeros((32, 40))
    expected[10:20, 10:20] = 1
    np.testing.assert_array_equal(layer, expected)
    half = paint([[square + np.array([0.5, 0])]], [1.0], 32, 40)
    np.testing.assert_allclose(half[15, [9, 10, 11, 19, 20, 21]], [0, 0.5, 1, 1, 0.5, 0], atol=0.005)


def test_pieces_of_one_thing_meet_without_a_seam():
    left = np.array([[3.0, 5], [20.3, 5], [14.7, 11], [3, 11]])
    right = np.array([[20.3, 5], [37, 5], [37, 11], [14.7, 11]])
    whole = np.array([[3.0, 5], [37, 5], [37, 11], [3, 11]])
    np.testing.assert_allclose(paint([[left, right]], [1.0], 16, 40), paint([[whole]], [1.0], 16, 40), atol=0.01)
    seam = paint([[left], [right]], [1.0, 1.0], 16, 40)  # as two things the light shines through between them
    assert seam[7, 5:35].min() < 0.9


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_no_outline_crosses_itself(seed):
    """Else parity would punch holes into the mask of a curled tail: its area would fall short of the outline's."""
    for shape in draw_cell(np.random.default_rng(seed), (0, 0), 4.0, 0):  # large, so that pixels are a fine grid
        points = shape.points - shape.points.min(axis=0)
        width, height = np.ceil(points.max(axis=0)).astype(int)
        mask = rasterise([replace(shape, points=points).outline()], height, width)
        assert mask.sum() == pytest.approx(shape.area, rel=0.02, abs=24)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_every_shape_lies_within_the_picture(seed):
    drawn = draw_micrograph(seed, CLEAN)
    for shape in drawn.shapes:
        assert (shape.points >= 0).all()
        assert (shape.points <= [CLEAN.width, CLEAN.height]).all()
        assert len(shape.points) >= 3
        assert shape.area > 0


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_cell_is_one_connected_thing(seed):
    size = 1200
    mask = np.zeros((size, size), bool)
    for shape in draw_cell(np.random.default_rng(seed), (size / 2, size / 2), 0.5, 0):
        mask |= rasterise([shape.outline()], size, size)
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_acrosome_and_nucleus_share_the_head_between_them(seed):
    parts = {shape.label: shape for shape in draw_cell(np.random.default_rng(seed), (200, 200), 1.0, 0)}
    assert parts[ACROSOME].area + parts[NUCLEUS].area == pytest.approx(parts[HEAD].area)


def test_inner_parts_get_labels_only_when_asked_for():
    plain = draw_micrograph(3, replace(ORDINARY, cells=(8, 8)))
    detailed = draw_micrograph(3, replace(ORDINARY, cells=(8, 8), inner_parts=True))
    assert {shape.label for shape in plain.shapes} == {HEAD, MIDPIECE, TAIL}
    assert {shape.label for shape in detailed.shapes} == {HEAD, ACROSOME, NUCLEUS, VACUOLE, MIDPIECE, TAIL}
    np.testing.assert_array_equal(plain.pixels, detailed.pixels)


def test_cells_are_cut_by_the_border_and_fields_can_be_empty_or_crowded():
    at_border, cells = 0, []
    for seed in range(30):
        shapes = draw_micrograph(seed, replace(ORDINARY, cells=(0, 14))).shapes
        at_border += any((s.points[:, 0] == 0).any() or (s.points[:, 1] == ORDINARY.height).any() for s in shapes)
        cells.append(len({s.group_id for s in shapes}))
    assert at_border > 10
    assert min(cells) == 0
    assert max(cells) >= 12


def test_a_field_without_cells_is_a_picture_without_shapes():
    drawn = draw_micrograph(0, replace(CLEAN, cells=(0, 0)))
    assert drawn.shapes == ()
    assert (drawn.pixels == [225, 227, 231]).all()


@pytest.mark.parametrize("setting", ["debris", "unevenness", "blur", "defocus", "sharpening", "noise", "jpeg_quality"])
def test_each_setting_changes_the_picture_and_none_changes_the_shapes(setting):
    more = {
        "debris": 1.0,
        "unevenness": 0.3,
        "blur": 1.5,
        "defocus": 5.0,
        "sharpening": 0.3,
        "noise": 3.0,
        "jpeg_quality": 50,
    }
    plain = draw_micrograph(5, CLEAN)
    changed = draw_micrograph(5, replace(CLEAN, **{setting: more[setting]}))
    assert (plain.pixels != changed.pixels).any()
    assert labelme_annotation(plain, "a") == labelme_annotation(changed, "a")


def test_noise_has_the_strength_that_was_asked_for():
    drawn = draw_micrograph(1, replace(CLEAN, cells=(0, 0), noise=4.0))
    assert drawn.pixels.std(axis=(0, 1)) == pytest.approx([4.0] * 3, rel=0.1)


def test_the_lower_the_quality_of_a_jpeg_the_farther_is_the_picture_from_what_was_seen():
    seen = draw_micrograph(3, ORDINARY).pixels.astype(float)
    errors = []
    for quality in (95, 70, 30):
        written = draw_micrograph(3, replace(ORDINARY, jpeg_quality=quality)).pixels
        errors.append(float(np.abs(written - seen).mean()))
    assert 0 < errors[0] < errors[1] < errors[2] < 10


def test_light_falls_no_further_than_the_unevenness():
    drawn = draw_micrograph(1, replace(CLEAN, cells=(0, 0), unevenness=0.4))
    grey = drawn.pixels[..., 1].astype(float)
    assert 0.1 < 1 - grey.min() / grey.max() <= 0.41


def test_pictures_of_one_slide_share_its_stain():
    def colour(seed, slide):
        config = replace(CLEAN, cells=(6, 6), stain_variation=1.0, slide=slide)
        drawn = draw_micrograph(seed, config)
        return drawn.pixels[0, 0].tolist(), drawn.pixels.reshape(-1, 3).min(axis=0).tolist()

    assert colour(1, slide=7)[1] == pytest.approx(colour(2, slide=7)[1], abs=3)
    assert colour(1, slide=7) != colour(1, slide=8)


def test_labelme_json_reads_back_as_the_same_outlines(tmp_path):
    drawn = draw_micrograph(11, ORDINARY)
    path = tmp_path / "field.json"
    path.write_text(json.dumps(labelme_annotation(drawn, "field.png")))
    (annotation,) = read_annotations(path)
    assert (annotation.image_name, annotation.width, annotation.height) == ("field.png", 320, 256)
    assert [r.label for r in annotation.regions] == [s.label for s in drawn.shapes]
    assert [r.group_id for r in annotation.regions] == [s.group_id for s in drawn.shapes]
    for region, shape in zip(annotation.regions, drawn.shapes, strict=True):
        np.testing.assert_array_equal(np.array(region.shapes[0].points), shape.points)


def test_labelme_json_has_the_fields_that_labelme_opens():
    content = labelme_annotation(draw_micrograph(11, ORDINARY), "field.png")
    assert set(content) >= {
        "version",
        "flags",
        "shapes",
        "imagePath",
        "imageData",
        "imageHeight",
        "imageWidth",
    }
    assert content["imageData"] is None
    for shape in content["shapes"]:
        assert set(shape) == {"label", "points", "group_id", "shape_type", "flags"}
        assert shape["shape_type"] == "polygon"


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 8},
        {"scale": 0},
        {"scale": float("nan")},
        {"cells": (5, 2)},
        {"cells": (-1, 2)},
        {"unevenness": 1.0},
        {"noise": -1},
        {"blur": float("nan")},
        {"debris": float("inf")},
        {"jpeg_quality": 0},
        {"jpeg_quality": 101},
        {"slide": -1},
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_in_one_line(wrong):
    with pytest.raises(ConfigError, match=r"got .*; give") as error:
        DrawConfig(**wrong)
    assert "\n" not in error.value.message
    assert next(iter(wrong)) in error.value.message or "picture" in error.value.message


def test_a_negative_seed_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="got seed -1; give 0 or more"):
        draw_micrograph(-1, ORDINARY)
