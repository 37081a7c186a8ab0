"""Frames, bounds and parts of annotations."""

import numpy as np
import pytest
from PIL import Image

from spermseg.annotation.annotation import (
    Annotation,
    Frame,
    Region,
    annotated_frame,
    check_inside,
    list_parts,
    part_flags,
)
from spermseg.annotation.rasterise import Ellipse, Polygon, RunLength, rasterise
from spermseg.errors import AnnotationError
from spermseg.micrograph.header import Header

TRANSPOSE = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CORNER = Polygon(points=((1, 2), (9, 2), (9, 4), (1, 3)))


def header_of(width, height, orientation=1):
    return Header(width=width, height=height, format="JPEG", orientation=orientation, pages=1)


def annotation_of(*regions, width=None, height=None):
    drawn = tuple(
        Region(label=label, shapes=(shape,), place=f"shapes[{index}]") for index, (label, shape) in enumerate(regions)
    )
    return Annotation(image_name="a.jpg", width=width, height=height, regions=drawn, source="a.json")


def square(x, y, side=4.0):
    return Polygon(points=((x, y), (x + side, y), (x + side, y + side), (x, y + side)))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_what_was_drawn_on_the_stored_picture_is_turned_as_the_picture_is(orientation):
    stored_width, stored_height = 30, 20
    annotation = annotation_of(("Head", CORNER), width=stored_width, height=stored_height)
    frame = annotated_frame(annotation, header_of(stored_height, stored_width, orientation))
    flags = part_flags(annotation, frame, ("head",), None)
    stored = Image.fromarray(rasterise([CORNER], stored_height, stored_width).astype(np.uint8))
    np.testing.assert_array_equal(flags, np.asarray(stored.transpose(TRANSPOSE[orientation])))
    assert flags.shape == (stored_width, stored_height)


@pytest.mark.parametrize(("width", "height"), [(20, 30), (None, None)])
def test_what_was_drawn_on_the_shown_picture_or_on_an_unknown_size_stays(width, height):
    annotation = annotation_of(("Head", CORNER), width=width, height=height)
    assert annotated_frame(annotation, header_of(20, 30, 6)) == Frame(width=20, height=30, orientation=1)


def test_where_both_frames_have_the_same_size_the_shown_one_counts():
    annotation = annotation_of(("Head", CORNER), width=20, height=20)
    assert annotated_frame(annotation, header_of(20, 20, 6)).orientation == 1


def test_a_size_that_is_neither_the_shown_nor_the_stored_one_is_an_error_with_both_sizes():
    annotation = annotation_of(("Head", CORNER), width=640, height=480)
    with pytest.raises(AnnotationError, match=r"^a.json: annotated on 640 x 480 px, but 'a.jpg' has 20 x 30 px$"):
        annotated_frame(annotation, header_of(20, 30, 6))


def test_the_size_of_a_run_length_mask_tells_the_frame_and_must_fit():
    annotation = annotation_of(("Head", RunLength(width=30, height=20, counts=(600,))))
    assert annotated_frame(annotation, header_of(20, 30, 8)).orientation == 8
    with pytest.raises(AnnotationError, match="annotated on 30 x 20 px"):
        annotated_frame(annotation, header_of(40, 20))


FRAME = Frame(width=100, height=80)


@pytest.mark.parametrize("shape", [square(-2, 10), square(98, 78), Ellipse(x=99, y=79, radius_x=9, radius_y=9)])
def test_an_overshoot_of_2_px_is_accepted(shape):
    check_inside(annotation_of(("Tail", shape)), FRAME)


@pytest.mark.parametrize(
    ("shape", "distance"),
    [
        (square(-2.1, 10), "2.1"),
        (square(10, -3), "3.0"),
        (square(99, 10), "3.0"),
        (square(10, 500), "424.0"),
        (Ellipse(x=103, y=10, radius_x=20, radius_y=20), "3.0"),
    ],
)
def test_a_vertex_further_outside_is_an_error_with_the_distance(shape, distance):
    with pytest.raises(AnnotationError, match=rf"a.json: shapes\[0\] \(Tail\) of 'a.jpg': {distance} px outside"):
        check_inside(annotation_of(("Tail", shape)), FRAME)


def test_a_region_that_lies_outside_as_a_whole_is_an_error_however_near():
    with pytest.raises(AnnotationError, match="lies outside the 100 x 80 picture"):
        check_inside(annotation_of(("Tail", square(100.5, 10, side=1.0))), FRAME)


def test_parts_overlap_as_bits_and_the_whole_cell_is_what_is_above_zero():
    annotation = annotation_of(("Nucleus", square(10, 10, 10)), ("Vacuole", square(12, 12)), ("Tail", square(40, 40)))
    parts = list_parts([annotation], None)
    assert parts == ("nucleus", "tail", "vacuole")
    flags = part_flags(annotation, FRAME, parts, None)
    assert flags.dtype == np.uint8
    assert flags[13, 13] == 0b101
    assert flags[41, 41] == 0b010
    assert (flags > 0).sum() == 100 + 16


def test_more_than_8_parts_take_16_bits_and_more_than_16_are_an_error():
    nine = annotation_of(*((f"part-{index}", square(5 * index, 5)) for index in range(9)))
    flags = part_flags(nine, FRAME, list_parts([nine], None), None)
    assert flags.dtype == np.uint16
    assert flags[6, 41] == 1 << 8
    many = annotation_of(*((f"part-{index}", square(5, 5)) for index in range(17)))
    with pytest.raises(AnnotationError, match="17 different parts"):
        list_parts([many], None)


def test_labels_are_mapped_merged_and_ignored():
    labels = {"Acrosome": "head", "Nucleus": "head", "Debris": "ignore", "Scale bar": ""}
    annotation = annotation_of(*((label, square(10 * index, 5)) for index, label in enumerate(labels)))
    parts = list_parts([annotation], labels)
    assert parts == ("head",)
    assert part_flags(annotation, FRAME, parts, labels).sum() == 32


def test_a_label_that_the_mapping_lacks_is_an_error_that_lists_the_known_ones():
    annotation = annotation_of(("Flagellum", square(5, 5)))
    with pytest.raises(AnnotationError, match=r"unknown label 'Flagellum'; the mapping .* has Head, Tail"):
        part_flags(annotation, FRAME, ("head",), {"Tail": "tail", "Head": "head"})


def test_a_region_without_a_label_is_a_cell():
    annotation = annotation_of(("", square(5, 5)))
    assert list_parts([annotation], None) == ("cell",)
