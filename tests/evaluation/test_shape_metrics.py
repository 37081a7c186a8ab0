from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.morphology import skeletonize

from spermseg.errors import ConfigError, ShapeError
from spermseg.evaluation.shape_metrics import centreline_dice, surface_dice

masks = arrays(bool, (24, 32), elements=st.booleans(), fill=st.just(False))
seeds = st.integers(0, 2**32 - 1)


def blobs(seed: int) -> np.ndarray:
    """Smooth random shapes, some of them thin, as cells are."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 80)), 3)
    return np.abs(noise) > 0.06


def thinned(mask: np.ndarray) -> np.ndarray:
    """The skeleton of Zhang and Suen (1984), as their paper says it, pixel by pixel."""
    image = np.pad(mask.astype(int), 1)
    while True:
        before = image.copy()
        for odd in (True, False):
            doomed = []
            for y, x in zip(*np.nonzero(image), strict=True):
                n, ne, e, se, s, sw, w, nw = (
                    image[y + dy, x + dx]
                    for dy, dx in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
                )
                ring = [n, ne, e, se, s, sw, w, nw, n]
                rises = sum(a == 0 and b == 1 for a, b in pairwise(ring))
                corners = (n * e * s, e * s * w) if odd else (n * e * w, n * s * w)
                if 2 <= sum(ring[:-1]) <= 6 and rises == 1 and corners == (0, 0):
                    doomed.append((y, x))
            for place in doomed:
                image[place] = 0
        if (image == before).all():
            return image[1:-1, 1:-1] > 0


def by_definition(predicted: np.ndarray, truth: np.ndarray, skeleton) -> float:
    """The clDice, from sets of places."""
    masks = [set(map(tuple, np.argwhere(one))) for one in (predicted, truth)]
    lines = [set(map(tuple, np.argwhere(skeleton(one)))) for one in (predicted, truth)]
    precision, sensitivity = (len(line & mask) / len(line) for line, mask in zip(lines, masks[::-1], strict=True))
    return 2 / (1 / precision + 1 / sensitivity)


@pytest.mark.parametrize("seed", range(5))
def test_centreline_dice_is_that_of_its_definition(seed):
    predicted, truth = blobs(seed), blobs(seed + 100)
    expected = by_definition(predicted, truth, skeletonize)
    assert centreline_dice(predicted, truth) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_skeletons_by_the_rules_of_zhang_and_suen_give_nearly_the_same(seed):
    """scikit-image deletes a few corners more than the paper's rules do: a difference of definition."""
    predicted, truth = blobs(seed), blobs(seed + 100)
    assert by_definition(predicted, truth, thinned) == pytest.approx(centreline_dice(predicted, truth), abs=0.04)


def test_a_tail_that_is_torn_costs_more_than_one_that_is_drawn_too_wide():
    tail, torn, wide = (np.zeros((40, 200), bool) for _ in range(3))
    tail[16:24, 10:190] = wide[14:26, 10:190] = torn[16:24, 10:190] = True
    torn[:, 80:120] = False
    assert centreline_dice(torn, tail) < 0.9
    assert centreline_dice(wide, tail) > 0.98


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_surface_dice_is_that_of_monai(seed, tolerance):
    predicted, truth = blobs(seed), blobs(seed + 100)
    pair = [torch.from_numpy(one)[None, None].float() for one in (predicted, truth)]
    expected = float(compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True))
    assert surface_dice(predicted, truth, tolerance) == pytest.approx(expected, abs=1e-6)


@given(masks, masks, st.sampled_from([0.0, 1.0, 2.0, 3.5]))
def test_surface_dice_is_that_of_all_pairs_of_outline_pixels(predicted, truth, tolerance):
    outlines = [np.argwhere(one & ~ndimage.binary_erosion(one)) for one in (predicted, truth)]
    if not all(map(len, outlines)):
        assert surface_dice(predicted, truth, tolerance) == float(len(outlines[0]) == len(outlines[1]))
        return
    near = cdist(*outlines) <= tolerance
    expected = (near.any(axis=0).sum() + near.any(axis=1).sum()) / sum(map(len, outlines))
    assert surface_dice(predicted, truth, tolerance) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("score", [centreline_dice, surface_dice])
@given(masks, masks)
def test_scores_are_symmetric_between_0_and_1_and_1_for_a_mask_itself(score, one, other):
    assert score(one, other) == pytest.approx(score(other, one))
    assert 0 <= score(one, other) <= 1
    assert score(one, one) == 1


@pytest.mark.parametrize("score", [centreline_dice, surface_dice])
def test_an_empty_mask_scores_1_against_an_empty_one_and_0_against_any_other(score):
    empty, full = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    assert [score(empty, empty), score(empty, full), score(full, empty)] == [1, 0, 0]


def test_masks_of_different_shapes_and_a_tolerance_below_0_are_refused():
    with pytest.raises(ShapeError, match=r"\(8, 8\) for a truth \(8, 9\)"):
        centreline_dice(np.ones((8, 8), bool), np.ones((8, 9), bool))
    with pytest.raises(ConfigError, match="-1 px; 0 to 100"):
        surface_dice(np.ones((8, 8), bool), np.ones((8, 8), bool), -1)
