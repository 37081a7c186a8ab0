"""Which examples a step sees: a function of seed and epoch alone, whoever trains."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spermseg.cells.heads import LEAST_HEAD
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import FULL, UNKNOWN, covered, full_coverage
from spermseg.training.data.sampling import Sampler, WorkingExample, random_tile

TILE = 32


def example(value: int, shape=(TILE, TILE)) -> WorkingExample:
    return WorkingExample(
        pixels=np.full((*shape, 3), value, np.uint8), coverage=np.full((*shape, 1), value % 2, np.uint8)
    )


def sampler(count=5, rank=0, workers=1, **changes) -> Sampler:
    config = replace(TrainConfig(batch_size=4, expansion=1, augment="none", seed=7), **changes)
    examples = [example(i) for i in range(count)]
    return Sampler(examples=examples, tile=TILE, scale=0.5, config=config, rank=rank, workers=workers)


@given(
    count=st.integers(1, 30), expansion=st.integers(1, 6), batch=st.sampled_from([1, 2, 4, 8]), epoch=st.integers(0, 9)
)
def test_an_epoch_sees_each_picture_and_each_of_its_variants(count, expansion, batch, epoch):
    order = sampler(count, expansion=expansion, batch_size=batch, augment="paper").order(epoch)
    slots, times = np.unique(order, return_counts=True)
    assert slots.tolist() == list(range(count * expansion))
    assert times.sum() - len(slots) < batch  # only to fill the last batch
    assert order.shape[1] == batch


@given(workers=st.sampled_from([1, 2, 4]), epoch=st.integers(0, 5))
def test_the_shares_of_the_workers_together_are_the_global_batch(workers, epoch):
    whole = [pixels[:, 0, 0, 0] for pixels, _ in sampler(11).batches(epoch)]
    shares = [list(sampler(11, rank=rank, workers=workers).batches(epoch)) for rank in range(workers)]
    for step, batch in enumerate(whole):
        together = np.concatenate([shares[rank][step][0][:, 0, 0, 0] for rank in range(workers)])
        assert sorted(together) == sorted(batch)


def test_the_variant_of_a_slot_is_the_same_whichever_worker_draws_it():
    rng = np.random.default_rng(0)
    examples = [
        WorkingExample(
            pixels=rng.integers(0, 256, (48, 40, 3), dtype=np.uint8),
            coverage=rng.integers(0, 2, (48, 40, 1), dtype=np.uint8),
        )
        for _ in range(4)
    ]
    config = TrainConfig(batch_size=4, expansion=2, augment="clinic", superpose=0.5, seed=1)
    whole = Sampler(examples=examples, tile=TILE, scale=0.5, config=config)
    alone = [pixels for pixels, _ in whole.batches(2)]
    second = [pixels for pixels, _ in replace(whole, rank=1, workers=2).batches(2)]
    assert all(np.array_equal(mine[1::2], its) for mine, its in zip(alone, second, strict=True))


def test_epochs_and_seeds_have_orders_of_their_own_and_the_same_ones_come_back():
    assert np.array_equal(sampler(20).order(1), sampler(20).order(1))
    assert not np.array_equal(sampler(20).order(1), sampler(20).order(2))
    assert not np.array_equal(sampler(20).order(1), sampler(20, seed=8).order(1))


@given(height=st.integers(8, 80), width=st.integers(8, 80), seed=st.integers(0, 99))
def test_a_random_tile_is_a_square_of_the_picture_with_its_mask(height, width, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = WorkingExample(pixels=pixels, coverage=full_coverage(pixels[..., :1] > 127))
    tile, coverage = random_tile(whole, TILE, np.random.default_rng(seed))
    assert tile.shape == (TILE, TILE, 3)
    assert np.array_equal(coverage, full_coverage(tile[..., :1] > 127))


def test_every_corner_of_a_larger_picture_can_be_drawn():
    pixels = np.zeros((40, 40, 3), np.uint8)
    for value, (y, x) in enumerate([(0, 0), (0, 39), (39, 0), (39, 39)], start=1):
        pixels[y, x] = value
    whole = WorkingExample(pixels=pixels, coverage=np.zeros((40, 40, 1), np.uint8))
    seen = {int(v) for seed in range(300) for v in np.unique(random_tile(whole, TILE, np.random.default_rng(seed))[0])}
    assert seen == {0, 1, 2, 3, 4}


def test_of_the_places_that_are_tried_the_most_crowded_one_is_taken():
    coverage = full_coverage(np.random.default_rng(0).random((200, 200, 2)) < np.linspace(0, 1, 200)[:, None])
    coverage[:100] = UNKNOWN  # no cell
    whole = WorkingExample(pixels=np.zeros((200, 200, 3), np.uint8), coverage=coverage)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tried = [random_tile(whole, TILE, rng)[1] for _ in range(4)]
        _, chosen = random_tile(whole, TILE, np.random.default_rng(seed), places=4)
        assert covered(chosen).sum() == max(covered(one).sum() for one in tried)


def test_a_tile_that_cuts_the_head_off_a_cell_says_nothing_of_that_cell_where_this_is_asked_for():
    coverage = np.zeros((TILE, 2 * TILE, 2), np.uint8)
    coverage[12:20, 4:12] = FULL  # a head at the left, and a tail to the right end
    coverage[15:17, 12:, 0] = FULL
    whole = WorkingExample(pixels=np.zeros((*coverage.shape[:2], 3), np.uint8), coverage=coverage)
    config = TrainConfig(batch_size=16, expansion=16, augment="clinic")
    cut = Sampler(examples=[whole], tile=TILE, scale=0.25, config=config, classes=("cell", "head"))
    careful_one = replace(cut, config=replace(config, ignore_cut=True))
    plain, careful = (next(one.batches(0))[1] for one in (cut, careful_one))
    require_head = [(tile[..., 1] == FULL).sum() >= LEAST_HEAD * cut.scale**2 for tile in plain]
    assert 0 < sum(require_head) < 16
    for before, after, has_head in zip(plain, careful, require_head, strict=True):
        known = after != UNKNOWN
        assert np.array_equal(after[known], before[known])
        assert known.all() == has_head
        assert known[before == FULL].any() == has_head


def test_an_error_while_a_batch_is_made_reaches_the_training():
    broken = replace(sampler(3), examples=[None, None, None])
    with pytest.raises(AttributeError):
        list(broken.batches(0))
