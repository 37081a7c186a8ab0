"""Measures: against scikit-image's regionprops, masks that decode to the labels, borders, units, and many cells."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from spermseg.cells.instances import label_cells
from spermseg.cells.measure import decode_mask, encode_mask, measure_cells
from spermseg.errors import ShapeError


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Noise of any density: many components, in each other's bounding boxes."""
    shape, seed = draw(st.tuples(st.integers(1, 24), st.integers(1, 24))), draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(shape) < draw(st.floats(0, 1))


SEEDS = st.integers(0, 2**32 - 1)


def probabilities(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@settings(deadline=None)
@given(masks(), SEEDS)
def test_boxes_areas_and_confidences_are_those_of_regionprops(mask, seed):
    labels, probability = label_cells(mask), probabilities(mask.shape, seed)
    cells = measure_cells(labels, probability)
    regions = regionprops(labels, probability)
    assert len(cells) == len(regions)
    for cell, region in zip(cells, regions, strict=True):
        assert (cell.y, cell.x, cell.y + cell.height, cell.x + cell.width) == region.bbox
        assert cell.area == region.area
        assert cell.confidence == pytest.approx(region.intensity_mean, rel=1e-5)


@settings(deadline=None)
@given(masks(), SEEDS)
def test_the_masks_of_the_cells_put_back_in_their_boxes_are_the_labels(mask, seed):
    labels = label_cells(mask)
    drawn = np.zeros_like(labels)
    for number, cell in enumerate(measure_cells(labels, probabilities(mask.shape, seed)), start=1):
        box = drawn[cell.y : cell.y + cell.height, cell.x : cell.x + cell.width]
        box[decode_mask(cell.mask, (cell.height, cell.width))] = number
    assert np.array_equal(drawn, labels)


@settings(deadline=None)
@given(masks())
def test_a_mask_that_was_encoded_decodes_to_itself(mask):
    assert np.array_equal(decode_mask(encode_mask(mask), mask.shape), mask)
    assert encode_mask(mask) == encode_mask(np.asfortranarray(mask))
    assert encode_mask(mask).isascii()


@settings(deadline=None)
@given(masks())
def test_a_cell_touches_the_border_when_one_of_its_pixels_lies_there(mask):
    labels = label_cells(mask)
    rim = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
    cells = measure_cells(labels, probabilities(mask.shape, 0))
    assert [cell.touches_border for cell in cells] == [number in rim for number in range(1, len(cells) + 1)]


@pytest.mark.parametrize(
    ("rows", "columns", "touches"),
    [
        (slice(0, 3), slice(4, 6), True),
        (slice(7, 10), slice(4, 6), True),
        (slice(4, 6), slice(0, 3), True),
        (slice(4, 6), slice(9, 12), True),
        (slice(1, 9), slice(1, 11), False),
    ],
    ids=["top", "bottom", "left", "right", "one pixel away all around"],
)
def test_each_edge_of_the_picture_is_a_border(rows, columns, touches):
    mask = np.zeros((10, 12), bool)
    mask[rows, columns] = True
    (cell,) = measure_cells(label_cells(mask), np.ones((10, 12), np.float32))
    assert cell.touches_border is touches


@settings(deadline=None)
@given(st.floats(0.01, 10))
def test_areas_in_the_sample_are_pixels_times_the_area_of_one(um_per_px):
    labels = label_cells(np.pad(np.ones((5, 7), bool), 2))
    (cell,) = measure_cells(labels, np.ones(labels.shape, np.float32), um_per_px)
    assert cell.area_um2 == pytest.approx(35 * um_per_px * um_per_px)
    (cell,) = measure_cells(labels, np.ones(labels.shape, np.float32))
    assert cell.area_um2 is None


def test_an_empty_picture_has_no_cells():
    assert measure_cells(np.zeros((20, 30), np.int32), np.zeros((20, 30), np.float32)) == []


def test_a_number_that_labels_nothing_is_passed_over():
    labels = np.array([[1, 0, 3]], np.int32)
    assert [cell.x for cell in measure_cells(labels, np.ones((1, 3), np.float32))] == [0, 2]


def test_another_shape_of_the_probability_is_refused():
    with pytest.raises(ShapeError, match=r"got labels \(4, 5\) for a probability \(5, 4\)"):
        measure_cells(np.zeros((4, 5), np.int32), np.zeros((5, 4), np.float32))


def test_ten_thousand_cells_take_seconds_not_minutes():
    mask = np.kron(np.indices((100, 100)).sum(axis=0) >= 0, np.pad(np.ones((6, 6), bool), 2))
    started = time.perf_counter()
    cells = measure_cells(label_cells(mask, 36), np.ones(mask.shape, np.float32))
    assert len(cells) == 10_000
    assert {(cell.area, cell.width, cell.height) for cell in cells} == {(36, 6, 6)}
    assert time.perf_counter() - started < 30
