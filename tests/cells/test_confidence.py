"""What a model expects of its own masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.special import expit

from spermseg.cells.confidence import SHIFT, Confidence, moved_thresholds, stability
from spermseg.errors import ConfigError
from spermseg.evaluation.pixel_metrics import confusion

maps = npst.arrays(np.float32, (9, 13), elements=st.floats(0, 1, width=32))
thresholds = st.integers(1, 99).map(lambda number: number / 100)
temperatures = st.floats(0.2, 10)


@given(probability=maps, threshold=thresholds, temperature=temperatures)
@settings(deadline=None)
def test_unfitted_it_is_the_dice_of_the_masks_of_two_moved_thresholds(probability, threshold, temperature):
    strict, lenient = moved_thresholds(threshold, temperature)
    assert strict - threshold > 0 or temperature < 0.3
    masks = probability >= strict, probability >= lenient
    assert Confidence(temperature=temperature).judge(probability, threshold) == pytest.approx(confusion(*masks).dice)


def test_thresholds_are_moved_by_logits():
    assert moved_thresholds(0.5, 1.0) == pytest.approx((expit(SHIFT), expit(-SHIFT)))
    assert moved_thresholds(float(expit(1.5)), 0.5) == pytest.approx((expit(1.5 + SHIFT / 2), expit(1.5 - SHIFT / 2)))


@given(inner=st.integers(0, 1000), between=st.integers(0, 1000))
def test_stability_is_the_dice_of_nested_masks(inner, between):
    small, large = (np.arange(2000) < size for size in (inner, inner + between))
    assert stability(inner, inner + between) == pytest.approx(confusion(small, large).dice)


@given(probability=maps, threshold=thresholds, offset=st.floats(-3, 3), slope=st.floats(0, 3))
@settings(deadline=None)
def test_a_confidence_is_between_0_and_1_also_where_there_is_nothing_or_nothing_else(
    probability, threshold, offset, slope
):
    confidence = Confidence(offset=offset, slope=slope)
    for one in (probability, np.zeros_like(probability), np.ones_like(probability)):
        assert 0 <= confidence.judge(one, threshold) <= 1


def test_a_line_turns_stability_into_dice():
    probability = np.zeros((10, 10), np.float32)
    probability[:3] = 0.99  # 30 px that stay in
    probability[3:5] = 0.5  # 20 px that come in lower down
    assert Confidence(slope=0.4, offset=0.5).judge(probability, 0.6) == pytest.approx(0.5 + 0.4 * 60 / 80)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"slope": -0.1}, {"offset": float("inf")}]
)
def test_what_cannot_judge_is_refused(wrong):
    with pytest.raises(ConfigError, match="a temperature above 0, and a slope of 0 or more"):
        Confidence(**wrong)
