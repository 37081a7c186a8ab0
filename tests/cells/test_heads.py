"""A piece that is connected to no head is no cell."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from spermseg.cells.heads import GAP, LEAST_HEAD, RIM, count_heads, headless

SCALE = 0.25
NEAR, EDGE, HEAD_PX = int(GAP * SCALE), int(RIM * SCALE), int(LEAST_HEAD * SCALE**2)

SHAPE = (48, 64)
maps = npst.arrays(np.float32, (12, 15), elements=st.floats(0, 1, width=32))


def keep_with_head(cell: np.ndarray, head: np.ndarray, threshold: float, scale: float) -> np.ndarray:
    """Return the map without what is dropped."""
    return np.where(headless(cell, head, threshold, scale), np.float32(0), cell)


def picture(gap: int = 0, head: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A cell with a square head and, after a gap, a tail; and a loose tail far below. Soft edges."""
    cell, heads = np.full(SHAPE, 0.05, np.float32), np.zeros(SHAPE, np.float32)
    cell[6 : 6 + head, 4 : 4 + head] = heads[6 : 6 + head, 4 : 4 + head] = 0.95
    cell[8:11, 4 + head + gap : 60] = 0.9
    cell[40:43, 20:64] = 0.9
    return np.maximum(cell, 0.4 * ndimage.binary_dilation(cell > 0.5)), heads


@pytest.mark.parametrize("gap", range(NEAR + 1))
def test_a_tail_stays_with_its_head_over_a_gap_and_a_loose_one_goes(gap):
    cell, heads = picture(gap)
    kept = keep_with_head(cell, heads, 0.5, SCALE)
    assert np.array_equal(kept[:30], cell[:30])
    assert (kept[40:43, 20:] == 0).all()


def test_a_tail_too_far_from_a_head_goes():
    cell, heads = picture(gap=NEAR + 2)
    kept = keep_with_head(cell, heads, 0.5, SCALE)
    assert (kept[8:11, 30:60] == 0).all()
    assert (kept[6:14, 4:12] > 0.9).all()


def test_a_speck_is_no_head():
    side = int(HEAD_PX**0.5)
    for head, stays in ((side, True), (side - 1, False)):
        cell, heads = picture(head=head)
        assert (keep_with_head(cell, heads, 0.5, SCALE)[8:10, 30:60] > 0).all() == stays


def test_the_soft_edge_of_what_is_dropped_goes_with_it():
    cell, heads = picture()
    dropped = headless(cell, heads, 0.5, SCALE)
    assert dropped[40 - EDGE : 43 + EDGE, 25:60].all()
    assert not dropped[: 40 - EDGE].any()


@given(cell=maps, head=maps, threshold=st.sampled_from([0.2, 0.5, 0.9]))
@settings(deadline=None)
def test_no_pixel_is_added_and_whole_pieces_go_or_stay(cell, head, threshold):
    kept = keep_with_head(cell, head, threshold, SCALE)
    assert ((kept == cell) | (kept == 0)).all()
    pieces, count = ndimage.label(cell >= np.float32(threshold), np.ones((3, 3)))
    for piece in range(1, count + 1):
        inside = kept[pieces == piece] >= np.float32(threshold)
        assert inside.all() or not inside.any()


def test_without_any_head_nothing_stays():
    cell, heads = picture()
    assert (keep_with_head(cell, np.zeros_like(heads), 0.5, SCALE) < 0.5).all()


@pytest.mark.parametrize("finer", [2, 4])
@pytest.mark.parametrize(("gap", "head"), [(0, 8), (NEAR, 8), (NEAR + 2, 8), (0, 3), (0, 4)])
def test_the_same_picture_at_a_finer_resolution_loses_the_same_cells(gap, head, finer):
    coarse = headless(*picture(gap, head), 0.5, SCALE)
    fine = headless(
        *(np.kron(one, np.ones((finer, finer), np.float32)) for one in picture(gap, head)), 0.5, SCALE * finer
    )
    assert np.array_equal(fine, np.kron(coarse, np.ones((finer, finer), bool)))


@given(cell=maps, head=maps, threshold=st.sampled_from([0.2, 0.5, 0.9]), scale=st.sampled_from([0.05, 0.1, 0.25]))
@settings(deadline=None)
def test_heads_are_the_pieces_large_enough_that_hang_together_with_a_cell(cell, head, threshold, scale):
    pieces, count = ndimage.label(head >= np.float32(threshold), np.ones((3, 3)))
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(1, round(GAP * scale)) + 1,) * 2)
    found = cv2.dilate((cell >= np.float32(threshold)).astype(np.uint8), near) > 0
    large = [one for one in range(1, count + 1) if (pieces == one).sum() >= LEAST_HEAD * scale**2]
    assert count_heads(cell, head, threshold, scale) == sum(found[pieces == one].any() for one in large)


@given(cell=maps, head=maps, threshold=st.sampled_from([0.2, 0.5, 0.9]), scale=st.sampled_from([0.05, 0.1, 0.25]))
@settings(deadline=None)
def test_where_a_cell_is_kept_a_head_is_counted_and_where_none_is_there_is_none(cell, head, threshold, scale):
    kept = keep_with_head(cell, head, threshold, scale)
    assert (count_heads(kept, head, threshold, scale) > 0) == (kept >= np.float32(threshold)).any()


def test_two_cells_that_cross_are_two_heads_in_one_piece():
    cell, heads = picture()
    cell[8:40, 30:32] = 0.9  # a second tail, and its head below
    cell[36:44, 27:35] = heads[36:44, 27:35] = 0.95
    assert ndimage.label(keep_with_head(cell, heads, 0.5, SCALE) >= 0.5)[1] == 1
    assert count_heads(cell, heads, 0.5, SCALE) == 2
