import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spermseg.cells.instances import label_cells
from spermseg.errors import ShapeError
from spermseg.evaluation.object_metrics import Detected, InstancePair, average_precision, match_centres

Picture = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Instances as found, their probability, and instances as annotated."""
seeds = st.integers(0, 49)


def scattered(seed: int, count: int = 12) -> np.ndarray:
    """Instances: squares here and there, some of which touch."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((60, 80), bool)
    for y, x in rng.integers(0, (54, 74), (count, 2)):
        side = rng.integers(2, 7)
        mask[y : y + side, x : x + side] = True
    return label_cells(mask)


def slow_average_precision(pictures: list[Picture], overlap: float) -> float:
    """By its definition: the surest first, each with the free annotated one of the largest IoU."""
    found = [
        (float(confidence[labels == number].mean()), place, number)
        for place, (labels, confidence, _) in enumerate(pictures)
        for number in range(1, labels.max() + 1)
    ]
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, place, number in sorted(found, reverse=True):
        mine, annotated = pictures[place][0] == number, pictures[place][2]
        best, which = overlap - 1e-12, 0
        for other in range(1, annotated.max() + 1):
            iou = (mine & (annotated == other)).sum() / (mine | (annotated == other)).sum()
            if (place, other) not in taken and iou >= best:
                best, which = iou, other
        if which:
            taken.add((place, which))
        hits.append(which > 0)
    tp, total = np.cumsum(hits), sum(annotated.max() for _, _, annotated in pictures)
    precision, recall = tp / np.arange(1, len(hits) + 1), tp / total
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.mean([best_from_here[place] if place < len(hits) else 0 for place in places]))


def picture(seed: int) -> Picture:
    """Instances of which some are moved, some are missed, and some are there by mistake."""
    annotated = scattered(seed)
    moved = label_cells(np.roll(annotated, 1, axis=seed % 2) > 0)
    found = label_cells(((moved > 0) & (moved % 4 != 1)) | (scattered(seed + 1000, count=3) > 0))
    confidence = np.random.default_rng(seed).random(found.shape, np.float32)
    return found, confidence, annotated


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_its_definition(seed):
    pictures = [picture(10 * seed + number) for number in range(4)]
    measured = average_precision([InstancePair.of(*one) for one in pictures])
    slow = [slow_average_precision(pictures, overlap) for overlap in np.linspace(0.5, 0.95, 10)]
    assert measured.at_50 == pytest.approx(slow[0], abs=1e-6)
    assert measured.mean == pytest.approx(np.mean(slow), abs=1e-6)
    assert 0.02 < measured.mean < measured.at_50 < 1


def test_average_precision_is_1_for_the_annotation_itself_0_for_nothing_and_none_where_nothing_is_annotated():
    labels, empty, sure = scattered(1), np.zeros((60, 80), np.int32), np.ones((60, 80), np.float32)
    assert average_precision([InstancePair.of(labels, sure, labels)]).mean == 1
    assert average_precision([InstancePair.of(empty, sure, labels)]).mean == 0
    assert average_precision([InstancePair.of(labels, sure, empty)]) is None


def test_more_than_a_hundred_instances_of_a_picture_count():
    labels = np.zeros((100, 100), np.int32)
    labels[::5, ::5] = np.arange(1, 401).reshape(20, 20)
    assert average_precision([InstancePair.of(labels, np.ones((100, 100), np.float32), labels)]).mean == 1


@given(seeds, seeds)
def test_each_head_is_found_once_and_every_other_one_is_missed_or_too_many(one, other):
    found, annotated = scattered(one), scattered(other)
    count = match_centres(found, annotated)
    assert count.tp + count.fp == found.max()
    assert count.tp + count.fn == annotated.max()
    centres = [np.rint(np.argwhere(found == number).mean(axis=0)).astype(int) for number in range(1, found.max() + 1)]
    assert count.tp == len({int(annotated[y, x]) for y, x in centres} - {0})


def test_two_centres_in_one_annotated_head_are_one_that_is_found_and_one_too_many():
    annotated, found = np.zeros((10, 20), np.int32), np.zeros((10, 20), np.int32)
    annotated[2:8, 2:18] = 1
    found[3:6, 3:6], found[3:6, 12:15] = 1, 2
    assert match_centres(found, annotated) == Detected(tp=1, fp=1, fn=0)


def test_precision_and_recall_of_nothing_are_1_where_nothing_is_there_and_else_0():
    assert (Detected().precision, Detected().recall) == (1, 1)
    assert (Detected(fn=2).precision, Detected(fn=2).recall) == (0, 0)
    assert Detected(tp=1, fp=1) + Detected(tp=2, fn=1) == Detected(tp=3, fp=1, fn=1)


def test_instances_of_different_shapes_are_refused():
    with pytest.raises(ShapeError, match="same shape"):
        match_centres(np.zeros((2, 2), np.int32), np.zeros((2, 3), np.int32))
