"""LabelMe, VIA and COCO files, and what is no such file."""

import base64
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from spermseg.annotation.annotation import Frame, list_parts, part_flags
from spermseg.annotation.coco import decode_counts
from spermseg.annotation.formats import read_annotations
from spermseg.annotation.rasterise import rasterise
from spermseg.errors import AnnotationError

SQUARE = [[2.5, 3.25], [9.5, 3.25], [9.5, 8.25], [2.5, 8.25]]


def png_text(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


LABELME = {
    "version": "5.4.1",
    "flags": {},
    "shapes": [
        {"label": "Head", "points": SQUARE, "group_id": 1, "shape_type": "polygon", "flags": {}},
        {"label": "Box", "points": [[9.5, 8.25], [2.5, 3.25]], "group_id": None, "shape_type": "rectangle"},
        {"label": "Round", "points": [[8, 8], [8, 12]], "group_id": None, "shape_type": "circle"},
        {
            "label": "Painted",
            "points": [[4, 5], [8, 7]],
            "group_id": None,
            "shape_type": "mask",
            "mask": png_text(np.eye(3, 5, dtype=bool)),
        },
    ],
    "imagePath": "..\\images\\a.jpg",
    "imageData": None,
    "imageHeight": 16,
    "imageWidth": 20,
}


def via_region(name, attributes, **shape):
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": attributes}


VIA_REGIONS = [
    via_region("polygon", {"type": "Head"}, all_points_x=[2.5, 9.5, 9.5, 2.5], all_points_y=[3.25, 3.25, 8.25, 8.25]),
    via_region("rect", {"type": {"Tail": True, "Head": False}}, x=2, y=3, width=7, height=5),
    via_region("circle", {"type": "Round"}, cx=8, cy=8, r=4),
    via_region("ellipse", {"type": "Oval"}, cx=8, cy=8, rx=4, ry=2, theta=0.5),
]
VIA = {
    "a.jpg1234": {"filename": "a.jpg", "size": 1234, "regions": VIA_REGIONS, "file_attributes": {}},
    "b.jpg99": {"filename": "b.jpg", "size": 99, "regions": [], "file_attributes": {}},
}
COCO = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 20, "height": 16},
        {"id": 2, "file_name": "b.jpg", "width": 20, "height": 16},
    ],
    "categories": [{"id": 5, "name": "Head"}, {"id": 6, "name": "Tail"}],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 5,
            "segmentation": [[2, 3, 9, 3, 9, 8, 2, 8], [5, 5, 12, 5, 12, 10, 5, 10]],
        },
        {
            "id": 12,
            "image_id": 1,
            "category_id": 6,
            "segmentation": {"size": [16, 20], "counts": [16, 3, 301]},
        },
    ],
}


def write(folder, content, name="file.json"):
    path = Path(folder) / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("annotations")


def masks(annotation):
    return [rasterise(region.shapes, 16, 20) for region in annotation.regions]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
)


def places_in(content, path=()):
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places_in(value, (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(content[path[0]], path[1:], value)
    return copy


def problem_with(path):
    """Read a file and draw all of it; return the message where it is refused."""
    try:
        annotations = read_annotations(path)
        for annotation in annotations:
            part_flags(annotation, Frame(width=20, height=16), list_parts(annotations, None), None)
    except AnnotationError as error:
        return error.message
    return None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([LABELME, VIA, {"_via_img_metadata": VIA}, COCO]), st.data())
def test_whatever_stands_in_a_place_of_a_file_it_is_read_or_refused_in_one_line_with_its_name(folder, content, data):
    place = data.draw(st.sampled_from(list(places_in(content))))
    path = write(folder, replaced(content, place, data.draw(anything)), "damaged.json")
    problem = problem_with(path)
    assert problem is None or problem.startswith("damaged.json: ")
    assert problem is None or "\n" not in problem


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 1)))
def test_cocos_run_length_strings_decode_to_the_mask_they_were_made_of(pixels):
    counts = decode_counts(coco_mask.encode(np.asfortranarray(pixels))["counts"].decode())
    runs = np.repeat(np.arange(len(counts)) % 2, counts).reshape(pixels.shape, order="F")
    np.testing.assert_array_equal(runs, pixels)


@pytest.mark.parametrize("text", ["o", "0 4", "oooooooooooo0", "\x00", "04é", "00O"])
def test_a_string_that_is_not_cocos_is_refused(text):
    with pytest.raises(ValueError, match="a run-length string"):
        decode_counts(text)


