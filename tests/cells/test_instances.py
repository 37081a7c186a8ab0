"""Instances: labels against scikit-image's, least areas, and settings that cannot be used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from spermseg.cells.instances import CellConfig, label_cells
from spermseg.errors import ConfigError


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Noise of any density: many components, in each other's bounding boxes."""
    shape, seed = draw(st.tuples(st.integers(1, 24), st.integers(1, 24))), draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(shape) < draw(st.floats(0, 1))


@settings(deadline=None)
@given(masks())
def test_labels_are_those_of_scikit_image(mask):
    labels = label_cells(mask)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, label(mask, connectivity=2))


@settings(deadline=None)
@given(masks(), st.integers(0, 12))
def test_only_components_below_the_least_area_go_and_the_rest_keeps_its_order(mask, min_area):
    everything, kept = label_cells(mask), label_cells(mask, min_area)
    areas = np.bincount(everything.ravel())
    large = [number for number in range(1, len(areas)) if areas[number] >= min_area]
    expected = np.zeros_like(everything)
    for new, old in enumerate(large, start=1):
        expected[everything == old] = new
    assert np.array_equal(kept, expected)


@settings(deadline=None)
@given(masks())
def test_cells_that_touch_at_a_corner_are_one_and_turning_the_mask_changes_no_count(mask):
    assert label_cells(mask).max() == label_cells(mask[::-1]).max() == label_cells(mask.T).max()
    assert label_cells(np.eye(5, dtype=bool)).max() == 1


@settings(deadline=None)
@given(masks())
def test_the_mask_is_left_as_it_was(mask):
    before = mask.copy()
    label_cells(mask, 4)
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (40, 30)])
def test_an_empty_mask_has_no_cells(shape):
    assert not label_cells(np.zeros(shape, bool), min_area=5).any()


def test_a_component_of_just_the_least_area_is_a_cell():
    mask = np.zeros((10, 30), bool)
    mask[2:6, 2:6] = True
    mask[2:5, 12:17] = True
    assert label_cells(mask, min_area=16).max() == 1
    assert label_cells(mask, min_area=15).max() == 2
    assert label_cells(mask, min_area=17).max() == 0


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.0}, {"threshold": float("nan")}, {"min_area": -1}])
def test_settings_that_cannot_be_used_say_what_is_needed(wrong):
    with pytest.raises(ConfigError, match=r"^got .* is needed$"):
        CellConfig(**wrong)
