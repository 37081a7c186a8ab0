"""Scores: laws that hold for every pair of masks, then examples that can be worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix

from spermseg.errors import ShapeError
from spermseg.evaluation.pixel_metrics import SCORES, Confusion, confusion, pooled, summarise

MASKS = arrays(bool, (4, 5))


@given(MASKS, MASKS)
def test_counts_add_up_to_all_pixels_and_scores_lie_between_0_and_1(predicted, truth):
    counts = confusion(predicted, truth)
    assert counts.tp + counts.fp + counts.fn + counts.tn == truth.size
    assert all(0 <= value <= 1 for value in counts.scores().values())


@given(MASKS, MASKS)
def test_dice_is_two_iou_over_one_plus_iou_and_equals_f1_of_precision_and_recall(predicted, truth):
    counts = confusion(predicted, truth)
    assert counts.dice == pytest.approx(2 * counts.iou / (1 + counts.iou))
    if counts.precision + counts.recall:
        assert counts.f1 == pytest.approx(2 * counts.precision * counts.recall / (counts.precision + counts.recall))


@given(MASKS, MASKS)
def test_swapping_prediction_and_truth_swaps_precision_and_recall(predicted, truth):
    one, other = confusion(predicted, truth), confusion(truth, predicted)
    assert (one.precision, one.recall, one.iou) == (other.recall, other.precision, other.iou)


@given(st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=4))
def test_pooling_counts_is_scoring_the_pictures_laid_side_by_side(pairs):
    together = confusion(np.hstack([p for p, _ in pairs]), np.hstack([t for _, t in pairs]))
    assert pooled(confusion(p, t) for p, t in pairs) == together


MONAI_NAMES = {"threat score": "iou", "f1 score": "dice", "precision": "precision", "recall": "recall"}


@given(MASKS, MASKS)
def test_scores_are_those_of_monai(predicted, truth):
    """Where both masks have a pixel: for an empty one MONAI has nan or 0, and here is the empty-mask rule."""
    assume(predicted.any() and truth.any())
    counts = confusion(predicted, truth)
    pair = [torch.from_numpy(one)[None, None].float() for one in (predicted, truth)]
    assert counts.iou == pytest.approx(float(compute_iou(*pair)), abs=1e-6)
    assert counts.dice == pytest.approx(float(compute_dice(*pair)), abs=1e-6)
    matrix = get_confusion_matrix(*pair)
    assert [counts.tp, counts.fp, counts.tn, counts.fn] == matrix.flatten().tolist()
    for theirs, ours in MONAI_NAMES.items():
        expected = float(compute_confusion_matrix_metric(theirs, matrix))
        assert counts.scores()[ours] == pytest.approx(expected, abs=1e-6), ours
    assert counts.f1 == counts.dice


def test_a_worked_example():
    scores = Confusion(tp=6, fp=2, fn=4, tn=88).scores()
    assert scores == pytest.approx({"iou": 0.5, "dice": 2 / 3, "precision": 0.75, "recall": 0.6, "f1": 2 / 3})


def test_two_empty_masks_agree_and_one_empty_mask_disagrees_wholly():
    nothing, something = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert set(confusion(nothing, nothing).scores().values()) == {1.0}
    assert set(confusion(something, nothing).scores().values()) == {0.0}
    assert set(confusion(nothing, something).scores().values()) == {0.0}


def test_masks_of_different_shapes_are_refused_with_both_shapes():
    with pytest.raises(ShapeError, match=r"\(2, 2\).*\(2, 3\)"):
        confusion(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_the_interval_covers_the_mean_and_narrows_with_more_groups():
    rng = np.random.default_rng(1)
    few = summarise(rng.normal(0.8, 0.1, 20).tolist(), [f"g{i // 5}" for i in range(20)])
    many = summarise(rng.normal(0.8, 0.1, 400).tolist(), [f"g{i // 5}" for i in range(400)])
    for summary in (few, many):
        assert summary.ci95[0] <= summary.mean <= summary.ci95[1]
    assert many.ci95[1] - many.ci95[0] < few.ci95[1] - few.ci95[0]


def test_pictures_of_one_group_move_together_so_the_interval_is_wider_than_of_independent_pictures():
    values = [0.6] * 10 + [0.9] * 10
    by_patient = summarise(values, ["a"] * 10 + ["b"] * 10)
    independent = summarise(values, [str(i) for i in range(20)])
    assert by_patient.ci95[1] - by_patient.ci95[0] > 2 * (independent.ci95[1] - independent.ci95[0])


def test_a_single_group_has_no_interval():
    assert summarise([0.7, 0.8], ["a", "a"]).ci95 is None


def test_every_score_has_a_name_in_the_published_order():
    assert SCORES == ("iou", "dice", "precision", "recall", "f1")