def test_labelme_polygons_rectangles_circles_and_masks_are_read(folder):
    (annotation,) = read_annotations(write(folder, LABELME))
    assert (annotation.image_name, annotation.width, annotation.height) == ("..\\images\\a.jpg", 20, 16)
    assert [region.label for region in annotation.regions] == ["Head", "Box", "Round", "Painted"]
    assert annotation.regions[0].group_id == 1
    polygon, rectangle, circle, painted = masks(annotation)
    np.testing.assert_array_equal(polygon, rectangle)
    assert polygon.sum() == 7 * 5
    assert circle.sum() == 52
    assert list(zip(*np.nonzero(painted), strict=True)) == [(5, 4), (6, 5), (7, 6)]


@pytest.mark.parametrize("wrap", [lambda via: via, lambda via: {"_via_img_metadata": via, "_via_settings": {}}])
def test_via_exports_and_projects_are_read(folder, wrap):
    first, second = read_annotations(write(folder, wrap(VIA)))
    assert (first.image_name, first.width, second.image_name, second.regions) == ("a.jpg", None, "b.jpg", ())
    assert [region.label for region in first.regions] == ["Head", "Tail", "Round", "Oval"]
    assert [int(mask.sum()) for mask in masks(first)][:3] == [35, 35, 52]
    assert masks(first)[3].sum() == pytest.approx(np.pi * 8, rel=0.1)


def test_via_regions_may_be_an_object(folder):
    numbered = {str(index): region for index, region in enumerate(VIA_REGIONS)}
    old = {"a.jpg1": {"filename": "a.jpg", "regions": numbered}}
    (annotation,) = read_annotations(write(folder, old))
    assert len(annotation.regions) == 4


@pytest.mark.parametrize(
    ("attributes", "wanted", "label"),
    [
        ({"organelle": "Head"}, None, "Head"),
        ({"note": "blurred", "class": "Head", "name": "Tail"}, None, "Tail"),
        ({"note": "blurred", "class": "Head"}, "note", "blurred"),
        ({}, None, ""),
        ({"class": {"Head": False}}, None, ""),
    ],
)
def test_the_label_of_a_via_region_is_found(folder, attributes, wanted, label):
    via = {"k": {"filename": "a.jpg", "regions": [via_region("circle", attributes, cx=8, cy=8, r=4)]}}
    (annotation,) = read_annotations(write(folder, via), label_attribute=wanted)
    assert annotation.regions[0].label == label


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"one": "Head", "two": "Tail"}, "region attributes one, two; say which one is the label"),
        ({"class": {"Head": True, "Tail": True}}, "2 boxes are ticked"),
        ({"class": 5}, "a label of type int"),
    ],
)
def test_a_via_region_without_a_clear_label_is_an_error(folder, attributes, problem):
    via = {"k": {"filename": "a.jpg", "regions": [via_region("circle", attributes, cx=8, cy=8, r=4)]}}
    with pytest.raises(AnnotationError, match=problem):
        read_annotations(write(folder, via))


def test_coco_polygons_of_one_annotation_are_a_union_and_run_lengths_are_read(folder):
    first, second = read_annotations(write(folder, COCO))
    assert [(region.label, region.group_id) for region in first.regions] == [("Head", 11), ("Tail", 12)]
    union, runs = masks(first)
    assert union.sum() == 35 + 35 - 4 * 3
    assert list(zip(*np.nonzero(runs), strict=True)) == [(0, 1), (1, 1), (2, 1)]
    assert second.regions == ()


def test_holes_survive_in_run_lengths(folder):
    ring = np.zeros((16, 20), np.uint8)
    ring[2:12, 3:15], ring[5:8, 6:10] = 1, 0
    text = coco_mask.encode(np.asfortranarray(ring))["counts"].decode()
    content = json.loads(json.dumps(COCO))
    content["annotations"][1]["segmentation"]["counts"] = text
    annotation = read_annotations(write(folder, content))[0]
    np.testing.assert_array_equal(masks(annotation)[1], ring)


