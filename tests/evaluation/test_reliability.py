"""Confidence fitted where the truth is known, and compared with it."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from spermseg.cells.confidence import Confidence
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.evaluation.reliability import LEAST_PICTURES, JudgedMap, Reliability, fit_confidence

THRESHOLD = 0.5


def some_map(seed: int, *, boast: float = 1.0, blur: float = 1.0) -> JudgedMap:
    """Discs with soft edges; each probability is right before its logit is multiplied by `boast`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    discs = [rng.uniform(4, 9) - np.hypot(y - a, x - b) for a, b in rng.uniform(8, 56, (3, 2))]
    distance = np.max(discs, axis=0).clip(-5, 5)
    said = expit(boast * distance / blur).astype(np.float32)
    truth = rng.random(said.shape) < expit(distance / blur)
    return said, truth, confusion(said >= THRESHOLD, truth).dice


def some_maps(count: int, seed: int) -> list[JudgedMap]:
    blurs = np.random.default_rng(seed).uniform(0.3, 2, count)
    return [some_map(1000 * seed + number, boast=2.0, blur=float(blur)) for number, blur in enumerate(blurs)]


@pytest.mark.parametrize("boast", [0.5, 1.0, 3.0])
def test_the_temperature_takes_back_what_a_network_boasts(boast):
    found = fit_confidence((some_map(seed, boast=boast) for seed in range(30)), THRESHOLD)
    assert found.temperature == pytest.approx(boast, rel=0.06)


def test_what_is_fitted_on_some_pictures_foretells_the_dice_of_others():
    confidence = fit_confidence(some_maps(60, seed=1), THRESHOLD)
    others = some_maps(60, seed=2)
    said = [confidence.judge(probability, THRESHOLD) for probability, _, _ in others]
    came = [dice for _, _, dice in others]
    found = Reliability.of(said, came)
    assert found.pearson > 0.95
    assert found.auroc > 0.9
    assert found.mean_error < 0.05


def test_where_stability_says_nothing_the_mean_dice_is_expected():
    same = [some_map(1)] * LEAST_PICTURES
    level = fit_confidence(same, THRESHOLD)
    assert (level.slope, level.offset) == (0, pytest.approx(same[0][2]))


def test_through_few_pictures_no_line_is_drawn():
    few, before = some_maps(LEAST_PICTURES - 1, seed=4), Confidence(slope=0.4)
    found = fit_confidence(few, THRESHOLD, before)
    assert found.slope == 0.4
    said = [found.judge(probability, THRESHOLD) for probability, _, _ in few]
    assert np.mean(said) == pytest.approx(np.mean([dice for _, _, dice in few]), abs=2e-3)
    assert fit_confidence(some_maps(LEAST_PICTURES, seed=4), THRESHOLD, before).slope != 0.4


def test_a_stability_that_says_the_reverse_counts_nothing():
    empty = np.zeros((8, 8), np.float32)
    every = np.ones((8, 8), bool)
    sure_and_wrong = np.full((8, 8), 0.999, np.float32), np.eye(8, dtype=bool), 2 * 8 / (64 + 8)
    unsure_and_right = np.full((8, 8), 0.6, np.float32), every, 1.0
    found = fit_confidence([sure_and_wrong, unsure_and_right] * (LEAST_PICTURES // 2), THRESHOLD)
    assert found.slope == 0
    assert found.judge(empty, THRESHOLD) == pytest.approx((2 * 8 / (64 + 8) + 1) / 2)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=30))
@settings(deadline=None)
def test_the_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    said, true = (np.array(one) / 8 for one in zip(*pairs, strict=True))
    limit = np.quantile(true, 0.1)
    bad = true < limit if limit > true.min() else true == limit
    bad &= true < true.max()
    ordered = [(b < g) + 0.5 * (b == g) for b, g in product(said[bad], said[~bad])]
    found = Reliability.of(said, true)
    assert found.auroc == (pytest.approx(np.mean(ordered)) if ordered else None)
    if found.pearson is not None:
        assert found.pearson == pytest.approx(np.corrcoef(said, true)[0, 1])


def test_the_risk_falls_as_the_least_sure_pictures_are_left_out():
    found = Reliability.of([0.9, 0.5, 0.7, 0.8], [0.95, 0.2, 0.6, 0.85])
    assert found.risk == (
        (0.25, pytest.approx(0.05)),
        (0.5, pytest.approx(0.1)),
        (0.75, pytest.approx(0.2)),
        (1.0, pytest.approx(0.35)),
    )
    assert found.mean_error == pytest.approx((0.05 + 0.3 + 0.1 + 0.05) / 4)


def test_where_many_share_the_lowest_dice_they_are_the_ones_to_be_found():
    said, came = [0.1] * 6 + [0.9] * 43, [0.0] * 6 + [0.8] * 43
    assert Reliability.of(said, came).auroc == 1
    assert Reliability.of([1 - one for one in said], came).auroc == 0


def test_of_pictures_that_are_all_the_same_nothing_is_said():
    found = Reliability.of([0.5, 0.6], [0.7, 0.7])
    assert (found.pearson, found.auroc) == (None, None)
    assert Reliability.of([0.5], [0.7]).risk == ((1.0, pytest.approx(0.3)),)