@pytest.mark.parametrize(
    ("content", "place", "value", "message"),
    [
        (LABELME, ("shapes", 1, "points", 0, 1), "x", r"file.json: shapes\[1\].points\[0\]\[1\]: .* number"),
        (LABELME, ("shapes", 0, "points"), SQUARE[:2], r"file.json: shapes\[0\]: a polygon of 2 points"),
        (
            LABELME,
            ("shapes", 0, "shape_type"),
            "linestrip",
            r"shapes\[0\]: shape type 'linestrip' with 4 points",
        ),
        (LABELME, ("shapes", 2, "points", 1), [8, 8], r"shapes\[2\]: a circle without a radius"),
        (LABELME, ("shapes", 3, "mask"), "$", r"shapes\[3\]: a mask that is not base64"),
        (LABELME, ("shapes", 0, "points", 0, 0), float("nan"), r"file.json: .*shapes\[0\].points\[0\]\[0\]"),
        (
            VIA,
            ("a.jpg1234", "regions", 2, "shape_attributes", "name"),
            "polyline",
            r"a.jpg1234.regions\[2\].*polyline",
        ),
        (
            VIA,
            ("a.jpg1234", "regions", 0, "shape_attributes", "all_points_x"),
            [1.0],
            "a polygon of 1 x and 4 y",
        ),
        (COCO, ("annotations", 0, "segmentation"), [[1, 2, 3]], r"annotations\[0\]: a polygon of 3 numbers"),
        (COCO, ("annotations", 0, "segmentation"), [], "a segmentation without a polygon"),
        (COCO, ("annotations", 0, "image_id"), 77, r"annotations\[0\]: no image has the id 77"),
        (COCO, ("annotations", 0, "category_id"), 77, r"annotations\[0\]: no category has the id 77"),
        (COCO, ("images", 1, "id"), 1, r"images\[0\]: id 1 is there 2 times, for .a.jpg. and .b.jpg."),
        (COCO, ("categories",), "none", "file.json: categories: "),
    ],
)
def test_an_error_names_the_file_and_the_place(folder, content, place, value, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(write(folder, replaced(content, place, value)))
    assert caught.value.message.startswith("file.json: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "got no object; a LabelMe, VIA or COCO annotation file is needed"),
        ("{}", "got an object with nothing"),
        ('{"a": 1, "b": 2}', "got an object with a, b"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_annotation_file_is_refused(folder, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_annotations(write(folder, content))


def test_a_missing_file_is_an_annotation_error(folder):
    with pytest.raises(AnnotationError, match=r"absent\.json: could not be read"):
        read_annotations(folder / "absent.json")


def test_a_byte_order_mark_is_passed_over(folder):
    path = folder / "marked.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LABELME).encode())
    assert len(read_annotations(path)) == 1


@pytest.mark.parametrize(
    ("content", "place"),
    [(VIA, ("a.jpg1234", "regions", 0, "shape_attributes")), (COCO, ("annotations", 0, "segmentation"))],
)
def test_one_faulty_picture_does_not_cost_the_others(folder, content, place):
    faults = []
    path = write(folder, replaced(content, place, 5))
    read = read_annotations(path, on_fault=lambda name, error: faults.append((name, error.message)))
    assert [annotation.image_name for annotation in read] == ["b.jpg"]
    assert [name for name, _ in faults] == ["a.jpg"]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (LABELME, ("shapes", 0, "shape_type")),
        (VIA, ("a.jpg1234", "regions", 2, "shape_attributes", "name")),
        (COCO, ("annotations", 0, "image_id")),
    ],
)
def test_an_error_does_not_repeat_all_of_a_text_without_an_end(folder, content, place):
    with pytest.raises(AnnotationError, match="x" * 90) as caught:
        read_annotations(write(folder, replaced(content, place, "x" * 10_000)))
    assert len(caught.value.message) < 400


def test_what_should_be_an_object_is_said_in_words_of_the_file(folder):
    with pytest.raises(AnnotationError, match=r"^file.json: shapes\[0\]: an object is needed$"):
        read_annotations(write(folder, replaced(LABELME, ("shapes", 0), [])))


def test_a_picture_of_absurdly_many_shapes_is_a_fault_of_that_picture_alone(folder):
    path = write(folder, replaced(COCO, ("annotations", 0, "segmentation"), [[1, 1, 9, 1, 9, 9]] * 10_001))
    with pytest.raises(AnnotationError, match=r"1000\d shapes on '.*'; at most 10000 are accepted"):
        read_annotations(path)
    faults = []
    others = read_annotations(path, on_fault=lambda name, error: faults.append(name))
    assert len(faults) == 1
    assert others
    assert faults[0] not in [annotation.image_name for annotation in others]


def test_only_the_first_of_a_million_errors_takes_memory(folder):
    path = write(folder, {"shapes": [0] * 300_000})
    tracemalloc.start()
    with pytest.raises(AnnotationError, match=r"shapes\[0\]: an object is needed"):
        read_annotations(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20
